"""The inverse autoregressive posterior: its density, its order, and what is stored of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stage1_vae.base_priors import StandardNormal
from stage1_vae.bottlenecks.iaf import IAF, InverseAutoregressive
from stage1_vae.latents import Draws, LatentDataset, LatentSpec
from stage1_vae.latents.spec import NUM_DRAWS, PARAMETERS
from stage1_vae.posteriors import DiagonalNormal
from stage1_vae.rate import rate_nats
from stage1_vae.vae import noise_seed, stored_params


def bent(dims: int = 3, batch: int = 2, num_flows: int = 2) -> InverseAutoregressive:
    """A posterior far from a Gaussian, in float64."""
    torch.manual_seed(0)
    bottleneck = IAF((6,), latent_dim=dims, num_flows=num_flows, hidden=(16, 16), context_dim=4).double()
    with torch.no_grad():
        for step in bottleneck.steps:
            for parameter in step.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
    posterior = bottleneck(torch.randn(batch, 6).double()).posterior
    assert isinstance(posterior, InverseAutoregressive)
    loc, log_std, context = (value.detach().double() for value in (posterior.loc, posterior.log_std, posterior.context))
    return InverseAutoregressive(loc, log_std, context, posterior.steps)


def test_the_density_of_a_draw_is_the_change_of_variables() -> None:
    q = bent()
    noise = torch.randn(2, 3).double()
    z, log_q = q._transform(noise)

    def of_first(eps: Tensor) -> Tensor:
        return q._transform(torch.stack([eps, noise[1]]))[0][0]

    jacobian = torch.autograd.functional.jacobian(of_first, noise[0])
    expected = StandardNormal((3,)).log_prob(noise[0]) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(log_q[0], expected)
    assert z.shape == (2, 3) and log_q.shape == (2,)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_the_density_of_any_z_is_that_of_the_draw(shape: tuple[int, ...]) -> None:
    q = bent()
    z = q.rsample(torch.Size(shape))
    kept = q.log_prob(z)
    assert kept.shape == (*shape, 2)
    torch.testing.assert_close(q.log_prob(z.clone()), kept, rtol=1e-8, atol=1e-8)
    other = q.rsample(torch.Size(shape))
    assert not torch.allclose(q.log_prob(other), kept)
    torch.testing.assert_close(q.log_prob(z), kept, rtol=1e-8, atol=1e-8)  # no longer the last


def test_it_integrates_to_one() -> None:
    q = bent(dims=2, batch=1)
    axis = torch.linspace(-25, 25, 801).double()
    grid = torch.cartesian_prod(axis, axis)[:, None]  # [n, 1, 2]
    with torch.no_grad():
        mass = q.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=2e-3)


def test_each_step_is_autoregressive_and_every_dimension_hears_the_context() -> None:
    q = bent(dims=4, batch=1)
    step = q.steps[0]
    z = torch.randn(1, 4).double()
    for output in (0, 1):
        jacobian = torch.autograd.functional.jacobian(lambda z, o=output: step(z, q.context)[o][0], z)[:, 0]
        assert (jacobian.triu() == 0).all() and (jacobian.tril(-1)[1:].abs().sum(1) > 0).all()
        heard = torch.autograd.functional.jacobian(lambda h, o=output: step(z, h)[o][0], q.context)[:, 0]
        assert (heard.abs().sum(1) > 0).all()


def test_a_new_one_is_nearly_gaussian_and_its_moments_are_those_of_its_draws() -> None:
    torch.manual_seed(1)
    q = IAF((6,), latent_dim=3, num_flows=1, hidden=(16,), context_dim=4)(torch.randn(2, 6)).posterior
    z = q.sample(torch.Size([20_000]))
    torch.testing.assert_close(z.mean(0), q.mean, rtol=0, atol=0.1)
    torch.testing.assert_close(z.var(0), q.variance, rtol=0.4, atol=0.01)
    share = 1 / (1 + math.exp(-2.0))  # of the gate at the start
    torch.testing.assert_close(q.variance.sqrt(), share * q.log_std.exp(), rtol=0.3, atol=0.0)
    assert torch.equal(q.mean, q.mean)


def test_the_gradient_of_the_rate_reaches_the_gaussian_and_the_context() -> None:
    q = bent()
    inputs = [value.requires_grad_() for value in (q.loc, q.log_std, q.context)]
    z = q.rsample()
    rate = rate_nats(q, StandardNormal((3,)), z)
    assert rate.shape == (2,)
    rate.sum().backward()
    assert all(value.grad is not None and (value.grad.abs().sum(1) > 0).all() for value in inputs)


def test_what_is_stored_are_draws_that_come_again(tmp_path: Path) -> None:
    q = bent(batch=200)
    state = torch.get_rng_state()
    params = stored_params(q, "draws", seed=3)
    assert tuple(params) == PARAMETERS["draws"] and len(params) == NUM_DRAWS
    assert torch.equal(torch.get_rng_state(), state)
    again, other = stored_params(q, "draws", seed=3), stored_params(q, "draws", seed=4)
    assert all(torch.equal(again[name], value) for name, value in params.items())
    assert not torch.equal(other["draw_0"], params["draw_0"])
    x = torch.rand(2, 1, 4, 4)
    assert noise_seed(x) == noise_seed(x.clone()) != noise_seed(x.flip(0))
    assert min(noise_seed(x), noise_seed(x.flip(0))) > 2**32, "seeds that people choose have other noise"

    latents = LatentDataset(LatentSpec((3,)), "draws", {name: value.float().numpy() for name, value in params.items()})
    assert not latents.has_density and not latents.is_point_mass and not latents.is_certain
    with pytest.raises(ValueError, match="aggregate of draws has no density"):
        latents.log_aggregate(torch.zeros(2, 3))
    latents.save(tmp_path)
    loaded = LatentDataset.load(tmp_path)
    posterior = loaded.posterior(torch.tensor([5, 7]))
    assert isinstance(posterior, Draws)
    points = torch.stack([params[name][[5, 7]].float() for name in params])
    torch.testing.assert_close(posterior.mean, points.mean(0))
    torch.testing.assert_close(posterior.variance, points.var(0))
    apart = loaded.in_points()
    rows = torch.tensor([5, 207, 5 + 15 * 200])
    assert len(apart) == 16 * 200 and apart.is_point_mass
    torch.testing.assert_close(apart.posterior(rows).mean, torch.stack([points[0, 0], points[1, 1], points[15, 0]]))
    torch.testing.assert_close(apart.posterior(slice(198, 202)).mean[2:], params["draw_1"][:2].float())
    assert apart.in_points() is apart
    drawn = posterior.sample(torch.Size([500]))
    found = (drawn[:, None] == points).all(-1)  # [500, S, 2]
    assert (found.sum(1) == 1).all() and found.any(0).all(), "each is one of its own image, and all of them come"
    assert posterior.sample().shape == (2, 3)
    with pytest.raises(NotImplementedError):
        posterior.log_prob(drawn)


def test_a_posterior_of_one_step_can_be_a_correlated_gaussian() -> None:
    """A linear step makes a full covariance of a diagonal one: what the family is for."""
    torch.manual_seed(0)
    bottleneck = IAF((1,), latent_dim=2, num_flows=1, hidden=(32,), context_dim=1)
    truth = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    optimizer = torch.optim.Adam(bottleneck.parameters(), lr=1e-2)
    features = torch.ones(256, 1)

    def kl(posterior: InverseAutoregressive | DiagonalNormal) -> Tensor:
        z = posterior.rsample()
        return (posterior.log_prob(z) - truth.log_prob(z)).mean()

    for _ in range(600):
        optimizer.zero_grad()
        kl(bottleneck(features).posterior).backward()
        optimizer.step()
    best_diagonal = -0.5 * math.log(1 - 0.9**2)  # KL of the best diagonal Gaussian, nats
    with torch.no_grad():
        found = torch.stack([kl(bottleneck(features).posterior) for _ in range(40)]).mean()
    assert best_diagonal > 0.8 and found < 0.1


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"latent_dim": 1}, "at least 2, or use vae=gaussian"),
        ({"latent_dim": 4, "num_flows": 0}, "num_flows=0"),
        ({"latent_dim": 4, "hidden": ()}, "at least one positive size"),
        ({"latent_dim": 4, "context_dim": 0}, "context_dim must be at least 1"),
    ],
)
def test_sizes_that_make_no_flow_are_refused(sizes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IAF((6,), **sizes)
