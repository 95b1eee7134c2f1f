"""Dimensions that never vary, or are functions of others: nats of the rest, and these beside them."""

import math

import pytest
import torch
from prior_cases import run_for

from expost.parts.priors import beside_constants
from stage1_vae.latents import LatentDataset, LatentSpec, dependent_columns
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


def planar(num: int, noise: float = 0.0, shift: float = 0.0) -> LatentDataset:
    """Vectors of five numbers: two that vary, a repeat, a constant, and a sum of the former two and a constant."""
    draws = torch.Generator().manual_seed(num)
    z = torch.randn(num, 5, generator=draws, dtype=torch.float64)
    z[:, 1] = z[:, 0] + noise * z[:, 1]
    z[:, 4] = 2 * z[:, 2] - z[:, 0] + 3 + noise * z[:, 4]
    z[:, 3] = 7.5
    return LatentDataset.of(z + shift)


def fitted(train: LatentDataset, inner: type[Prior] = Gaussian) -> Prior:
    dependent = dependent_columns(train)
    assert dependent == (1, 4)
    prior = beside_constants(inner, train.spec, [3], dependent)
    said = prior.fit(train, train, run_for(prior)).notes[0]
    assert said.startswith("1 of 5 dimensions never vary (3, counted from 0), and 2 of 5 dimensions are sums or ")
    assert "repeats of others (1, 4, counted from 0) to within " in said
    assert said.endswith("the other 2 numbers, and samples have the former as they are, the latter computed")
    return prior


@torch.no_grad()
def test_the_density_is_one_on_the_plane() -> None:
    prior = fitted(planar(500))
    axis = torch.linspace(-8, 8, 161)
    u = torch.cartesian_prod(axis, axis)
    z = torch.stack([u[:, 0], u[:, 0], u[:, 1], torch.full_like(u[:, 0], 7.5), 2 * u[:, 1] - u[:, 0] + 3], 1)
    mass = prior.log_prob(z).double().exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-4)
    assert prior.num_parameters == 5 + 3 + 2 * 2


@pytest.mark.parametrize(("noise", "shift"), [(0.0, 0.0), (1e-5, 0.0), (0.0, 1000.0)])
def test_samples_and_held_out_latents_are_on_the_plane_and_others_are_not(noise: float, shift: float) -> None:
    prior, val = fitted(planar(500, noise, shift)), planar(2000, noise, shift)
    z = val.draw(torch.arange(2000))
    assert prior.log_prob(z).isfinite().all(), "farther than any training latent, but not by much"
    samples = prior.sample(3000)
    assert prior.log_prob(samples).isfinite().all()
    torch.testing.assert_close(samples[:, 1], samples[:, 0], atol=1e-5, rtol=1e-6)
    u = samples.double() - shift
    torch.testing.assert_close(u[:, 4], 2 * u[:, 2] - u[:, 0] + 3, atol=1e-3 if shift else 1e-5, rtol=0)
    off = z[:5].clone()
    off[0, 1] += 0.01
    off[1, 4] -= 0.01
    off[2, 3] += 0.01
    off[3, 4] = torch.nan
    off[4] += 0.01 * torch.tensor([1, 1, 0, 0, -1])  # moved, and still on it
    assert (prior.log_prob(off) == -torch.inf).tolist() == [True, True, True, True, False]
    assert (prior.loss(off)[:4] == torch.inf).all()


def test_functions_come_back_with_the_weights() -> None:
    train = planar(500, 1e-5)
    first = fitted(train, StandardNormal)
    second = beside_constants(StandardNormal, train.spec, [3], [4, 1])
    second.load_state_dict(first.state_dict())
    z = train.draw(torch.arange(50))
    torch.testing.assert_close(second.log_prob(z), first.log_prob(z), rtol=0, atol=0)
    expected = -0.5 * (z[:, [0, 2]].square() + math.log(2 * math.pi)).sum(1)
    torch.testing.assert_close(second.log_prob(z), expected)
    alone = beside_constants(StandardNormal, train.spec, [3])
    assert set(alone.state_dict()) == {"constants"}, "as exports have it that know of no functions"


def test_dependent_places_that_are_none_are_refused() -> None:
    for dependent in ([3], [9], [2, 2]):
        with pytest.raises(ValueError, match=r"fixed=\[3\] and dependent=.* are no"):
            Varying(StandardNormal(LatentSpec((3,))), fixed=[3], dependent=dependent)
    with pytest.raises(ValueError, match="are of vectors of 1,024 at most"):
        Varying(StandardNormal(LatentSpec((3, 2, 2))), fixed=[], dependent=[1])
    with pytest.raises(ValueError, match="are of vectors of 1,024 at most"):
        Varying(StandardNormal(LatentSpec((1024,))), fixed=[], dependent=[1])


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_of_heavy_tails_held_out_latents_are_on_the_plane(seed: int) -> None:
    """Least squares leaves a billionth of a weight on columns without a part, and tails make a millionth of it."""
    torch.manual_seed(seed)
    z = torch.distributions.StudentT(1.5).sample((6000, 8))
    z[:, 7] = z[:, 0] + z[:, 1]
    train, rest = LatentDataset.of(z[:3000]), LatentDataset.of(z[3000:])
    prior = Varying(Gaussian(LatentSpec((7,))), fixed=[], dependent=dependent_columns(train))
    prior.fit(train, rest, run_for(prior))
    assert prior.log_prob(z[3000:]).isfinite().all()
    off = z[3000:].clone()
    off[:, 7] += 1e-3 * off.abs().amax(1)
    assert prior.log_prob(off).isneginf().all()
