"""Transitions leave a known density where it is, whatever the step size; bad trajectories are rejected."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from expost.evaluation.annealing.hmc import Path, transition
from expost.evaluation.errors import EvaluationError

CHAINS = 20_000


def wide(z: Tensor) -> Tensor:
    return Normal(0.0, 2.0).log_prob(z).sum(-1)


def narrow(z: Tensor) -> Tensor:
    return Normal(1.0, 0.5).log_prob(z).sum(-1)


def correlated() -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.0, 0.8], [0.8, 1.5]]).double())


@pytest.mark.parametrize("step_size", [0.2, 1.1])
def test_exact_samples_stay_exact_samples(step_size: float) -> None:
    torch.manual_seed(0)
    target = correlated()
    path = Path(wide, target.log_prob)
    point = path.at(target.sample((CHAINS, 1)))  # [n, B=1, 2]
    first = point.z
    scale = torch.tensor([[1.0, 1.3]]).double()
    rates = []
    for _ in range(10):
        moved = transition(path, point, 1.0, torch.tensor([step_size]), scale, 3)
        point = moved.point
        rates.append(moved.acceptance.mean().item())
    z = point.z[:, 0]
    tolerance = 5 / math.sqrt(CHAINS)
    assert (z.mean(0) - target.mean).abs().max() < tolerance * 1.3
    assert (z.T.cov() - target.covariance_matrix).abs().max() < 2 * tolerance
    moved_far = (z - first[:, 0]).square().mean()
    assert moved_far > 0.5 * 2 * target.variance.mean()  # independent draws would be two variances apart
    assert (min(rates) > 0.95) if step_size < 1 else (max(rates) < 0.9)  # so that rejection has something to do


def test_chains_from_elsewhere_reach_the_density_between_the_two_ends() -> None:
    """f^0.3 s^0.7 of two Gaussians is a Gaussian whose precisions add up."""
    torch.manual_seed(0)
    beta, dims = 0.3, 2
    path = Path(wide, narrow)
    point = path.at(torch.full((CHAINS, 3, dims), 4.0, dtype=torch.float64))
    for _ in range(30):
        point = transition(path, point, beta, torch.tensor([0.3, 0.5, 0.8]), torch.ones(3, dims).double(), 4).point
    precision = (1 - beta) / 4 + beta * 4
    mean, std = beta * 4 * 1.0 / precision, precision**-0.5
    spread = 5 * std / math.sqrt(CHAINS)
    assert (point.z.mean(0) - mean).abs().max() < spread
    assert (point.z.std(0) - std).abs().max() < spread


def test_what_is_kept_belongs_to_where_the_chain_is() -> None:
    torch.manual_seed(0)
    target = correlated()
    path = Path(wide, target.log_prob)
    point = path.at(target.sample((50, 4)))
    for _ in range(5):
        point = transition(path, point, 0.5, torch.full((4,), 1.5), torch.ones(4, 2).double(), 2).point
    again = path.at(point.z)
    for name in ("log_first", "log_last", "grad_first", "grad_last"):
        torch.testing.assert_close(getattr(point, name), getattr(again, name))
    torch.testing.assert_close(point.grad_last, (target.mean - point.z) @ target.precision_matrix)
    torch.testing.assert_close(point.gradient(0.25), 0.75 * point.grad_first + 0.25 * point.grad_last)


def test_diverging_trajectories_are_rejected_and_marked() -> None:
    torch.manual_seed(0)

    def refuses_numbers_that_are_none(z: Tensor) -> Tensor:
        assert torch.isfinite(z).all()
        return -0.5 * z.square().sum(-1)

    path = Path(refuses_numbers_that_are_none, refuses_numbers_that_are_none)
    point = path.at(torch.randn(100, 2, 3))
    moved = transition(path, point, 1.0, torch.tensor([1e30, 0.1]), torch.ones(2, 3), 5)
    assert moved.diverged[:, 0].all() and not moved.diverged[:, 1].any()
    assert torch.equal(moved.point.z[:, 0], point.z[:, 0]) and (moved.acceptance[:, 0] == 0).all()
    assert (moved.point.z[:, 1] != point.z[:, 1]).any(-1).float().mean() > 0.9


def test_a_region_without_a_density_is_never_entered() -> None:
    torch.manual_seed(0)

    def half(z: Tensor) -> Tensor:
        return torch.where(z > 0, -0.5 * z.square(), torch.nan).sum(-1)

    path = Path(lambda z: -0.5 * z.square().sum(-1), half)
    point = path.at(torch.randn(CHAINS, 1, 1).abs())
    for _ in range(10):
        point = transition(path, point, 1.0, torch.tensor([0.5]), torch.ones(1, 1), 3).point
    assert (point.z > 0).all()
    assert point.z.mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)  # of the half-normal


def test_a_density_without_a_gradient_is_refused() -> None:
    path = Path(wide, lambda z: wide(z.detach()))
    with pytest.raises(EvaluationError, match="not differentiable"):
        path.at(torch.zeros(2, 1, 3))
