"""Pictures: the pixels are where they belong; nothing global is left behind."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expost.evaluation import figures
from expost.evaluation.latents.axes import Plane


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_grid_places_each_image_and_enlarges_without_smoothing(tmp_path: Path) -> None:
    shades = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8])
    figures.save_pixels(figures.tile(shades.view(5, 1, 1, 1).expand(5, 1, 8, 4), 3), tmp_path / "grid.png")
    pixels = _read(tmp_path / "grid.png")
    height, width = 40, 20  # 8 x 4, enlarged five times
    assert pixels.shape == (2 * height + 2, 3 * width + 4, 3)
    for i, shade in enumerate(shades.tolist()):
        top, left = i // 3 * (height + 2), i % 3 * (width + 2)
        assert (pixels[top : top + height, left : left + width] == round(shade * 255)).all()
    assert (pixels[height + 2 :, 2 * (width + 2) :] == 255).all()  # the missing sixth is white


def test_grid_keeps_colour_and_clamps(tmp_path: Path) -> None:
    image = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    figures.save_pixels(figures.tile(image, 1), tmp_path / "grid.png")
    assert (_read(tmp_path / "grid.png") == [255, 0, 128]).all()


def test_grid_refuses_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="a picture needs images"):
        figures.tile(torch.zeros(0, 1, 8, 8), 3)
    with pytest.raises(ValueError, match="a picture needs images"):
        figures.tile(torch.zeros(2, 2, 8, 8), 3)


def test_the_nearest_training_image_stands_right_of_its_sample(tmp_path: Path) -> None:
    samples = torch.tensor([0.1, 0.3, 0.5]).view(3, 1, 1, 1).expand(3, 1, 40, 40)
    panels = [("a", figures.LEARNED, samples, samples + 0.1), ("b", figures.POSTERIOR, samples, samples + 0.2)]
    figures.nearest_neighbours(panels, tmp_path / "n.png", pairs=2)
    pixels = _read(tmp_path / "n.png")
    grey = [round(255 * shade) for shade in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    runs = []
    for row in (60, 60 + 44):  # through the first and the second line of pairs
        line = pixels[row, :, 0]
        runs.append([grey.index(v) + 1 for i, v in enumerate(line) if v in grey and line[i - 1] != v])
    assert runs == [[1, 2, 3, 4, 1, 3, 3, 5], [5, 6, 5, 7]]


def test_reconstructions_put_the_original_above(tmp_path: Path) -> None:
    originals, reconstructed = torch.full((5, 1, 40, 40), 0.2), torch.full((5, 1, 40, 40), 0.8)
    figures.reconstructions(originals, reconstructed, tmp_path / "r.png", columns=3)
    column = _read(tmp_path / "r.png")[:, 40, 0]  # through the first image of each band
    order = [int(v) for i, v in enumerate(column) if v in (51, 204) and column[i - 1] != v]
    assert order == [51, 204, 51, 204]


def test_samples_side_by_side_keep_their_sides(tmp_path: Path) -> None:
    baseline, learned = torch.full((9, 1, 28, 28), 0.25), torch.full((9, 1, 28, 28), 0.75)
    figures.samples_side_by_side(baseline, learned, tmp_path / "s.png", "a prior with a rather long name", columns=3)
    pixels = _read(tmp_path / "s.png")
    dark, light = (np.argwhere((pixels == round(v * 255)).all(2)) for v in (0.25, 0.75))
    assert len(dark) >= 9 * 56 * 56 and len(light) >= 9 * 56 * 56
    assert np.quantile(dark[:, 1], 0.99) < np.quantile(light[:, 1], 0.01)


def test_interpolations_are_rows(tmp_path: Path) -> None:
    decoded = torch.linspace(0.2, 0.8, 4).view(1, 4, 1, 1, 1).expand(2, 4, 3, 40, 40)
    figures.interpolations(decoded, tmp_path / "i.png")
    pixels = _read(tmp_path / "i.png")
    assert {tuple(p) for p in pixels[60, ::5]} >= {(v,) * 3 for v in (51, 102, 153, 204)}


def _share(pixels: np.ndarray, colour: str) -> float:
    target = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels - target).sum(2) < 60).mean())


@pytest.mark.parametrize("shape", [(16,), (1,), (2, 3, 3)])
def test_latent_scatter_shows_each_cloud_in_its_panel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    posterior, baseline, learned = (torch.randn(3000, *shape) for _ in range(3))
    figures.latent_scatter(posterior, baseline, learned, tmp_path / "z.png", "mixture")
    pixels = _read(tmp_path / "z.png")[60:]
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    assert _share(left, figures.BASELINE) > 5 * _share(right, figures.BASELINE)
    assert _share(right, figures.LEARNED) > 5 * _share(left, figures.LEARNED)
    assert _share(left, figures.POSTERIOR) > 0.0005 and _share(right, figures.POSTERIOR) > 0.0005
    assert (tmp_path / "z.png").stat().st_size < 400_000


def test_a_prior_that_diverged_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    z = torch.randn(500, 3)
    for broken in (z.index_fill(0, torch.tensor([7]), torch.nan), torch.full_like(z, torch.nan)):
        figures.latent_scatter(z, z, broken, tmp_path / "z.png", "mixture")
        assert (tmp_path / "z.png").stat().st_size > 1000


def test_scatter_axes_are_those_of_the_posterior() -> None:
    torch.manual_seed(0)
    z = torch.randn(4000, 5) * torch.tensor([0.1, 3.0, 0.2, 2.0, 0.3]) + 7
    plane = Plane.of(z)
    axes, shares = plane.axes, plane.shares
    torch.testing.assert_close(axes.abs()[:, [1, 3]].float(), torch.eye(2), atol=0.06, rtol=0)
    assert shares == pytest.approx((9 / 13.14, 4 / 13.14), abs=0.03)


def test_curves_draw_what_is_there_and_only_that(tmp_path: Path) -> None:
    stage1 = [{"epoch": e, "train_loss": 1 / (e + 1), "val_loss": float("nan")} for e in range(20)]
    stage2 = [{"step": s, "val_nll_nats": 1 / (s + 1)} for s in range(20)]
    figures.training_curves(stage1, stage2, tmp_path / "both.png")
    figures.training_curves(stage1, [], tmp_path / "one.png")
    assert _share(_read(tmp_path / "both.png"), figures.LEARNED) > 0.0005
    assert _share(_read(tmp_path / "one.png"), figures.LEARNED) == 0
    assert _share(_read(tmp_path / "one.png"), figures.POSTERIOR) == 0  # a loss that was never finite


def test_no_pyplot_state() -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    """A prior is called what the user calls its file."""
    z, images = torch.randn(20, 3), torch.rand(4, 1, 8, 8)
    figures.latent_scatter(z, z, z, tmp_path / "z.png", "$_$", "$^$")
    figures.nearest_neighbours([("$_$", figures.LEARNED, images, images)], tmp_path / "n.png", pairs=2)
    assert _read(tmp_path / "z.png").shape[1] > _read(tmp_path / "n.png").shape[1] > 100
