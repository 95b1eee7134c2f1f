"""One dimension at a time, against scipy-free closed forms."""

import math

import pytest
import torch

from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.marginals import units, wasserstein_1, wasserstein_1_floor


def test_units_are_active_collapsed_or_merely_constant() -> None:
    torch.manual_seed(0)
    n = 5000
    means = torch.stack([torch.randn(n), 0.01 * torch.randn(n), torch.zeros(n), 0.09 * torch.randn(n)], dim=1)
    stds = torch.tensor([0.3, 1.0, 0.2, 1.0]).expand(n, 4)
    found = units([(means, stds.log())])
    assert found.active.tolist() == [True, False, False, False]
    assert found.collapsed is not None
    assert found.collapsed.tolist() == [False, True, False, True]  # a constant with little noise has not collapsed
    assert found.mean_variance[0].item() == pytest.approx(1, abs=0.1)


def test_threshold_of_activity_is_a_hundredth() -> None:
    torch.manual_seed(0)
    means = torch.randn(20_000, 2)
    means = (means - means.mean(0)) / means.std(0) * torch.tensor([0.0999, 0.1001])
    assert units([(means, None)]).active.tolist() == [False, True]
    assert units([(means, None)]).collapsed is None


def test_maps_are_flattened() -> None:
    assert units([(torch.randn(10, 2, 3, 3), None)]).active.shape == (18,)
    assert wasserstein_1(torch.randn(10, 2, 3, 3), torch.randn(10, 2, 3, 3)).shape == (18,)


def test_wasserstein_of_a_shift_a_scale_and_a_hand_made_pair() -> None:
    torch.manual_seed(0)
    a = torch.randn(2000, 3)
    torch.testing.assert_close(
        wasserstein_1(a, a[torch.randperm(2000)] + 0.7), torch.full((3,), 0.7), rtol=0, atol=1e-5
    )
    hand = wasserstein_1(torch.tensor([[0.0], [4.0], [1.0]]), torch.tensor([[2.0], [0.0], [9.0]]))
    assert hand.item() == pytest.approx((0 + 1 + 5) / 3)
    wide = wasserstein_1(torch.randn(200_000, 1), 2 * torch.randn(200_000, 1)).item()
    assert wide == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)  # |2 - 1| E|N(0, 1)|


def test_floor_is_what_two_samples_of_one_density_are_apart() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2000, 40), torch.randn(2000, 40)
    apart, floor = wasserstein_1(a, b).mean(), wasserstein_1_floor(a, b).mean()
    assert floor.item() == pytest.approx(apart.item(), rel=0.2)
    assert wasserstein_1(a, b + 0.3).mean() > 5 * wasserstein_1_floor(a, b + 0.3).mean()


def test_no_dimension_is_both_active_and_collapsed() -> None:
    means = 0.11 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    found = units([(means, torch.zeros_like(means))])
    assert found.active.item() and not found.collapsed.item()


def test_too_little_is_refused() -> None:
    with pytest.raises(EvaluationError, match="two images"):
        units([(torch.zeros(1, 3), None)])
    with pytest.raises(EvaluationError, match="equally large"):
        wasserstein_1(torch.zeros(3, 1), torch.zeros(4, 1))
