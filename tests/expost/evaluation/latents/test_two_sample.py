"""Two-sample tests: even odds on one density, certainty on two, and a discrepancy equal to its definition."""

import math

import pytest
import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.two_sample import classifier_of_known, classifier_two_sample, maximum_mean_discrepancy


def peaks(num: int, images: Tensor) -> Tensor:
    return images[torch.arange(num) % len(images)] + 0.05 * torch.randn(num, images.shape[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_one_density_is_even_odds(seed: int) -> None:
    torch.manual_seed(seed)
    found = classifier_two_sample(torch.randn(10_000, 16), torch.randn(10_000, 16), seed)
    assert abs(found.percent - 50) < 2
    assert found.num_held_out == 6666
    assert found.standard_error_percent == pytest.approx(100 * math.sqrt(0.25 / 6666))


def test_draws_for_the_same_images_are_even_odds_too() -> None:
    torch.manual_seed(0)
    images = torch.randn(4000, 8)
    one, other = peaks(4000, images), peaks(4000, images)
    assert abs(classifier_two_sample(one, other).percent - 50) < 4
    sets = [(peaks(2000, images), peaks(2000, images)) for _ in range(3)]
    assert abs(classifier_of_known(*sets).percent - 50) < 4  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mean", "spread", "correlation", "two modes"])
def test_differences_are_found(kind: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3000, 4), torch.randn(3000, 4)
    if kind == "mean":
        b = b + 0.5  # |shift| = 1: at best Phi(1/2) = 69.1 %
        low, high = 65, 72.5
    elif kind == "spread":
        b, low, high = 3 * b, 80, 95
    elif kind == "correlation":
        b[:, 1] = 0.95 * b[:, 0] + math.sqrt(1 - 0.95**2) * b[:, 1]
        low, high = 74, 90
    else:
        b[:, 0] = 0.1 * b[:, 0] + torch.randn(3000).sign()  # mean 0, variance about 1: no moment of z tells
        low, high = 75, 95
    assert low < classifier_two_sample(a, b).percent < high


def test_best_possible_accuracy_is_not_exceeded() -> None:
    torch.manual_seed(0)
    found = classifier_two_sample(torch.randn(10_000, 4), torch.randn(10_000, 4) + 0.5)
    assert found.percent < 69.15 + 3 * found.standard_error_percent


def test_a_known_mixture_is_told_from_its_smooth_outline() -> None:
    """Many narrow peaks drawn from N(0, I): new peaks look like N(0, I), these very peaks do not."""
    torch.manual_seed(0)
    images = torch.randn(2000, 8)
    sets = [(torch.randn(2000, 8), peaks(2000, images)) for _ in range(3)]
    assert classifier_of_known(*sets).percent > 95  # type: ignore[arg-type]
    assert classifier_two_sample(torch.randn(2000, 8), images).percent < 56


def test_the_same_seed_gives_the_same_figure_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(500, 3), torch.randn(500, 3) + 0.3
    state = torch.random.get_rng_state()
    first, second = classifier_two_sample(a, b, 5), classifier_two_sample(a, b, 5)
    assert first == second and torch.equal(state, torch.random.get_rng_state())


def test_maps_and_unequal_sizes_are_taken() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(700, 4, 5, 5), 1.5 * torch.randn(500, 4, 5, 5)
    assert classifier_two_sample(a, b).percent > 95
    assert classifier_two_sample(a, b).num_held_out == 2 * (500 // 3)
    found = maximum_mean_discrepancy(a, b)
    assert found.num_samples == 500 and found.squared > 5 * found.standard_error


def by_definition(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Squared MMD and the median distance, in float64, pair by pair."""
    a, b = a.double(), b.double()
    median = torch.pdist(torch.cat([a, b])).median()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = (x[:, None] - y[None]).square().sum(-1) / median**2
        return torch.stack([torch.exp(-squared / (2 * s)) for s in (4, 2, 1, 0.5, 0.25)]).mean(0)

    n = len(a)
    off = 1 - torch.eye(n, dtype=torch.float64)
    h = kernel(a, a) + kernel(b, b) - kernel(a, b) - kernel(b, a)
    return ((h * off).sum() / (n * (n - 1))).item(), median.item()


def test_discrepancy_is_its_definition() -> None:
    torch.manual_seed(0)
    for shift in (0.0, 1.0):
        a, b = torch.randn(60, 5) + 100, torch.randn(60, 5) + 100 + shift
        found = maximum_mean_discrepancy(a, b)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        squared, median = by_definition(a[order], b[order])
        assert found.squared == pytest.approx(squared, abs=1e-5)
        assert found.median_distance == pytest.approx(median, rel=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_discrepancy_is_unbiased_and_knows_its_error(shift: float) -> None:
    torch.manual_seed(0)
    runs = [maximum_mean_discrepancy(torch.randn(200, 3), torch.randn(200, 3) + shift) for _ in range(150)]
    squared = torch.tensor([run.squared for run in runs])
    claimed = sum(run.standard_error for run in runs) / len(runs)
    assert squared.std().item() == pytest.approx(claimed, rel=0.25)
    if shift == 0:
        assert abs(squared.mean().item()) < 4 * claimed / math.sqrt(len(runs))
        assert (squared < 0).any()


def test_too_little_and_nan_are_refused() -> None:
    some = torch.randn(100, 2)
    for test in (classifier_two_sample, maximum_mean_discrepancy):
        with pytest.raises(EvaluationError, match="too few"):
            test(some, some[:49])
        with pytest.raises(EvaluationError, match="NaN"):
            test(some, some * torch.nan)
