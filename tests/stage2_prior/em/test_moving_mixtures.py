"""Mixtures that gradients move: the same density before and after, and a way up that EM knows too."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stage1_vae.latents import DiagonalNormal, LatentSpec
from stage2_prior.em.gaussian import Components
from stage2_prior.flows.flow import Flow
from stage2_prior.prior import Prior
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.vamp_expost import VampExpost
from stage2_prior.wrappers.standardize import Standardized

SPEC = LatentSpec((3,))
COVARIANCES = ("full", "tied", "diagonal", "spherical")


class Encoder(nn.Module):
    """Images of 4 pixels -> posteriors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 6)

    def encode(self, x: Tensor) -> DiagonalNormal:
        loc, log_std = self.net(x.flatten(1)).chunk(2, 1)
        return DiagonalNormal(loc, log_std)


def posterior_of(encoder: Encoder, x: Tensor) -> DiagonalNormal:
    return encoder.encode(x)


def images(num: int) -> Tensor:
    return torch.rand(num, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def joined(prior: Prior) -> Prior:
    torch.manual_seed(0)
    prior.join(partial(posterior_of, Encoder()), images)
    return prior


def some_mixture(covariance: str) -> Mixture:
    """Components that are not where they began."""
    prior, rng = Mixture(SPEC, num_components=4, covariance=covariance), np.random.default_rng(0)
    scale = torch.from_numpy(rng.uniform(0.5, 1.5, size=tuple(prior.scale.shape)))
    prior.keep(
        Components(
            torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log(),
            torch.from_numpy(rng.normal(size=(4, 3))),
            scale.tril() if scale.ndim == 3 else scale,
        )
    )
    return prior


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_joining_and_settling_change_no_density(covariance: str) -> None:
    prior, z = some_mixture(covariance), torch.randn(50, 3)
    before = prior.log_prob(z)
    joined(prior)
    assert list(prior.parameters())
    torch.testing.assert_close(prior.log_prob(z), before, rtol=1e-4, atol=1e-4)
    prior.settle()
    assert not list(prior.parameters()), "what is kept are numbers"
    torch.testing.assert_close(prior.log_prob(z), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_gradient_finds_the_moments_of_what_it_sees(covariance: str) -> None:
    """From a point in the wrong place with the wrong width, to the Gaussian of maximum likelihood."""
    prior = joined(Mixture(SPEC, num_components=1, covariance=covariance))
    z = 0.5 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([1.0, -2.0, 0.0])
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        prior.loss(z).mean().backward()
        optimizer.step()
    prior.settle()
    torch.testing.assert_close(prior.means[0], z.double().mean(0), atol=0.02, rtol=0)
    scale = prior.scale[0] @ prior.scale[0].T if prior.scale.ndim == 3 else prior.scale[0].square().expand(3).diag()
    torch.testing.assert_close(scale, torch.cov(z.double().T), atol=0.03, rtol=0)


def test_components_that_have_seen_nothing_are_drawn_apart() -> None:
    prior = joined(Mixture(SPEC, num_components=5))
    prior.settle()
    assert len(prior.means.unique(dim=0)) == 5


def test_pseudo_inputs_follow_the_encoder_as_it_is() -> None:
    """Its weights are no part of the prior, and get a gradient through it; a copy of both has an encoder of its own."""
    encoder, prior = Encoder(), VampExpost(SPEC, num_components=3)
    prior.join(partial(posterior_of, encoder), images)
    assert {name.rpartition(".")[2] for name, _ in prior.named_parameters()} == {"pixels", "logits"}
    z = torch.randn(20, 3)
    before = prior.log_prob(z)
    before.sum().backward()
    assert encoder.net.weight.grad is not None and encoder.net.weight.grad.any()
    both = nn.ModuleList([encoder, prior])
    copied = copy.deepcopy(both)
    with torch.no_grad():
        encoder.net.bias.add_(1.0)
    assert not torch.equal(prior.log_prob(z), before)
    torch.testing.assert_close(copied[1].log_prob(z), before)
    prior.settle()
    with torch.no_grad():
        expected = encoder.encode(images(3))
    torch.testing.assert_close(prior.means.float(), expected.loc)
    torch.testing.assert_close(prior.scale.log().float(), expected.log_std)


def test_of_standardised_latents_the_pseudo_inputs_are_standardised_too() -> None:
    alone, wrapped = VampExpost(SPEC, num_components=3), Standardized(VampExpost(SPEC, num_components=3))
    with torch.no_grad():
        wrapped.shift.add_(2.0)
        wrapped.unit.mul_(3.0)
    z = torch.randn(20, 3)
    torch.testing.assert_close(joined(wrapped).log_prob(z), joined(alone).log_prob(z), rtol=1e-4, atol=1e-4)


def test_a_fitted_vamp_goes_on_from_its_components() -> None:
    prior = VampExpost(SPEC, num_components=3)
    prior.keep(Components(prior.log_weights, torch.eye(3).double(), torch.full((3, 3), 0.5).double()))
    z = torch.randn(20, 3)
    before = prior.log_prob(z)
    torch.testing.assert_close(joined(prior).log_prob(z), before, rtol=1e-4, atol=1e-4)


def test_a_flow_needs_nothing_to_join() -> None:
    flow, z = Flow(SPEC), torch.randn(20, 3)
    before = flow.log_prob(z)
    torch.testing.assert_close(joined(flow).log_prob(z), before)
    assert flow.learns_jointly
