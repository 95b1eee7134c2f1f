"""Flow matching: its path, how noise and latents are paired, guidance, and what its held-out loss may depend on."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stage1_vae.latents import DiagonalNormal, LatentSpec
from stage2_prior.continuous import ContinuousPrior
from stage2_prior.fitting import PriorError
from stage2_prior.flows.diffusion import Diffusion
from stage2_prior.flows.flow_matching import FlowMatching, nearest
from stage2_prior.ode import log_normal
from stage2_prior.sampling import Sampling

BOTH = pytest.mark.parametrize("cls", [FlowMatching, Diffusion])


def rough(cls: Any, shape: tuple[int, ...] = (3,), **keywords: Any) -> ContinuousPrior:
    """Unfitted, with a last layer as large as training makes it."""
    torch.manual_seed(0)
    prior = cls(LatentSpec(shape, num_classes=3), width=32, depth=2, **keywords).eval()
    with torch.no_grad():
        prior.net.last.weight.mul_(30.0)
    return prior


@BOTH
def test_without_its_network_it_is_the_standard_normal(cls: Any) -> None:
    """The linear drift alone, and the noise that diffusion leaves: N(0, 1 / cos^2) in its units."""
    wide: dict[str, Any] = {"min_noise": 0.2} if cls is Diffusion else {}
    prior, z = rough(cls, **wide), 2.0 * torch.randn(200, 3)
    for parameter in prior.net.last.parameters():
        nn.init.zeros_(parameter)
    scale = prior._data_scale
    with torch.no_grad():
        found, drawn = prior.log_prob(z), prior.sample(20_000)
    torch.testing.assert_close(found, log_normal(scale * z) + 3 * math.log(scale), atol=2e-4, rtol=0)
    assert (drawn.std(0) - 1 / scale).abs().max() < 5 / math.sqrt(2 * 20_000) + 5e-3  # ten steps of Heun


@BOTH
def test_a_wider_base_is_that_of_draws_and_of_densities(cls: Any) -> None:
    """Draws of the wider one weigh as much under the other as its density says: E p_1(z) / p_s(z) = 1, z ~ p_s."""
    usual, wide = rough(cls), rough(cls, base_std=1.3)
    with torch.no_grad():
        z = wide.sample(8000)
        ratio = (usual.log_prob(z) - wide.log_prob(z)).exp()
    assert float(ratio.std()) > 0.2
    assert float(ratio.mean()) == pytest.approx(1.0, abs=4 * float(ratio.std()) / math.sqrt(len(z)))


@BOTH
def test_its_held_out_loss_is_a_function_of_the_latent(cls: Any) -> None:
    """The same each time and in any batch, and near the mean of many random ones; the generator stays as it was."""
    prior, z = rough(cls), torch.randn(4000, 3)
    state = torch.get_rng_state()
    with torch.no_grad():
        first, again, some = prior.loss(z), prior.loss(z), prior.loss(z[9:12])
        assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(some, first[9:12])
        drawn = torch.stack([prior.train().loss(z) for _ in range(20)]).mean(0)
    assert not torch.equal(torch.get_rng_state(), state)
    assert float(first.mean()) == pytest.approx(float(drawn.mean()), abs=5 * float((first - drawn).std()) / 60)


@BOTH
def test_temperature_scales_the_noise_and_guidance_the_drift(cls: Any) -> None:
    prior = rough(cls, conditional=True)
    prior.log_shares.fill_(-math.log(3))
    cold = prior.sample(4, torch.ones(4).long(), Sampling(temperature=0.0))
    assert torch.equal(cold, cold[:1].expand(4, 3))
    x, time, labels = torch.randn(5, 3), torch.tensor(0.4), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        given, without = (prior._drift(y)(x, time) for y in (labels, torch.full((5,), prior.no_class)))
        guided = prior._drift(labels, Sampling(guidance=1.5))(x, time)
    torch.testing.assert_close(guided, 2.5 * given - 1.5 * without)
    assert (given - without).abs().max() > 1e-3


def test_optimal_pairs_are_the_nearest_of_their_label() -> None:
    """Against all orders of six rows, of which those count that keep every label."""
    torch.manual_seed(0)
    for labels in (torch.zeros(6).long(), torch.tensor([0, 1, 0, 1, 1, 0])):
        noise, z = torch.randn(6, 2), torch.randn(6, 2)

        def total(order: Tensor, noise: Tensor = noise, z: Tensor = z) -> float:
            return float((noise[order] - z).square().sum())

        allowed = [
            order for order in map(torch.tensor, itertools.permutations(range(6))) if (labels[order] == labels).all()
        ]
        found = nearest(noise, z, labels)
        assert (labels[found] == labels).all() and total(found) == pytest.approx(min(map(total, allowed)))


def test_optimal_pairs_reach_the_loss() -> None:
    """A pair that is nearer has a shorter line: with a drift of zero the loss is the squared length of the lines."""
    z = torch.randn(256, 3)
    lengths = []
    for pairing in ("random", "optimal"):
        prior = rough(FlowMatching, pairing=pairing)
        prior.velocity = lambda x, time, labels: torch.zeros_like(x)  # type: ignore[method-assign]
        lengths.append(float(prior.loss(z).mean()))
    assert lengths[1] < 0.5 * lengths[0]
    torch.manual_seed(1)
    loss = prior.train().loss(z)
    torch.manual_seed(1)
    assert torch.equal(prior.loss_of_draws(z, None, DiagonalNormal(z, torch.full_like(z, -1.0))), loss)


def test_times_follow_their_density() -> None:
    levels = torch.tensor([0.1, 0.5, 0.9])
    assert torch.equal(rough(FlowMatching, time_density="uniform").times(levels), levels)
    normal = rough(FlowMatching, time_density="logit_normal", time_mean=1.0, time_std=2.0).times(levels)
    torch.testing.assert_close(normal.logit(), torch.distributions.Normal(1.0, 2.0).icdf(levels))
    assert float(rough(FlowMatching, time_std=4.0).times(torch.tensor(1 - 1e-6))) < 1.0


@pytest.mark.parametrize(
    ("cls", "shape", "wrong", "words"),
    [
        (FlowMatching, (3,), {"net": "unet"}, r"prior.net=unet: it is for maps, .* give mlp, or auto"),
        (FlowMatching, (3,), {"net": "dit"}, r"prior.net=dit"),
        (FlowMatching, (3,), {"depth": 0}, r"prior.depth=0: give at least 1"),
        (FlowMatching, (2, 4, 4), {"net": "dit", "width": 30}, r"prior.width=30: of dit, give a multiple of 4"),
        (FlowMatching, (3,), {"time_std": 0.0}, r"prior.time_std=0.0: give a number above 0"),
        (Diffusion, (3,), {"min_noise": 0.0}, r"prior.min_noise=0.0: give a number above 0"),
        (Diffusion, (3,), {"max_noise": 0.01}, r"prior.max_noise=0.01: give more than prior.min_noise=0.01"),
        (Diffusion, (3,), {"rho": -1.0}, r"prior.rho=-1.0"),
        (Diffusion, (3,), {"base_std": 0.0}, r"prior.base_std=0.0: give a number above 0"),
        (Diffusion, (3,), {"label_dropout": 1.0}, r"prior.label_dropout=1.0"),
    ],
)
def test_what_cannot_be_is_refused(cls: Any, shape: tuple[int, ...], wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        cls(LatentSpec(shape), **wrong)
