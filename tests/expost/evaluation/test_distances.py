"""Distances between feature sets: against hand-computed cases, scipy and torchmetrics."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from expost.evaluation import distances as d
from expost.evaluation.errors import EvaluationError
from expost.evaluation.images import neighbours
from expost.evaluation.images.features import train_feature_net
from expost.evaluation.images.halves import Subsets
from expost.evaluation.images.neighbours import Balls, Shares, shares


def _draw(num: int, dims: int, seed: int, rank: int | None = None, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or dims, dims, generator=generator, dtype=torch.float64)
    return torch.randn(num, rank or dims, generator=generator, dtype=torch.float64) @ mix + shift


def _frechet_by_sqrtm(a: Tensor, b: Tensor) -> float:
    x, y = a.numpy(), b.numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root))


def test_frechet_of_two_known_normals() -> None:
    # Four points with mean 0 and variances 4/3 and 16/3 (n - 1 = 3), against the same doubled and moved by (3, 4).
    a = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])
    b = 2 * a + torch.tensor([3.0, 4.0])
    means, variances = 25.0, 4 / 3 + 16 / 3  # diagonal: sum of (2 s - s)^2
    assert d.frechet_distance(a, b) == pytest.approx(means + variances, rel=1e-12)


@pytest.mark.parametrize(("dims", "seed"), [(2, 0), (8, 1), (64, 2)])
def test_frechet_agrees_with_scipy(dims: int, seed: int) -> None:
    a, b = _draw(500, dims, seed), _draw(700, dims, seed + 10, shift=0.5)
    assert d.frechet_distance(a, b) == pytest.approx(_frechet_by_sqrtm(a, b), rel=1e-6)


def test_frechet_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = _draw(800, 16, 0), _draw(900, 16, 1, shift=0.2)
    oracle = _compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T)).item()
    assert d.frechet_distance(a, b) == pytest.approx(oracle, rel=1e-6)


def test_frechet_on_features_of_digits_agrees_with_scipy_and_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    source = load_digits()
    images = torch.from_numpy(source.images / 16).float()[:, None]
    net = train_feature_net(images[:600], torch.from_numpy(source.target[:600]), 10, 0, "cpu")
    real, fake = net.extract(images[:900]), net.extract(images[900:] * 0.9)
    alive = real.var(0) > 0  # units that never fire make the reference's covariances singular, and scipy's root inexact
    a, b = real[:, alive].double(), fake[:, alive].double()
    assert d.frechet_distance(a, b) == pytest.approx(_frechet_by_sqrtm(a, b), rel=1e-6)
    assert d.frechet_distance(real, fake) == pytest.approx(d.frechet_distance(a, b), rel=0.05)
    passed_through: Any = torch.nn.Identity()
    passed_through.num_features = a.shape[1]
    metric = FrechetInceptionDistance(passed_through)
    metric.set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert d.frechet_distance(a, b) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_frechet_survives_singular_covariances() -> None:
    a = _draw(300, 20, 0, rank=5)
    b = 3 * a + 1
    trace = torch.cov(a.T).trace().item()
    means = (a.mean(0) - b.mean(0)).square().sum().item()
    assert d.frechet_distance(a, b) == pytest.approx(means + 4 * trace, rel=1e-10)  # (3 - 1)^2 on each principal axis
    constant = torch.ones(100, 4)
    assert d.frechet_distance(constant, constant + 2) == pytest.approx(16.0)


def test_frechet_of_a_set_with_itself_is_zero_and_it_is_symmetric() -> None:
    a, b = _draw(500, 32, 0), _draw(400, 32, 1)
    assert d.frechet_distance(a, a[torch.randperm(500)]) < 1e-9 * a.square().sum(1).mean().item()
    assert d.frechet_distance(a, b) == pytest.approx(d.frechet_distance(b, a), rel=1e-10)


def _kernel_distance_by_loops(a: Tensor, b: Tensor) -> float:
    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    xx = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a[i], b[j]) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Of the whole sets."""
    whole = (Subsets.of(len(x), 0, x.device) for x in (a, b))
    return d.kernel_distances(a.double(), b.double(), *whole)[0].item()


def test_kernel_distance_equals_the_sum_over_pairs() -> None:
    a, b = _draw(13, 3, 0), _draw(9, 3, 1, shift=0.3)
    assert kernel_distance(a, b) == pytest.approx(_kernel_distance_by_loops(a, b), rel=1e-10)


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    a, b = _draw(300, 8, 0), _draw(300, 8, 1)
    assert kernel_distance(a, b) == pytest.approx(poly_mmd(a, b).item(), rel=1e-8)


def test_kernel_distance_by_moments_equals_by_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _draw(2100, 10, 0), _draw(1500, 10, 1, shift=0.1)  # more than one chunk
    by_moments = kernel_distance(a, b)
    monkeypatch.setattr(d, "MOMENT_DIMS", 0)
    assert by_moments == pytest.approx(kernel_distance(a, b), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    values = torch.tensor([kernel_distance(torch.randn(50, 4), torch.randn(50, 4)) for _ in range(400)])
    assert values.min() < 0 < values.max()
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))


def _shares(reference: Tensor, samples: Tensor, k: int) -> Shares:
    balls = [Balls.around(x.double(), Subsets.of(len(x)), k) for x in (reference, samples)]
    return shares(balls[0], balls[1])


def test_neighbours_on_a_line() -> None:
    # k = 1. Reference balls: radius 1 around 0, 1, 10, 11. Sample balls: radius 0.2 around 0.4 and 0.6, wide ones
    # around 10.5 and 30.
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    assert torch.equal(Balls.around(points, Subsets.of(4), 1).radius, torch.ones(1, 4, dtype=torch.float64))
    near = _shares(points, torch.tensor([[0.4], [0.6], [10.5], [30.0]]), 1)
    assert near.precision.item() == 3 / 4  # 30 is in no ball
    assert near.density.item() == 6 / 4  # the other three are in two balls each
    assert near.coverage.item() == 1.0
    # The ball of 10.5 has radius 9.9: it reaches 1, 10 and 11, but not 0; nor do the others.
    assert near.recall.item() == 3 / 4


def _shares_by_scikit_learn(a: np.ndarray, b: np.ndarray, k: int) -> list[float]:
    radius_a = NearestNeighbors(n_neighbors=k + 1).fit(a).kneighbors(a)[0][:, -1]
    radius_b = NearestNeighbors(n_neighbors=k + 1).fit(b).kneighbors(b)[0][:, -1]
    between = np.linalg.norm(a[:, None] - b[None], axis=2)
    inside = between <= radius_a[:, None]
    return [
        inside.any(0).mean(),
        (between <= radius_b[None]).any(1).mean(),
        inside.sum() / (k * len(b)),
        (between.min(1) <= radius_a).mean(),
    ]


def test_neighbours_agree_with_scikit_learn_on_the_whole_and_on_every_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PAIRS_AT_ONCE", 1000)  # several pieces, and several chunks
    a, b, k = _draw(1300, 6, 0), _draw(1100, 6, 1, shift=0.8), 5
    near = _shares(a, b, k)
    members = zip(Subsets.of(len(a)).members, Subsets.of(len(b)).members, strict=True)
    for half, (of_a, of_b) in enumerate(members):
        if half in (0, 1, 2, 17, 30):
            found = [values[half].item() for values in (near.precision, near.recall, near.density, near.coverage)]
            assert found == pytest.approx(_shares_by_scikit_learn(a[of_a].numpy(), b[of_b].numpy(), k), rel=1e-12)


def test_every_half_has_the_distances_of_its_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _draw(301, 7, 0), _draw(207, 7, 1, shift=0.3)
    sets = (a, b, Subsets.of(len(a)), Subsets.of(len(b)))
    frechet, kernel = d.frechet_distances(*sets), d.kernel_distances(*sets)
    monkeypatch.setattr(d, "MOMENT_DIMS", 0)
    torch.testing.assert_close(kernel, d.kernel_distances(*sets), rtol=1e-9, atol=1e-9)
    for half in (0, 1, 2, 29, 30):
        x, y = a[sets[2].members[half]], b[sets[3].members[half]]
        assert frechet[half].item() == pytest.approx(_frechet_by_sqrtm(x, y), rel=1e-6)
        assert kernel[half].item() == pytest.approx(kernel_distance(x, y), rel=1e-9)


def test_same_law_and_collapsed_samples_are_told_apart() -> None:
    reference = d.Reference.of(torch.randn(1000, 8))
    same = d.distances(reference, torch.randn(1000, 8))
    collapsed = d.distances(reference, torch.randn(1000, 8) * 0.05)
    assert same.num_samples == same.num_reference == 1000
    assert abs(same.density - 1) < 0.15 and same.recall > 0.8 and same.coverage > 0.9
    assert collapsed.precision > 0.9 and collapsed.recall < 0.05 and collapsed.coverage < 0.2
    assert collapsed.frechet_distance > 10 * same.frechet_distance
    assert collapsed.kernel_distance > 10 * abs(same.kernel_distance)


def test_too_few_or_broken_samples_are_refused_with_the_remedy() -> None:
    reference = d.Reference.of(torch.randn(128, 64))
    with pytest.raises(EvaluationError, match=r"127 samples .* at least 128 \(evaluation\.num_samples"):
        d.distances(reference, torch.randn(127, 64))
    with pytest.raises(EvaluationError, match="reference images"):
        d.Reference.of(torch.randn(100, 64))
    broken = torch.randn(128, 64)
    broken[3, 2] = math.nan
    with pytest.raises(EvaluationError, match="NaN"):
        d.distances(reference, broken)
    with pytest.raises(EvaluationError, match="5 nearest neighbours"):
        d.Reference.of(torch.randn(4, 2))


def test_features_of_real_images_that_do_not_vary_are_refused() -> None:
    constant = torch.full((200, 4), 0.3)
    with pytest.raises(EvaluationError, match="features of the reference images do not vary"):
        d.Reference.of(constant)
    rounded = 3e4 * (1 + torch.rand(200, 4) * torch.finfo(torch.float32).eps)
    with pytest.raises(EvaluationError, match="do not vary"):
        d.Reference.of(rounded)
    constant[:, 2] = torch.randn(200) * 1e-3  # one feature that sees something is enough
    reference = d.Reference.of(constant)
    assert d.distances(reference, torch.full((200, 4), 0.3)).frechet_distance > 0  # a generator that collapsed
