"""Normals cut to a box: against numerical integration and SciPy, against draws, and at the walls."""

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, truncnorm
from torch import Tensor

from stage1_vae.base_priors import UniformBox
from stage1_vae.bottlenecks.box import Box
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.rate import rate_nats, rate_per_dim_nats
from stage1_vae.spaces.box import TruncatedNormal

MODES = (-1.0, -0.999, -0.5, 0.0, 0.3, 1.0)
LOG_STDS = (-8.0, -4.0, -1.0, 0.0, 1.5, 3.0)


def posterior(mode: float, log_std: float, num: int = 1) -> TruncatedNormal:
    return TruncatedNormal(torch.full((num, 1), mode), torch.full((num, 1), log_std))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("log_std", LOG_STDS)
def test_rate_and_density_are_those_of_integration(mode: float, log_std: float) -> None:
    q = posterior(mode, log_std)
    mode, std = q.loc.item(), math.exp(q.log_std.item())
    known = truncnorm((-1 - mode) / std, (1 - mode) / std, mode, std)

    def cost(z: float) -> float:
        log_density = known.logpdf(z)
        return math.exp(log_density) * (log_density + math.log(2))

    low, high = max(-1.0, mode - 12 * std), min(1.0, mode + 12 * std)
    kl = quad(cost, low, mode, limit=200)[0] + quad(cost, mode, high, limit=200)[0]
    assert rate_nats(q, UniformBox(1), q.mean).item() == pytest.approx(kl, abs=2e-5)
    for z in (low, (low + 2 * mode) / 3, mode, high):
        z = min(1.0, max(-1.0, z))
        assert q.log_prob(torch.tensor([[z]], dtype=torch.float64)).item() == pytest.approx(known.logpdf(z), abs=1e-6)
    assert q.mean.item() == pytest.approx(known.mean(), abs=1e-5)
    assert q.variance.item() == pytest.approx(known.var(), rel=1e-4)
    torch.manual_seed(0)
    drawn = posterior(mode, log_std, 4000).sample().flatten().double()
    assert drawn.abs().max() < 1 and kstest(drawn.numpy(), known.cdf).pvalue > 1e-3


def test_draws_alike_share_their_noise() -> None:
    q = TruncatedNormal(torch.linspace(-1, 1, 12).view(4, 3), torch.linspace(-5, 2, 12).view(4, 3))
    torch.manual_seed(1)
    together = q.sample_alike(20)
    torch.manual_seed(1)
    torch.testing.assert_close(TruncatedNormal(q.loc[2:3], q.log_std[2:3]).sample_alike(20), together[:, 2:3])


def test_gradients_are_those_of_the_moments() -> None:
    loc = torch.tensor([[-1.0, -0.7, 0.0, 0.9, 1.0]]).double().requires_grad_()
    log_std = torch.tensor([[-3.0, -1.0, 0.5, -2.0, 2.0]]).double().requires_grad_()
    q = TruncatedNormal(loc, log_std)
    exact = torch.autograd.grad((q.variance + q.mean.square()).sum(), (loc, log_std))
    torch.manual_seed(0)
    estimates = []
    for _ in range(40):
        z = q.rsample(torch.Size([2000]))
        estimates.append(torch.autograd.grad(z.square().mean(0).sum(), (loc, log_std), retain_graph=True))
    for value, *draws in zip(exact, *estimates, strict=True):
        several = torch.stack(draws)
        assert ((several.mean(0) - value).abs() < 5 * several.std(0) / math.sqrt(40) + 1e-9).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("log_std", LOG_STDS)
def test_walls_have_values_and_gradients(mode: float, log_std: float) -> None:
    loc, width = torch.full((1, 2), mode, requires_grad=True), torch.full((1, 2), log_std, requires_grad=True)
    q = TruncatedNormal(loc, width)
    torch.manual_seed(0)
    z = q.rsample(torch.Size([500]))
    total = z.sum() + rate_per_dim_nats(q, UniformBox(2)).sum() + q.log_prob(torch.ones(1, 2)).clamp_min(-1e9).sum()
    gradients = torch.autograd.grad(total, (loc, width))
    assert torch.isfinite(total) and all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert q.log_prob(torch.tensor([[0.0, 1.01]])).item() == -math.inf
    outside, inside = UniformBox(2).log_prob(torch.tensor([[0.0, 1.01], [1.0, -1.0]])).tolist()
    assert outside == -math.inf and inside == pytest.approx(-2 * math.log(2))


def test_the_aggregate_is_the_mean_of_its_posteriors() -> None:
    generator = torch.Generator().manual_seed(0)
    loc = 2 * torch.rand(300, 3, generator=generator) - 1
    log_std = -3 + 3 * torch.rand(300, 3, generator=generator)
    params = {"loc": loc.numpy(), "log_std": log_std.numpy()}
    latents = LatentDataset(LatentSpec((3,), Support.BOX), "truncated_normal", params)
    z: Tensor = 2.2 * torch.rand(60, 3, generator=generator).double() - 1.1
    each = latents.posterior(slice(None)).log_prob(z[:, None])
    found = latents.log_aggregate(z, chunk=16)
    torch.testing.assert_close(found, each.logsumexp(1) - math.log(300), atol=1e-6, rtol=1e-6)
    assert torch.equal(found == -math.inf, (z.abs() > 1).any(1)) and (found == -math.inf).any()


def test_bounds_that_hold_no_entropy_are_refused() -> None:
    refused: tuple[dict[str, Any], ...] = (
        {"min_log_std": 2.0, "max_log_std": 1.0},
        {"max_log_std": 40.0},
        {"min_log_std": -90.0},
    )
    for bounds in refused:
        with pytest.raises(ValueError, match="out of what a box holds; give bounds from -12 to 6"):
            Box((4,), 3, **bounds)
