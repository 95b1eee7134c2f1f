"""Pictures of latents: they show the dimensions that fit worst, whatever the scale, and survive what is broken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expost.evaluation.figures import BASELINE, LEARNED
from expost.evaluation.latents.pictures import coloured, maps, marginals, name_of, scale_of, worst


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("shape", "scale"), [((1,), 1e-3), ((5,), 1e3), ((4, 3, 3), 1.0)])
def test_marginals_are_drawn_at_every_scale(shape: tuple[int, ...], scale: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    z = scale * (torch.randn(300, *shape) + 3)
    priors = {"N(0, I)": (torch.randn(300, *shape), BASELINE), "mixture $_$": (z.flip(0), LEARNED)}
    marginals(z, priors, shape, tmp_path / "marginals.png")
    assert len(np.unique(pixels(tmp_path / "marginals.png"))) > 30


def test_marginals_of_bits_of_constants_and_of_broken_draws(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bits = torch.randint(0, 2, (200, 6)).float()
    marginals(bits, {"uniform": (bits.flip(0), BASELINE)}, (6,), tmp_path / "bits.png")
    z = torch.randn(200, 3)
    z[:, 1] = 0.0
    broken = torch.full((200, 3), torch.nan)
    marginals(z, {"N(0, I)": (torch.randn(200, 3), BASELINE), "mixture": (broken, LEARNED)}, (3,), tmp_path / "b.png")
    assert (tmp_path / "bits.png").is_file() and (tmp_path / "b.png").is_file()


def test_the_dimensions_that_either_prior_fits_worst_are_shown() -> None:
    baseline, learned = torch.arange(20.0), torch.arange(20.0, 0, -1)
    assert set(worst([baseline, learned], 6)) == {19, 18, 17, 0, 1, 2}
    assert worst([baseline, baseline], 6) == [19, 18, 17, 16, 15, 14]
    assert worst([baseline[:3]], 6) == [2, 1, 0]


def test_a_place_of_a_map_is_named() -> None:
    assert (name_of(7, (16,)), name_of(7, (2, 2, 3))) == ("dimension 7", "channel 1 at 0, 1")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_maps_are_scaled_by_the_real_ones(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = 1e3 * torch.randn(60, channels, 4, 4)
    maps(real, torch.randn(60, channels, 4, 4), real.flip(0), tmp_path / "maps.png", "mixture", "N(0, I)")
    picture = coloured(real, *scale_of(real))
    assert picture.shape == (60, 1 if channels == 1 else 3, 4, 4)
    assert picture.min() == 0 and picture.max() == 1 and 0.4 < picture.median() < 0.6
    assert (tmp_path / "maps.png").is_file()
