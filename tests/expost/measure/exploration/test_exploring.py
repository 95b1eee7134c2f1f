"""What can be explored of two trained stages, and of latents alone: the right points, the right images, and notes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_model import TINY, job, stages_of
from PIL import Image
from torch import Tensor

from expost import pipeline
from expost.evaluation.errors import EvaluationError
from expost.evaluation.exploration.content import MOST_POINTS, POINTS, STEPS
from expost.evaluation.row_names import AGGREGATE
from expost.evaluation.sections import Dimensions
from expost.measure.exploration.points import explore_images, explore_latents, frame
from expost.measure.exploration.traversals import move, traverse, values_of
from expost.measure.image_sets import FeaturedSet
from expost.measure.latent_evaluation import latent_subject
from expost.measure.subject import ImageSubject, Subject, clean_images
from expost.parts.assembly import LatentParts
from stage1_vae.data.latents.data import LatentData, LatentStyle
from stage1_vae.latents import LatentDataset, LatentSpec, Support


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> ImageSubject:
    folder = tmp_path_factory.mktemp("stages")
    pipeline.perform(job(folder, "stage=prior", *TINY))
    return stages_of(folder, *TINY)[0]


def sets_of(subject: Subject, num: int) -> dict[str, FeaturedSet]:
    """Draws of both priors, as an evaluation has them."""
    priors = {"baseline": subject.baseline, "learned": subject.prior}
    return {row: FeaturedSet(torch.empty(0), torch.empty(0), subject.draw(p, num)) for row, p in priors.items()}


def cut_out(path: Path, columns: int, place: int, n: int, side: int) -> np.ndarray:
    top, left = n // columns * place, n % columns * place
    return np.asarray(Image.open(path))[top : top + side, left : left + side].astype(float) / 255


def test_points_of_a_run_and_their_images(subject: ImageSubject, tmp_path: Path) -> None:
    sets = sets_of(subject, 60)
    found = explore_images(subject, sets, "mixture", 100, None, tmp_path)
    assert [cloud.name for cloud in found.clouds] == ["q(z)", "N(0, I)", "mixture"]
    assert [len(cloud.x) for cloud in found.clouds] == [100, 60, 60]
    assert [cloud.first for cloud in found.clouds] == [0, 100, 160] and found.points.num == 220
    posterior = found.clouds[0]
    assert found.notes[0] == "100 of 359 images of the test split are shown, spread over it"
    assert posterior.rows[0] == 0 and posterior.rows[-1] == 358
    labels = subject.parts.data.test.labels
    assert posterior.labels == tuple(labels[list(posterior.rows)].tolist())
    images = torch.cat(list(clean_images(subject.parts, subject.parts.data.test)))
    decoded = torch.cat(list(subject.decode(sets["learned"].latents)))
    for n, image in ((99, images[358, 0]), (42, images[posterior.rows[42], 0]), (160 + 7, decoded[7, 0])):
        shown = cut_out(tmp_path / POINTS, found.points.columns, 8, n, 8)
        assert np.abs(shown - image.numpy()).mean() < 0.05, n


def test_a_prior_that_diverged_loses_its_points_and_not_those_of_others(subject: ImageSubject, tmp_path: Path) -> None:
    sets = sets_of(subject, 60)
    broken = sets["learned"].latents.clone()
    broken[5:25] = torch.nan
    sets["learned"] = replace(sets["learned"], latents=broken)
    found = explore_images(subject, sets, "mixture", 50, None, tmp_path)
    assert [len(cloud.x) for cloud in found.clouds] == [50, 60, 40]
    assert "mixture: 20 of 60 are not finite and have no place" in found.notes
    decoded = torch.cat(list(subject.decode(broken[[30]])))[0, 0]
    shown = cut_out(tmp_path / POINTS, found.points.columns, 8, 50 + 60 + 10, 8)  # 30 is the tenth that is left
    assert np.abs(shown - decoded.numpy()).mean() < 0.05


def test_the_baseline_alone_is_there_once(subject: ImageSubject, tmp_path: Path) -> None:
    found = explore_images(subject, sets_of(subject, 30), "standard_normal", 30, None, tmp_path)
    assert [cloud.name for cloud in found.clouds] == ["q(z)", "N(0, I)"]


def test_traversals_change_one_number_within_q(subject: ImageSubject, tmp_path: Path) -> None:
    traversals, decoded = traverse(subject, None, tmp_path)
    num_dims, num_steps = len(traversals.dims), len(traversals.dims[0].values)
    assert 1 <= num_dims <= 3 and num_steps == 11 and len(traversals.starts) == 4
    assert decoded.shape == (num_dims, num_steps, 1, 8, 8)
    assert traversals.steps.num == 4 * num_dims * num_steps and (tmp_path / STEPS).is_file()
    names = subject.parts.data.class_names
    label = int(subject.parts.data.test.labels[0])
    assert traversals.starts[0] == f"test image 0, class {names[label]}"
    z = subject.train.draw(torch.arange(len(subject.train)))
    for dim in traversals.dims:
        values = torch.tensor(dim.values)
        column = z[:, int(dim.name.removeprefix("dimension "))]
        assert (values.diff() > 0).all() and column.min() < values[0] and values[-1] < column.max()


def test_of_many_dimensions_the_most_active_are_shown(
    subject: ImageSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expost.measure.exploration.traversals.MOST_DIMS", 1)
    used = Dimensions(3, 2, 0, active=(True, False, True), mean_variance=(0.1, 0.9, 0.3))
    traversals, _ = traverse(subject, used, tmp_path)
    assert [dim.name for dim in traversals.dims] == ["dimension 2"]
    assert traversals.notes == ("1 of 2 active dimensions are shown: those whose posterior means vary most",)
    assert traverse(subject, replace(used, active=(False,) * 3), tmp_path) is None


def changed_numbers(start: Tensor, z: Tensor) -> list[int]:
    return (z != start).any(0).nonzero().flatten().tolist()


def test_bits_go_from_off_to_on_and_spheres_stay_spheres() -> None:
    bits = torch.tensor([0.0, 1.0, 1.0])
    values = values_of(torch.rand(50, 2).round(), Support.BITS)
    assert values.tolist() == [[0, 1], [0, 1]]
    z = move(bits, [2, 0], values, Support.BITS)
    assert z.shape == (2, 2, 3) and z[0, :, 2].tolist() == [0, 1] and changed_numbers(bits, z[1]) == [0]
    start = torch.nn.functional.normalize(torch.randn(5), dim=0)
    on_sphere = move(start, [3], torch.tensor([[-0.9, 0.0, 1.0]]), Support.SPHERE)
    torch.testing.assert_close(on_sphere.norm(dim=-1), torch.ones(1, 3))
    torch.testing.assert_close(on_sphere[0, :, 3], torch.tensor([-0.9, 0.0, 1.0]))
    maps = move(torch.zeros(2, 3, 3), [7], torch.tensor([[1.0, 2.0]]), Support.REAL)
    assert maps.shape == (1, 2, 2, 3, 3) and maps[0, 1, 0, 2, 1] == 2


def test_a_million_latents_are_thinned_and_it_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, labels = LatentSpec((2,), num_classes=2), torch.arange(1_000_000) % 2
    loc = torch.randn(1_000_000, 2) + 5 * labels[:, None]
    test = LatentDataset(spec, "delta", {"loc": loc.numpy()}, labels)
    few = test.take(torch.arange(500))
    data = LatentData(
        "mine", few, few, test, fingerprint="f", class_names=("a", "b"), style=LatentStyle("loc", "f4", (2,))
    )
    run = job(tmp_path, "data=latents", "prior=standard_normal")
    parts = LatentParts(data, spec, None, run.device)
    subject = replace(latent_subject(run, parts, None, [few, few, few]), test=test)
    vectors = {
        AGGREGATE: few.draw(torch.arange(500)),
        "reference": loc[:: 10**6 // 20_000],
        "baseline": torch.randn(3000, 2),
    }
    sets = {row: FeaturedSet(features, torch.empty(0)) for row, features in vectors.items()}
    found = explore_latents(subject, sets, "standard_normal")
    assert len(found.clouds[0].x) == MOST_POINTS and len(found.clouds[1].x) == 2000
    assert found.notes[0] == "10,000 of 1,000,000 latents of the test split are shown, spread over it"
    assert found.points is None and found.clouds[0].first is None
    found.save(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("exploration.json")) < 500_000


def test_where_no_latent_is_finite_there_is_nothing_to_explore(tmp_path: Path) -> None:
    sets = {AGGREGATE: FeaturedSet(torch.full((9, 2), torch.nan), torch.empty(0))}
    latents = LatentDataset(LatentSpec((2,)), "delta", {"loc": np.zeros((9, 2), "f4")})
    data = LatentData("mine", latents, latents, latents, fingerprint="f", style=LatentStyle("loc", "f4", (2,)))
    run = job(tmp_path, "data=latents", "prior=standard_normal")
    subject = latent_subject(run, LatentParts(data, data.spec, None, run.device), None, [latents] * 3)
    assert explore_latents(subject, sets, "standard_normal") is None


def test_the_frame_leaves_strays_outside_and_says_so() -> None:
    torch.manual_seed(0)
    points = torch.randn(9999, 2).double()
    low, high, notes = frame({"q(z)": torch.cat([points, torch.tensor([[1e30, 0.0]]).double()]), "mixture": points / 2})
    assert max(map(abs, low + high)) < 6
    assert notes[0].startswith("q(z): ") and "10,000 points lie beyond the frame" in notes[0]
    low, high, notes = frame({"one": torch.tensor([[3.0, 3.0]]).double()})
    assert low[0] < 3 < high[0] and low[1] < 3 < high[1] and notes == []
    with pytest.raises(EvaluationError, match="no latent is finite"):
        frame({"none": torch.empty(0, 2).double()})
