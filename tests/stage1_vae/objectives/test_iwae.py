"""The importance-weighted objective against a loop over its draws, and against the ELBO that it tightens."""

import math
from typing import Any

import pytest
import torch

from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.objectives.iwae import IWAE
from stage1_vae.vae import VAE


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    model = VAE((1, 5, 4), MLP((16,), "tanh"), lambda **k: Gaussian(latent_dim=3, **k), BernoulliLikelihood())
    with torch.no_grad():  # weights large enough that the draws of an image differ
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture
def x() -> torch.Tensor:
    return (torch.rand(7, 1, 5, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def test_it_is_the_bound_of_a_float64_loop(vae: VAE, x: torch.Tensor) -> None:
    torch.manual_seed(3)
    terms = IWAE(num_samples=6)(vae, x, 0)
    torch.manual_seed(3)
    posterior: Any = vae.encode(x).posterior
    z = posterior.rsample(torch.Size([6]))  # the same draws
    weights = torch.zeros(6, 7, dtype=torch.float64)
    for k in range(6):
        for i in range(7):
            p = torch.sigmoid(vae.decoder(z[k, i : i + 1]).double()).flatten()
            image, point = x[i].flatten().double(), z[k, i].double()
            log_likelihood = (image * p.log() + (1 - image) * (1 - p).log()).sum()
            log_prior = -0.5 * (point**2 + math.log(2 * math.pi)).sum()
            std = posterior.log_std[i].double().exp()
            scaled = (point - posterior.loc[i].double()) / std
            log_q = (-0.5 * (scaled**2 + math.log(2 * math.pi)) - std.log()).sum()
            weights[k, i] = log_likelihood + log_prior - log_q
    by_hand = -(weights.exp().mean(0).log()).mean()
    assert terms.loss.item() == pytest.approx(by_hand.item(), abs=1e-4)
    assert (terms.distortion + terms.rate).mean().item() == pytest.approx(-weights.mean().item(), abs=1e-4)
    assert terms.distortion.shape == terms.rate.shape == (7,)


def test_one_sample_is_the_elbo_and_more_only_tighten_it(vae: VAE, x: torch.Tensor) -> None:
    many = x.repeat(600, 1, 1, 1)
    with torch.no_grad():
        torch.manual_seed(0)
        one, five, fifty = (IWAE(num)(vae, many, 0).loss.item() for num in (1, 5, 50))
        elbo = ELBO()(vae, many, 0).loss.item()
    assert one == pytest.approx(elbo, abs=0.1)
    assert one > five + 0.05 > fifty + 0.05


def test_its_gradient_is_that_of_normalised_weights(vae: VAE, x: torch.Tensor) -> None:
    """Burda et al. 2016, eq. 14: sum_k w~_k grad log w_k, with the weights held fixed."""
    torch.manual_seed(5)
    (automatic,) = torch.autograd.grad(IWAE(4)(vae, x, 0).loss, [vae.bottleneck.linear.weight])  # type: ignore[arg-type]
    torch.manual_seed(5)
    posterior: Any = vae.encode(x).posterior
    z = posterior.rsample(torch.Size([4]))
    log_weight = torch.stack(
        [vae.decode(draw).log_prob(x) + vae.trained_against.log_prob(draw) - posterior.log_prob(draw) for draw in z]
    )
    by_hand = -(torch.softmax(log_weight, 0).detach() * log_weight).sum(0).mean()
    (expected,) = torch.autograd.grad(by_hand, [vae.bottleneck.linear.weight])  # type: ignore[arg-type]
    torch.testing.assert_close(automatic, expected, rtol=1e-4, atol=5e-6)  # float32: sums differ with the threads


def test_no_draws_and_unknown_activations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"vae.objective.num_samples must be at least 1"):
        IWAE(0)
    with pytest.raises(ValueError, match=r"net.activation=gelu: choices: relu, tanh"):
        MLP((4,), "gelu")  # type: ignore[arg-type]


def gradients(vae: VAE, x: torch.Tensor, objective: IWAE, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the bottleneck's biases and of the decoder's last ones, [draws, numbers]."""
    last = list(vae.decoder.parameters())[-1]
    biases = [parameter for name, parameter in vae.bottleneck.named_parameters() if name.endswith("bias")]
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        found.append(torch.autograd.grad(objective(vae, x, 0).loss, [*biases, last]))
    encoder, decoder = zip(*found, strict=True)
    return torch.stack(encoder), torch.stack(decoder)


def test_the_doubly_reparameterised_gradient_is_the_same_in_the_mean(vae: VAE, x: torch.Tensor) -> None:
    usual, doubly = (gradients(vae, x, IWAE(16, doubly_reparameterised=flag), 600) for flag in (False, True))
    error = ((usual[0].var(0) + doubly[0].var(0)) / 600).sqrt()
    assert ((usual[0].mean(0) - doubly[0].mean(0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(usual[1], doubly[1], rtol=1e-4, atol=1e-5)


def test_where_q_is_the_posterior_it_has_no_noise(vae: VAE, x: torch.Tensor) -> None:
    """A decoder that looks at no latent, and q(z|x) = N(0, I): all weights are equal, and nothing is left to learn."""
    with torch.no_grad():
        for parameter in (*vae.bottleneck.parameters(), next(vae.decoder.parameters())):
            parameter.zero_()
    usual, doubly = (gradients(vae, x, IWAE(4, doubly_reparameterised=flag), 20)[0] for flag in (False, True))
    assert float(doubly.abs().max()) < 1e-6 < float(usual.std())


def test_several_bounds_are_their_mean(vae: VAE, x: torch.Tensor) -> None:
    losses = []
    for objective in (IWAE(3, num_bounds=4), IWAE(12), IWAE(1, num_bounds=12)):
        torch.manual_seed(0)  # the same draws
        losses.append(objective(vae, x, 0))
    assert losses[1].loss < losses[0].loss < losses[2].loss
    assert losses[2].rate is not None
    torch.testing.assert_close(losses[2].loss, (losses[2].distortion + losses[2].rate).mean())
