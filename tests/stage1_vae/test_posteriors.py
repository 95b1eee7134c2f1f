"""Posteriors and their rate: against torch, and closed form against Monte Carlo."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from stage1_vae.base_priors import StandardNormal
from stage1_vae.posteriors import Bits, CategoricalCodes, Codes, Delta, DiagonalNormal, Unchecked
from stage1_vae.rate import CLOSED_FORM_KL, rate_nats, rate_per_dim_nats

EVENTS = [(5,), (2, 3, 4)]


def posterior(event: tuple[int, ...]) -> DiagonalNormal:
    generator = torch.Generator().manual_seed(0)
    loc = 2 * torch.randn(6, *event, generator=generator, dtype=torch.float64)
    return DiagonalNormal(loc, torch.randn(6, *event, generator=generator, dtype=torch.float64) - 1)


class Unregistered(StandardNormal):
    """N(0, I) once more, but of a class whose closed form nobody has registered."""


@pytest.mark.parametrize("event", EVENTS)
def test_log_prob_and_moments_equal_torch(event: tuple[int, ...]) -> None:
    q = posterior(event)
    expected = Independent(Normal(q.loc, q.log_std.exp()), len(event))
    assert q.batch_shape == (6,) and q.event_shape == event
    for z in (expected.sample(), expected.sample((7,))):
        found = q.log_prob(z)
        assert found.shape == z.shape[: z.ndim - len(event)]
        torch.testing.assert_close(found, expected.log_prob(z))
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.variance, expected.variance)


@pytest.mark.parametrize("event", EVENTS)
def test_rsample_has_the_moments_and_the_gradient(event: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q = posterior(event)
    assert q.rsample().shape == (6, *event)
    n = 20_000
    z = q.rsample(torch.Size((n,)))
    assert z.shape == (n, 6, *event) and z.dtype == torch.float64
    std = q.log_std.exp()
    assert ((z.mean(0) - q.loc).abs() < 5 * std / math.sqrt(n)).all()
    assert ((z.std(0) / std - 1).abs() < 5 / math.sqrt(2 * n)).all()

    loc, log_std = q.loc.clone().requires_grad_(), q.log_std.clone().requires_grad_()
    z = DiagonalNormal(loc, log_std).rsample()
    z.sum().backward()
    torch.testing.assert_close(loc.grad, torch.ones_like(loc))
    torch.testing.assert_close(log_std.grad, (z - loc).detach())  # dz / dlog_std = std * noise
    assert not DiagonalNormal(loc, log_std).sample().requires_grad


@pytest.mark.parametrize("event", EVENTS)
def test_closed_form_rate_equals_monte_carlo(event: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    q, prior = posterior(event), StandardNormal(event)
    exact = rate_nats(q, prior, q.rsample())
    assert exact.shape == (6,) and (exact > 0).all()
    z = q.sample(torch.Size((20_000,)))
    estimates = q.log_prob(z) - prior.log_prob(z)  # [20000, 6]
    error = estimates.std(0) / math.sqrt(len(z))
    assert ((estimates.mean(0) - exact).abs() < 4 * error).all()
    reference = torch.distributions.kl_divergence(Normal(q.loc, q.log_std.exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(rate_per_dim_nats(q, prior), reference)
    torch.testing.assert_close(exact, reference.flatten(1).sum(1))


def test_rate_of_the_prior_itself_is_zero() -> None:
    q = DiagonalNormal(torch.zeros(3, 4), torch.zeros(3, 4))
    torch.testing.assert_close(rate_nats(q, StandardNormal((4,)), q.sample()), torch.zeros(3))


@pytest.mark.parametrize("event", EVENTS)
def test_rate_without_a_closed_form_is_the_estimate_at_z(event: tuple[int, ...]) -> None:
    q, prior = posterior(event), Unregistered(event)
    assert (DiagonalNormal, Unregistered) not in CLOSED_FORM_KL
    assert rate_per_dim_nats(q, prior) is None
    z = q.sample()
    expected = (Normal(q.loc, q.log_std.exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).flatten(1).sum(1)
    torch.testing.assert_close(rate_nats(q, prior, z), expected)
    assert not torch.allclose(rate_nats(q, prior, z), rate_nats(q, prior, q.sample()))


@pytest.mark.parametrize("event", EVENTS)
def test_base_prior(event: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    prior = StandardNormal(event)
    z = prior.sample(20_000)
    assert z.shape == (20_000, *event)
    assert z.mean().abs() < 0.02 and (z.std() - 1).abs() < 0.02
    expected = Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.loss(z), -expected, rtol=1e-4, atol=1e-4)


def test_delta_is_a_point_without_a_density() -> None:
    loc: Tensor = torch.randn(4, 2, 3, 3, requires_grad=True)
    q = Delta(loc)
    assert q.batch_shape == (4,) and q.event_shape == (2, 3, 3)
    assert torch.equal(q.rsample(), loc) and torch.equal(q.mean, loc) and not q.variance.any()
    assert torch.equal(q.rsample(torch.Size((5,))), loc.expand(5, 4, 2, 3, 3))
    q.rsample().sum().backward()
    assert torch.equal(loc.grad, torch.ones_like(loc))
    with pytest.raises(NotImplementedError):
        q.log_prob(loc)


@pytest.mark.parametrize(
    "posterior",
    [
        DiagonalNormal(torch.zeros(3, 2), torch.zeros(3, 2)),
        Bits(torch.zeros(3, 5)),
        CategoricalCodes(torch.zeros(3, 4, 7)),
        Delta(torch.ones(3, 2)),
        Codes(torch.ones(3, 2, dtype=torch.int64)),
    ],
    ids=lambda posterior: type(posterior).__name__,
)
def test_draws_alike_are_of_the_family_and_share_their_noise(posterior: Unchecked) -> None:
    torch.manual_seed(0)
    z, usual = posterior.sample_alike(4000), posterior.sample([4000])
    assert z.shape == usual.shape and z.dtype == usual.dtype
    assert (z == z[:, :1]).all()  # equal posteriors, equal draws
    assert torch.allclose(z.double().mean(0), usual.double().mean(0), atol=0.15)
    assert torch.allclose(z.double().std(0), usual.double().std(0), atol=0.15)
