"""Dimensions that never vary: nats of the others, and the constants beside them."""

import math

import pytest
import torch
from prior_cases import run_for

from expost.parts.priors import beside_constants
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.prior import Prior
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.standardize import Standardized
from stage2_prior.wrappers.varying import Varying


def latents(num: int, width: float = 1.0) -> LatentDataset:
    """Vectors of five numbers of which the second and the last never vary."""
    z = width * torch.randn(num, 5, generator=torch.Generator().manual_seed(num))
    z[:, 1], z[:, 4] = 7.5, -3.0
    return LatentDataset(LatentSpec((5,)), "delta", {"loc": z.numpy()})


@pytest.mark.parametrize("width", [1e-3, 1.0, 1e3])
def test_the_density_is_that_of_what_varies_in_the_units_of_z(width: float) -> None:
    train, val = latents(4000, width), latents(500, width)
    prior = Varying(Standardized(Gaussian(LatentSpec((3,)))), fixed=[1, 4])
    report = prior.fit(train, val, run_for(prior))
    entropy = 1.5 * math.log(2 * math.pi * math.e) + 3 * math.log(width)
    assert report.val_nll_nats == pytest.approx(entropy, abs=0.15)
    z = val.draw(torch.arange(500))
    torch.testing.assert_close(-prior.log_prob(z).mean().item(), report.val_nll_nats, atol=1e-3, rtol=1e-4)
    samples = prior.sample(1000)
    assert (samples[:, 1] == 7.5).all() and (samples[:, 4] == -3.0).all()
    assert prior.log_prob(samples).isfinite().all() and samples[:, 0].std().item() == pytest.approx(width, rel=0.1)
    z[0, 4] += 1e-3 * width
    assert prior.log_prob(z)[0] == -torch.inf and prior.log_prob(z)[1:].isfinite().all()


def test_constants_come_back_with_the_weights_and_the_baseline_knows_them_too() -> None:
    train = latents(50)
    first, second = (beside_constants(StandardNormal, train.spec, [1, 4]) for _ in range(2))
    first.fit(train, train, run_for(first))
    second.load_state_dict(first.state_dict())
    z = train.draw(torch.arange(5))
    expected = -0.5 * (z[:, [0, 2, 3]].square() + math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(second.log_prob(z), expected)
    assert not isinstance(beside_constants(StandardNormal, train.spec, []), Varying)


def test_channels_of_maps_that_never_vary_are_left_out_whole() -> None:
    spec = LatentSpec((3, 2, 2))
    z = torch.randn(40, 3, 2, 2)
    z[:, 2] = torch.arange(4.0).view(2, 2)
    train = LatentDataset(spec, "delta", {"loc": z.numpy()})
    prior: Prior = beside_constants(StandardNormal, spec, [2])
    prior.fit(train, train, run_for(prior))
    assert torch.equal(prior.sample(3)[:, 2], z[:3, 2]) and prior.log_prob(z).isfinite().all()


def test_places_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fixed=\[1, 9\] are no 2 different places of 5"):
        Varying(StandardNormal(LatentSpec((3,))), fixed=[1, 9])
