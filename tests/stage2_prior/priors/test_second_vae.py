"""The second VAE: its bound against densities in closed form, its noise, its temperature, what it learns."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import SMALL, report_of, run_here
from prior_cases import run_for
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import PriorError
from stage2_prior.priors.second_vae import SecondVAE
from stage2_prior.sampling import Sampling

SLOPE = torch.tensor([2.0, 0.5, 1.0])
WIDTH = torch.tensor([0.3, 0.6, 1.5])
"""z_d = a_d u_d + g_d noise: z is N(0, a^2 + g^2), and q(u|z) is N(a z / (a^2 + g^2), g^2 / (a^2 + g^2))."""
TOTAL = SLOPE.square() + WIDTH.square()


@torch.no_grad()
def linear(gamma: str, too_wide: float = 1.0, num_samples: int = 8) -> SecondVAE:
    """A second VAE that knows all this, but for posteriors wider than they should be by a factor."""
    torch.manual_seed(0)
    prior = SecondVAE(LatentSpec((3,)), width=8, depth=1, gamma=gamma, num_samples=num_samples).eval()
    for net in (prior.encoder, prior.decoder):
        for parameter in (net.skip.weight, net.output.weight, net.output.bias):
            parameter.zero_()
    prior.encoder.skip.weight[:3] = torch.diag(SLOPE / TOTAL)
    prior.encoder.output.bias[3:] = bare(0.5 * (WIDTH.square() / TOTAL).log() + math.log(too_wide))
    prior.decoder.skip.weight[:3] = torch.diag(SLOPE)
    if prior.log_gamma is None:
        prior.decoder.output.bias[3:] = bare(WIDTH.log())
    else:
        prior.log_gamma.copy_(bare(WIDTH.log()))
    return prior.requires_grad_(False)


def bare(log_std: Tensor) -> Tensor:
    """What the smooth ceiling makes `log_std` of."""
    most = math.log(10.0)
    return most - (torch.exp(most - log_std) - 1).log()


def truth(z: Tensor) -> Tensor:
    return torch.distributions.Normal(torch.zeros(3), TOTAL.sqrt()).log_prob(z).sum(1)


@pytest.mark.parametrize("gamma", ["dimension", "network"])
def test_with_the_right_posterior_the_bound_is_the_density(gamma: str) -> None:
    prior, z = linear(gamma), 2 * torch.randn(50, 3)
    torch.testing.assert_close(prior.log_prob(z), truth(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(-prior.loss(z), truth(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(-prior.train().loss(z), truth(z), atol=1e-4, rtol=1e-4)
    torch.manual_seed(1)
    torch.testing.assert_close(prior.sample(40_000).var(0), TOTAL, rtol=0.05, atol=0)


def test_with_a_wrong_one_it_rises_with_the_samples_and_never_above() -> None:
    torch.manual_seed(0)
    prior = linear("dimension", too_wide=1.6)
    z = prior.sample(2000)
    # Each step is worth more than four times its noise: what is missing halves with twice the samples.
    means = [float(linear("dimension", 1.6, num).log_prob(z).mean()) for num in (4, 8, 16, 4096)]
    expected = float(truth(z).mean())
    assert means == sorted(means) and means[0] < expected - 0.03
    assert expected - 0.01 < means[-1] < expected + 0.002


def test_a_density_moves_no_generator_and_is_the_same_again() -> None:
    prior, z = linear("dimension", too_wide=1.6), torch.randn(5, 3)
    state = torch.get_rng_state()
    first = prior.log_prob(z)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(prior.log_prob(z), first)
    torch.testing.assert_close(prior.log_prob(z[[1, 1]])[1:], first[1:2])


def test_temperature_scales_all_noise() -> None:
    prior = linear("dimension")
    torch.manual_seed(1)
    z = prior.sample(40_000, how=Sampling(temperature=0.5))
    torch.testing.assert_close(z.var(0), 0.25 * TOTAL, rtol=0.05, atol=0)
    assert torch.equal(prior.sample(3, how=Sampling(temperature=0)), torch.zeros(3, 3))


def ring(num: int, seed: int) -> LatentDataset:
    """Points around a circle of radius 3, 0.4 wide."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(num, generator=generator)
    loc = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    return LatentDataset.of(loc, torch.full_like(loc, math.log(0.4)))


def test_it_learns_a_ring() -> None:
    """A Gaussian is 0.7 nats above the entropy of these."""
    torch.manual_seed(0)
    train, val = ring(4000, 0), ring(1000, 1)
    prior = SecondVAE(LatentSpec((2,)), width=64, depth=2, gamma="network", num_samples=16, num_train_samples=4)
    settings = {"max_epochs": 16, "precision": "32-true", "learning_rate": 0.003}
    prior.fit(train, val, replace(run_for(prior), settings=settings))
    torch.manual_seed(2)
    z = val.draw(torch.arange(1000))
    entropy = -float(train.log_aggregate(z.double()).mean())
    nll = -prior.log_prob(z).mean().item()
    assert entropy - 0.1 < nll < entropy + 0.3
    drawn, held_out = prior.sample(2000).norm(dim=1), z.norm(dim=1)
    assert abs(drawn.mean() - held_out.mean()) < 0.15 and drawn.std() < 1.5 * held_out.std()


def test_maps_are_flattened_up_to_a_size() -> None:
    assert SecondVAE(LatentSpec((2, 3, 3)), width=8).sample(4).shape == (4, 2, 3, 3)
    why = SecondVAE.check(LatentSpec((8, 32, 32)))
    assert why is not None and "up to 4096 numbers" in why
    with pytest.raises(PriorError, match="choose scalar, dimension or network"):
        SecondVAE(LatentSpec((2,)), gamma="none")
    with pytest.raises(PriorError, match=r"prior.num_samples=0"):
        SecondVAE(LatentSpec((2,)), num_samples=0)


def test_a_run_in_little(tmp_path: Path) -> None:
    words = [word for word in SMALL if "num_components" not in word]
    result = run_here(tmp_path, *words, "prior=second_vae", "prior.width=16", "prior.num_samples=4")
    assert result.code == 0, result.err
    assert report_of(tmp_path)
