"""Figures of sets that repeat themselves, against distances computed by differences in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, report_of, run_here
from torch import Tensor

from expost.evaluation.distances import SHARES, Reference, distances
from expost.evaluation.images.halves import Subsets
from expost.evaluation.images.neighbours import Balls, Distinct, shares
from expost.evaluation.images.squared import Targets

K = 5


def by_differences(a: Tensor, b: Tensor) -> list[float]:
    """Precision, recall, density and coverage of samples b against a, from whole matrices of distances."""

    def far(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")

    radius_a, radius_b = (far(x, x).kthvalue(K + 1, 1).values for x in (a, b))
    between = far(b, a)  # [M, N]
    inside = between <= radius_a
    found = (inside.any(1), (between <= radius_b[:, None]).any(0), inside.sum(1) / K, inside.any(0))
    return [values.double().mean().item() for values in found]


def drawn(num: int, dims: int, seed: int, share: float = 0.0, blank: Tensor | None = None) -> Tensor:
    """Normal vectors, `share` of them the one vector `blank`, in random order."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num, dims, generator=generator)
    if blank is not None:
        vectors[: round(share * num)] = blank
    return vectors[torch.randperm(num, generator=generator)]


def near_repeats(num: int, seed: int) -> Tensor:
    """Half of the vectors are one but for the rounding of float32."""
    vectors = drawn(num, 16, seed)
    vectors[::2] = 1 + 1e-7 * vectors[::2]
    return vectors


BLANK = torch.linspace(-0.3, 0.4, 64)
SETS = {
    "none": (drawn(503, 64, 0), drawn(431, 64, 1)),
    "a tenth": (drawn(503, 64, 0, 0.1, BLANK), drawn(431, 64, 1, 0.1, BLANK)),
    "half": (drawn(503, 64, 0, 0.5, BLANK), drawn(431, 64, 1, 0.5, BLANK)),
    "nearly all": (drawn(503, 16, 0, 0.98, BLANK[:16]), drawn(431, 16, 1, 0.98, BLANK[:16])),
    "all samples": (drawn(503, 64, 0, 0.5, BLANK), BLANK.expand(431, -1)),
    "all samples, no reference": (drawn(503, 64, 0), BLANK.expand(431, -1)),
    "seven sprites": (drawn(7, 16, 0)[torch.arange(503) % 7], drawn(7, 16, 0)[torch.arange(431) ** 2 % 7]),
    "copies of the reference": (drawn(503, 64, 0), drawn(503, 64, 0).flip(0)),
    "steps of a half": (drawn(503, 6, 0).mul(2).round() / 2, drawn(431, 6, 1).mul(2).round() / 2),
    "steps of a byte": (drawn(503, 64, 0).mul(9).round() / 255, drawn(431, 64, 1).mul(9).round() / 255),
    "on and off": ((drawn(503, 12, 0) > 0).float(), (drawn(431, 12, 1) > 0).float()),
    "far from the origin": (1000 + 0.01 * drawn(503, 64, 0), 1000 + 0.01 * drawn(431, 64, 1)),
    "nearly repeats": (near_repeats(503, 0), near_repeats(431, 1)),
}


@pytest.mark.parametrize("name", SETS)
def test_shares_are_those_of_differences_on_the_whole_and_on_halves(name: str) -> None:
    reference, samples = SETS[name]
    found = distances(Reference.of(reference, K), samples)
    halves = zip(Subsets.of(len(reference)).members, Subsets.of(len(samples)).members, strict=True)
    for half, (of_reference, of_samples) in enumerate(halves):
        if half in (0, 1, 30):
            values = [found.halves[figure][half].item() for figure in SHARES]
            assert values == pytest.approx(by_differences(reference[of_reference], samples[of_samples]), rel=1e-3), half
    assert [getattr(found, figure) for figure in SHARES] == [found.halves[figure][0].item() for figure in SHARES]


def test_repeats_are_counted() -> None:
    reference = Reference.of(SETS["half"][0], K)
    assert reference.num_repeats == 251 and distances(reference, SETS["half"][1]).num_repeats == 215
    assert distances(reference, SETS["all samples"][1]).num_repeats == 430
    assert Reference.of(SETS["none"][0], K).num_repeats == 0


def test_distinct_vectors_occur_as_often_as_each_subset_has_them() -> None:
    vectors = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.5]], dtype=torch.float64).repeat(32, 1)
    subsets = Subsets.of(128)
    distinct = Distinct.of(vectors, subsets)
    assert distinct.vectors.shape == (3, 2) and distinct.num_repeats == 125
    for vector, times in zip(distinct.vectors, distinct.times.T, strict=True):
        same = (vectors == vector).all(1)
        assert times.tolist() == [int(same[members].sum()) for members in subsets.members]


def test_bounds_from_below_are_below_and_tight() -> None:
    vectors = 300 + torch.randn(200, 30, dtype=torch.float64)
    vectors[:100] = vectors[100:] + 1e-9 * torch.randn(100, 30, dtype=torch.float64)
    targets = Targets(vectors)
    exact, below = targets.exactly(vectors), targets.from_below(vectors)
    assert (below <= exact).all() and (exact - below).max() < 1e-9
    index = torch.arange(200)
    torch.testing.assert_close(targets.of_pairs(vectors, index, index.flip(0)), exact[index, index.flip(0)])
    listed = torch.randint(200, (200, 3))
    torch.testing.assert_close(targets.of_listed(vectors, listed), exact.gather(1, listed))


def test_a_vector_alone_in_its_half_is_in_no_ball_of_the_other() -> None:
    """Radii belong to subsets: a vector has none where it is not."""
    vectors = torch.randn(200, 3, dtype=torch.float64)
    balls = Balls.around(vectors, Subsets.of(200), K)
    assert ((balls.radius < 0) == ~balls.subsets.members).all()
    assert shares(balls, balls).precision.tolist() == [1.0] * 31


def test_repeats_are_said_where_people_look(tmp_path: Path) -> None:
    """Half of the images are blank, and an odd number is left for the last pass of the net."""
    images = np.random.default_rng(3).integers(0, 255, (1503, 8, 8), dtype=np.uint8)
    images[::2] = 0
    np.savez(tmp_path / "half.npz", x=images, label=np.arange(1503) % 3)
    done = run_here(tmp_path, *SMALL, "data=arrays", f"data.root={tmp_path / 'half.npz'}")
    assert (done.code, done.err) == (0, "")
    report = report_of(tmp_path)
    num, repeats = report["num_samples"], report["num_repeats"]
    assert repeats.keys() == {"reference", *report["rows"]}
    assert 0.4 * num < repeats["reference"] < 0.6 * num and 0.4 * num < repeats["train_against_test"] < 0.6 * num
    said = f"{repeats['reference']:,} of {num:,} test images are repeats"
    assert any(note.startswith(said) for note in report["notes"]) and said in " ".join(done.out.split())
    assert said in (tmp_path / "runs/latest/report.html").read_text(encoding="utf-8")
