"""Steps, divergences and densities along an equation, against torchdiffeq and closed forms; the noise of rows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from stage2_prior.fitting import PriorError
from stage2_prior.nets.residual_mlp import ResidualMLP
from stage2_prior.ode import (
    Drift,
    HutchinsonTrace,
    Method,
    Solver,
    exact_trace,
    follow,
    follow_with_divergence,
    log_normal,
)
from stage2_prior.row_noise import RowNoise


def rough_drift(dims: int) -> Drift:
    """A network with weights as large as training makes them: its density is several nats from that of the noise."""
    torch.manual_seed(0)
    net = ResidualMLP(dims, 0, width=64, depth=2).double()
    with torch.no_grad():
        net.last.weight.mul_(60.0)
    return lambda x, time: net(x, time[None], None)


def with_tight_tolerance(drift: Drift, x: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    """x(end) and the integral of the divergence, by torchdiffeq's adaptive dopri5 on both at once."""

    def both(time: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        at = state[0].detach().requires_grad_()
        with torch.enable_grad():
            slope = drift(at, time)
            parts = [torch.autograd.grad(slope[:, d].sum(), at, retain_graph=True)[0][:, d] for d in range(x.shape[1])]
        return slope.detach(), torch.stack(parts).sum(0)

    times = torch.tensor([start, end], dtype=x.dtype)
    found = odeint(both, (x, x.new_zeros(len(x))), times, rtol=1e-8, atol=1e-9, method="dopri5")
    return found[0][-1], found[1][-1]


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("dims", [2, 5])
def test_densities_agree_with_an_adaptive_solver(dims: int, start: float, end: float) -> None:
    drift, x = rough_drift(dims), torch.randn(40, dims, dtype=torch.float64)
    with torch.no_grad():
        ended, divergence = follow_with_divergence(drift, x, start, end, 12, exact_trace)
        right, integral = with_tight_tolerance(drift, x, start, end)
    assert integral.abs().mean() > 0.2, "an equation that stretches nothing would prove nothing"
    torch.testing.assert_close(ended, right, atol=1e-3, rtol=0)
    found, expected = log_normal(ended) + divergence, log_normal(right) + integral
    assert (found - expected).abs().max() < 1e-3 * dims


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_each_method_has_its_order(method: Method, order: int) -> None:
    """Against the closed form of dx/dt = -x cos t: twice as many steps divide the error by 2^order."""

    def drift(x: Tensor, time: Tensor) -> Tensor:
        return -x * time.cos()

    x = torch.ones(1, 1, dtype=torch.float64)
    errors = [
        (follow(drift, x, torch.linspace(0, 2, num + 1, dtype=torch.float64), method) - math.exp(-math.sin(2.0))).abs()
        for num in (40, 80)
    ]
    assert math.log2((errors[0] / errors[1]).item()) == pytest.approx(order, abs=0.15)


def test_a_known_gaussian_comes_out_of_its_analytic_velocity() -> None:
    """The straight path from N(0, I) to N(m, diag s^2): v = m + (t s^2 - (1 - t)) / (t^2 s^2 + (1 - t)^2) (x - t m)."""
    mean, std = torch.tensor([1.0, -2.0, 0.3]).double(), torch.tensor([0.2, 1.0, 2.5]).double()

    def drift(x: Tensor, time: Tensor) -> Tensor:
        variance = time**2 * std**2 + (1 - time) ** 2
        return mean + (time * std**2 - (1 - time)) / variance * (x - time * mean)

    z = mean + std * torch.randn(100, 3, dtype=torch.float64)
    noise, divergence = follow_with_divergence(drift, z, 1.0, 0.0, 24, exact_trace)
    exact = torch.distributions.Normal(mean, std).log_prob(z).sum(1)
    torch.testing.assert_close(log_normal(noise) + divergence, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(noise, (z - mean) / std, atol=1e-4, rtol=0)
    times = torch.linspace(0, 1, 201, dtype=torch.float64)
    torch.testing.assert_close(follow(drift, noise, times, "heun"), z, atol=2e-3, rtol=0)


def test_the_exact_trace_is_that_of_the_jacobian() -> None:
    drift, x, time = rough_drift(4), torch.randn(6, 4, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    slope, divergence = exact_trace(drift, x, time, 0)
    torch.testing.assert_close(slope, drift(x, time))
    for row, found in zip(x, divergence, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda at: drift(at[None], time)[0], row)
        torch.testing.assert_close(found, jacobian.trace())


def test_hutchinson_agrees_within_its_error() -> None:
    """Its mean over latents within 4 standard errors; more directions, and other directions at each place, are nearer;
    each latent by itself, whatever stands around it."""
    drift, z = rough_drift(6), torch.randn(2000, 6)

    def divergence(trace: Any) -> Tensor:
        def single(x: Tensor, time: Tensor) -> Tensor:
            return drift(x.double(), time.double()).float()

        with torch.no_grad():
            return follow_with_divergence(single, z, 1.0, 0.0, 8, trace)[1]

    noise, exact = RowNoise(z), divergence(exact_trace)
    traces = {
        "one": HutchinsonTrace(noise, 1),
        "four": HutchinsonTrace(noise, 4),
        "frozen": HutchinsonTrace(noise, 1, frozen=True),
        "other": HutchinsonTrace(noise, 1, seed=1),
    }
    errors = {name: divergence(trace) - exact for name, trace in traces.items()}
    for error in errors.values():
        assert error.std() > 1e-3 and error.mean().abs() < 4 * error.std() / math.sqrt(len(z))
    assert float(errors["four"].std()) == pytest.approx(float(errors["one"].std()) / 2, rel=0.15)
    assert errors["one"].std() < 0.7 * errors["frozen"].std()
    assert not torch.equal(errors["one"], errors["other"])


def test_noise_of_a_row_is_its_own() -> None:
    torch.manual_seed(0)
    z, state = torch.randn(20_000, 3), torch.get_rng_state()
    noise = RowNoise(z)
    normal, uniform, signs = noise.normal(2), noise.uniform(2, first=6), noise.signs(2, first=8)
    assert torch.equal(torch.get_rng_state(), state)
    some = RowNoise(z[7:9])
    assert torch.equal(some.normal(2), normal[:, 7:9]) and torch.equal(some.signs(2, 8), signs[:, 7:9])
    rows = [drawn.permute(0, 2, 1).flatten(0, 1) for drawn in (normal, signs)]
    numbers = torch.cat([*rows, uniform]).double()
    close = 5 / math.sqrt(len(z))
    np.testing.assert_allclose(numbers[:12].mean(1), 0, atol=close)
    np.testing.assert_allclose(numbers[12:].mean(1), 0.5, atol=close)
    np.testing.assert_allclose(np.corrcoef(torch.cat([numbers, z.T])), np.eye(17), atol=close)
    levels = torch.cat([uniform, torch.special.ndtr(normal).flatten(0, 1).T.reshape(6, -1)]).sort(1).values
    assert (levels - (torch.arange(len(z)) + 0.5) / len(z)).abs().max() < 2 / math.sqrt(len(z)), "Kolmogorov's distance"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_steps": 0}, "prior.solver.num_steps=0: give 1 to 500"),
        ({"density_places": 501}, "prior.solver.density_places=501"),
        ({"probes": 0}, "prior.solver.probes=0"),
        ({"exact_dims": -1}, "prior.solver.exact_dims=-1: give 0 or more"),
        ({"tolerance": 0.0}, "prior.solver.tolerance=0.0: give a number above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Solver(**wrong)
