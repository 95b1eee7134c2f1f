"""A linear VAE's exact log p(x) and p(z|x), against torch and scikit-learn."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from expost.base.errors import UserError
from expost.questions.linear import LinearModel, principal_components
from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.likelihoods import BernoulliLikelihood, GaussianLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.posteriors import DiagonalNormal
from stage1_vae.vae import VAE

SHAPE = (1, 4, 5)


def linear_vae(hidden: tuple[int, ...] = (), scale: float = 0.4) -> VAE:
    torch.manual_seed(0)
    return VAE(SHAPE, MLP(hidden), lambda features_shape: Gaussian(features_shape, 3), GaussianLikelihood(scale))


def test_density_and_divergence_are_exact() -> None:
    vae, x = linear_vae(), torch.rand(7, *SHAPE)
    model = LinearModel.of(vae)
    assert model.sigma == pytest.approx(0.4)
    noise = torch.full((20,), 0.4**2).double()
    known = LowRankMultivariateNormal(model.offset, model.weights, noise)
    torch.testing.assert_close(model.log_prob(x), known.log_prob(x.double().flatten(1)))

    q = DiagonalNormal(torch.randn(7, 3), 0.3 * torch.randn(7, 3) - 1)
    precision = torch.eye(3).double() + model.weights.T @ model.weights / 0.4**2
    mean = (x.double().flatten(1) - model.offset) @ model.weights @ torch.linalg.inv(precision).T / 0.4**2
    exact = MultivariateNormal(mean, precision_matrix=precision)
    wrong = MultivariateNormal(q.loc.double(), torch.diag_embed((2 * q.log_std.double()).exp()))
    torch.testing.assert_close(model.kl_nats(q, x), kl_divergence(wrong, exact), rtol=1e-6, atol=1e-5)


def test_the_elbo_is_their_difference() -> None:
    """log p(x) - KL(q || p(z|x)) = E_q[log p(x|z) + log p(z) - log q(z)], by many draws."""
    vae, x = linear_vae(), torch.rand(5, *SHAPE)
    model = LinearModel.of(vae)
    with torch.no_grad():
        q = vae.encode(x).posterior
        assert isinstance(q, DiagonalNormal)
        z = q.rsample((20_000,))
        normal = torch.distributions.Normal(0.0, 1.0)
        value = torch.stack([vae.decode(z[:, i]).log_prob(x[i].expand(20_000, *SHAPE)) for i in range(5)], 1)
        elbo = (value + normal.log_prob(z).sum(-1) - q.log_prob(z)).double()
    error = elbo.std(0) / 20_000**0.5
    expected = model.log_prob(x) - model.kl_nats(q, x)
    assert ((elbo.mean(0) - expected).abs() < 5 * error).all()


def test_principal_components_are_those_of_scikit_learn() -> None:
    x = torch.randn(500, 3) @ torch.randn(3, 20) + 0.3 * torch.randn(500, 20)
    ours = principal_components(x.view(-1, *SHAPE), 3)
    theirs = PCA(3).fit(x.double().numpy()).score(x.double().numpy())
    # scikit-learn divides by N - 1
    assert ours.log_prob(x.view(-1, *SHAPE)).mean().item() == pytest.approx(theirs, abs=0.03)


def test_what_bends_is_refused() -> None:
    with pytest.raises(UserError, match="linear decoder"):
        LinearModel.of(linear_vae((8,)))
    vae = linear_vae()
    vae.likelihood = BernoulliLikelihood()
    with pytest.raises(UserError, match="normal with one scale"):
        LinearModel.of(vae)


def test_no_hidden_layer_is_a_linear_map() -> None:
    net = MLP([])
    encoder, decoder = net.encoder(SHAPE), net.decoder((3,), SHAPE)
    assert encoder.features_shape == (20,) and isinstance(decoder.output, nn.Linear)
    assert decoder(torch.zeros(2, 3)).shape == (2, *SHAPE)
    with pytest.raises(ValueError, match=r"net.hidden=\[0\]"):
        MLP([0])
