"""Moments of q(z) in the layers around it: the same model as without them, in coordinates of mean 0 and variance 1."""

import pytest
import torch
from torch import Tensor

from stage1_vae.bottlenecks.gaussian import AbsorbedGaussian, Gaussian
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.posteriors import DiagonalNormal
from stage1_vae.vae import VAE

D = 3


@pytest.fixture
def x() -> Tensor:
    return (torch.rand(256, 1, 5, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def vae_of(bottleneck: type[Gaussian]) -> VAE:
    torch.manual_seed(0)
    return VAE((1, 5, 4), MLP((16,), "tanh"), lambda **k: bottleneck(latent_dim=D, **k), BernoulliLikelihood())


def total_moments(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(z), [D] each, by the law of total variance."""
    posterior = vae.encode(x).posterior
    assert isinstance(posterior, DiagonalNormal)
    return posterior.loc.mean(0), posterior.variance.mean(0) + posterior.loc.var(0, unbiased=False)


def test_q_z_keeps_mean_0_and_variance_1_while_layers_move(x: Tensor) -> None:
    vae, objective = vae_of(AbsorbedGaussian), ELBO(beta=0.01)  # far from N(0, I), were nothing absorbed
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-2)
    for step in range(600):
        if step == 300:  # towards moments that stand
            optimiser.param_groups[0]["lr"] = 1e-4
        optimiser.zero_grad()
        objective(vae, x, step).loss.backward()
        optimiser.step()
    vae.eval()
    with torch.no_grad():
        mean, variance = total_moments(vae, x)
    torch.testing.assert_close(mean, torch.zeros(D), atol=0.03, rtol=0)
    torch.testing.assert_close(variance, torch.ones(D), atol=0.05, rtol=0)


def test_moments_are_two_linear_maps_of_the_layers_beside_them(x: Tensor) -> None:
    vae = vae_of(AbsorbedGaussian).eval()
    bottleneck = vae.bottleneck
    assert isinstance(bottleneck, AbsorbedGaussian)
    bottleneck.mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    bottleneck.variance.copy_(torch.tensor([4.0, 0.25, 1.0]))
    scale = bottleneck.variance.sqrt()
    folded = vae_of(Gaussian).eval()
    with torch.no_grad():
        last, first = folded.bottleneck.linear, folded.decoder.layers[0]
        assert isinstance(last, torch.nn.Linear) and isinstance(first, torch.nn.Linear)
        last.weight[:D] /= scale[:, None]
        last.bias[:D] = (last.bias[:D] - bottleneck.mean) / scale
        last.bias[D:] -= scale.log()
        first.bias.add_(first.weight @ bottleneck.mean)
        first.weight *= scale
        ours, theirs = vae.encode(x).posterior, folded.encode(x).posterior
        assert isinstance(ours, DiagonalNormal) and isinstance(theirs, DiagonalNormal)
        torch.testing.assert_close(ours.loc, theirs.loc)
        torch.testing.assert_close(ours.log_std, theirs.log_std)
        torch.testing.assert_close(vae.decode(ours.loc).mean, folded.decode(ours.loc).mean)


def test_a_decay_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"vae.bottleneck.decay=1: give a share"):
        AbsorbedGaussian((16,), latent_dim=D, decay=1)
