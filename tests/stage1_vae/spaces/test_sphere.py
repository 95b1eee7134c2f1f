"""Power spherical posteriors: against numerical integration, against draws, at the poles, and against the package."""

import math

import numpy as np
import pytest
import torch
from power_spherical import PowerSpherical as Packaged
from scipy.special import logsumexp
from scipy.stats import beta, kstest
from torch import Tensor

from stage1_vae.base_priors import UniformSphere
from stage1_vae.bottlenecks.hyperspherical import Hyperspherical
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.rate import rate_nats
from stage1_vae.spaces.sphere import LARGEST_CONCENTRATION, PowerSpherical, gamma_alike, log_area

DIMS = (2, 3, 4, 5, 10, 20, 40)
CONCENTRATIONS = (1.0, 3.0, 10.0, 1e2, 1e3, 1e4, 1e5)


def posterior(loc: Tensor, concentration: float | Tensor) -> PowerSpherical:
    return PowerSpherical(loc, torch.as_tensor(concentration, dtype=loc.dtype).log().expand(len(loc)))


def directions(num: int, dims: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(num, dims, generator=torch.Generator().manual_seed(seed)), dim=1)


def integrated(dims: int, concentration: float) -> tuple[float, float]:
    """KL to the uniform density, and log-density at the mean direction: integrals over the angle t, of (1 + cos t)^k
    and the area of the circle at t, by Gauss-Legendre on twenty pieces of what is not negligible."""
    reach = min(math.pi, 60 * math.sqrt((dims - 1) / concentration))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = np.concatenate([reach / 20 * (i + (nodes + 1) / 2) for i in range(20)])
    log_weight = np.log(np.tile(weights * reach / 40, 20))
    log_power = 2 * concentration * np.log(np.cos(t / 2).clip(1e-300))  # against its value at t = 0
    log_circle = (dims - 2) * np.log(np.sin(t)) + log_area(dims - 1)
    log_norm = logsumexp(log_power + log_circle + log_weight)
    share = np.exp(log_power + log_circle + log_weight - log_norm)
    return float((share * (log_power - log_norm)).sum() + log_area(dims)), float(-log_norm)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_rate_and_density_are_those_of_integration(dims: int, concentration: float) -> None:
    q = posterior(directions(1, dims), concentration)  # float32, as the bottleneck gives them
    rate = rate_nats(q, UniformSphere(dims), q.mean)
    kl, log_peak = integrated(dims, concentration)
    assert rate.item() == pytest.approx(kl, abs=1e-4)
    assert -q.entropy().item() == pytest.approx(kl - log_area(dims), abs=1e-4)
    assert q.log_prob(q.loc).item() == pytest.approx(log_peak, abs=1e-4)


@pytest.mark.parametrize("dims", (2, 3, 10, 40))
@pytest.mark.parametrize("concentration", (1.0, 30.0, 1e3, 1e5))
def test_rate_is_that_of_draws(dims: int, concentration: float) -> None:
    torch.manual_seed(1)
    q = posterior(directions(1, dims), concentration)
    z = q.sample(torch.Size([40_000]))
    log_ratio = (q.log_prob(z) - UniformSphere(dims).log_prob(z)).double()
    rate = rate_nats(q, UniformSphere(dims), z[0]).item()
    assert log_ratio.mean().item() == pytest.approx(rate, abs=5 * log_ratio.std().item() / 200)
    assert (z.norm(dim=-1) - 1).abs().max() < 3e-7
    # what no statistic of the density tells: where the draws are, in float32, of any dimension
    gap = (z.double() - q.direction).square().sum(-1).flatten() / 4  # (1 - cosine) / 2
    half = (dims - 1) / 2
    assert kstest(gap[::20].numpy(), beta(half, half + concentration).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dims", (2, 3, 8))
def test_moments_are_those_of_draws(dims: int) -> None:
    torch.manual_seed(2)
    q = posterior(directions(3, dims), torch.tensor([2.0, 20.0, 500.0]))
    z = q.sample(torch.Size([60_000]))
    torch.testing.assert_close(z.mean(0), q.mean, atol=0.015, rtol=0)
    torch.testing.assert_close(z.var(0), q.variance, atol=0.003, rtol=0.05)


@pytest.mark.parametrize("dims", (2, 3, 16))
@pytest.mark.parametrize("concentration", (1e-3, 1.0, 1e5, LARGEST_CONCENTRATION))
def test_poles_and_opposite_points_have_values_and_gradients(dims: int, concentration: float) -> None:
    pole = torch.eye(dims)[:1]
    for loc in (pole, -pole, torch.eye(dims)[-1:], 0 * pole):
        loc = loc.clone().requires_grad_()
        log_concentration = torch.tensor([math.log(concentration)], requires_grad=True)
        q = PowerSpherical(loc, log_concentration)
        torch.manual_seed(0)
        z = q.rsample(torch.Size([64]))
        total = z.sum() + rate_nats(q, UniformSphere(dims), z).sum() + q.log_prob(z).sum()
        total = total + q.log_prob(pole).sum() + q.log_prob(-pole).clamp_min(-1e6).sum()
        gradients = torch.autograd.grad(total, (loc, log_concentration))
        assert torch.isfinite(total) and all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(("dims", "concentration"), [(2, 5.0), (3, 5.0), (3, 200.0), (10, 40.0)])
def test_gradients_are_those_of_expectations(dims: int, concentration: float) -> None:
    """d/dm and d/dk of E[(g . z)^2], whose value is known from the moments of z."""
    torch.manual_seed(3)
    goal = directions(1, dims, seed=5)
    loc = directions(1, dims).clone().requires_grad_()
    log_concentration = torch.tensor([math.log(concentration)], requires_grad=True)

    def known() -> Tensor:
        b = (dims - 1) / 2
        a = log_concentration.double().exp() + b
        across = 4 * a * b / ((a + b) * (a + b + 1))  # 1 - E[(m . z)^2]
        cosine = (torch.nn.functional.normalize(loc.double(), dim=1) @ goal.double().T).squeeze()
        return ((1 - across) * cosine.square() + across / (dims - 1) * (1 - cosine.square())).sum()

    q = PowerSpherical(loc, log_concentration)
    exact = torch.autograd.grad(known(), (loc, log_concentration))
    estimates = []
    for _ in range(50):
        z = q.rsample(torch.Size([2000]))
        estimates.append(torch.autograd.grad((z @ goal.T).square().mean(), (loc, log_concentration), retain_graph=True))
    for name, value, *draws in zip(("m", "k"), exact, *estimates, strict=True):
        several = torch.stack(draws).flatten(1).double()
        error = several.std(0) / math.sqrt(len(several))
        assert ((several.mean(0) - value.flatten()).abs() < 5 * error + 1e-6).all(), name


@pytest.mark.parametrize("dims", (3, 10, 40))
@pytest.mark.parametrize("concentration", (1.0, 10.0, 100.0))
def test_the_package_agrees_where_it_is_precise(dims: int, concentration: float) -> None:
    """It adds 1e-7 within its logarithms and computes in the type of its arguments: float64, away from its poles."""
    loc = directions(4, dims).double()
    ours, theirs = posterior(loc, concentration), Packaged(loc, torch.full((4,), concentration, dtype=torch.float64))
    torch.manual_seed(4)
    z = ours.sample(torch.Size([100]))
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.entropy(), theirs.entropy(), atol=1e-8, rtol=1e-10)


def test_draws_alike_share_their_noise_and_are_of_the_distribution() -> None:
    torch.manual_seed(5)
    q = posterior(directions(6, 4), torch.tensor([0.01, 1.0, 8.0, 50.0, 1e3, 1e5]))
    z = q.sample_alike(20_000)
    for row, concentration in enumerate(q.concentration.tolist()):
        gap = (z[:, row].double() - q.direction[row]).square().sum(-1) / 4
        assert kstest(gap[::10].numpy(), beta(1.5, 1.5 + concentration).cdf).pvalue > 1e-3
    torch.manual_seed(6)
    together = q.sample_alike(10)
    torch.manual_seed(6)
    alone = PowerSpherical(q.loc[3:4], q.log_concentration[3:4]).sample_alike(10)
    torch.testing.assert_close(together[:, 3:4], alone)
    torch.manual_seed(7)
    shape = torch.tensor([0.5, 3.0, 1e5], dtype=torch.float64)
    drawn = gamma_alike(shape, 40_000)
    torch.testing.assert_close(drawn.mean(0), shape, rtol=0.03, atol=0)
    torch.testing.assert_close(drawn.var(0), shape, rtol=0.08, atol=0)


def test_the_aggregate_is_the_mean_of_its_posteriors() -> None:
    num, dims = 700, 5
    loc, concentration = directions(num, dims), 10 ** torch.linspace(-1, 5, num)
    params = {"loc": loc.numpy(), "log_concentration": concentration.log().numpy()}
    latents = LatentDataset(LatentSpec((dims,), Support.SPHERE), "power_spherical", params)
    torch.manual_seed(0)
    z = torch.cat([latents.draw(torch.arange(0, num, 10)), directions(30, dims, seed=9)])
    each = latents.posterior(slice(None)).log_prob(z.double()[:, None])  # [n, N]
    expected = each.logsumexp(1) - math.log(num)
    torch.testing.assert_close(latents.log_aggregate(z.double(), chunk=32), expected, atol=1e-4, rtol=1e-6)


def test_what_float32_does_not_hold_is_refused() -> None:
    for wrong in (1e9, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"max_concentration=.* is out of what float32 holds: give a number"):
            Hyperspherical((4,), 3, max_concentration=wrong)
    with pytest.raises(ValueError, match="at least 2 on a sphere"):
        Hyperspherical((4,), 1)


def test_concentrations_bend_below_their_ceiling() -> None:
    bottleneck = Hyperspherical((3,), 4, max_concentration=1e3)
    features = torch.randn(8, 3)
    for push in (0.0, 5.0, 60.0, -60.0):
        with torch.no_grad():
            bottleneck.linear.bias[-1] = push
        encoding = bottleneck(features)
        q = encoding.posterior
        assert isinstance(q, PowerSpherical)
        assert (q.concentration <= 1e3 * (1 + 1e-6)).all() and (q.concentration > 0).all()
        (gradient,) = torch.autograd.grad(q.rsample().square()[:, 0].sum(), bottleneck.linear.weight)
        assert gradient.isfinite().all()
