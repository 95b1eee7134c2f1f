"""Mixtures of power sphericals: known ones are found, EM never falls, densities are densities, samples are of them."""

import math

import pytest
import torch
from latent_values import on_sphere, sphere_modes
from safetensors.torch import load, save

from stage1_vae.latents import LatentDataset, LatentSpec, PowerSpherical, Support
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.sampling import Sampling
from stage2_prior.spaces.spherical_em import EMSettings, EMState, ascend, solve_concentration
from stage2_prior.spaces.spherical_mixture import SphericalMixture

RUN = FitRun(torch.device("cpu"), 0, lambda figures, step: None, lambda *_, **__: None)


def mixture(dims: int, num: int = 3, **keywords: float) -> SphericalMixture:
    return SphericalMixture(LatentSpec((dims,), Support.SPHERE), num, num_draws=20_000, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", (3, 8))
def test_a_known_mixture_is_found(dims: int) -> None:
    narrow = 1e5  # posteriors are nearly points, so that the truth is what their means were drawn from
    train, held_out = on_sphere(6000, dims, 1, narrow), on_sphere(4000, dims, 2, narrow)
    prior = mixture(dims, tol=1e-5, pseudo_counts=0.0)
    report = prior.fit(train, held_out, RUN)
    modes, log_concentrations = sphere_modes(dims)
    cosines = modes.double() @ prior.means.T
    nearest = cosines.argmax(1)
    assert sorted(nearest.tolist()) == [0, 1, 2] and cosines.amax(1).min() > 0.99
    torch.testing.assert_close(
        prior.log_weights.exp()[nearest].float(), torch.tensor([3.0, 2.0, 1.0]) / 6, atol=0.03, rtol=0
    )
    found = prior.log_concentrations[nearest].float()
    torch.testing.assert_close(found, log_concentrations, atol=0.2, rtol=0)
    z = held_out.draw(torch.arange(4000))
    each = torch.stack(
        [PowerSpherical(modes[k : k + 1], log_concentrations[k : k + 1]).log_prob(z[:, None])[:, 0] for k in range(3)],
        1,
    )
    truth = torch.logsumexp(each + (torch.tensor([3.0, 2.0, 1.0]) / 6).log(), 1)
    excess = truth - prior.log_prob(z)
    assert -0.01 < excess.mean().item() < 0.02
    assert report.val_nll_nats == pytest.approx(-prior.log_prob(z).mean().item(), abs=0.1)


@pytest.mark.parametrize("pseudo_counts", (0.0, 4.0))
def test_the_objective_never_falls(pseudo_counts: float) -> None:
    states: list[EMState] = []
    prior = mixture(5, 12)
    z, _ = prior._draws(on_sphere(2000, 5, 3, 50.0), RUN)
    start, guess = prior._start(z, torch.randint(12, (len(z),), generator=torch.Generator().manual_seed(0)))
    settings = EMSettings(guess, pseudo_counts, 0.1, 60, 0.0)
    ascend(z, EMState(start), settings, states.append)
    objective = torch.tensor(states[-1].objective, dtype=torch.float64)
    assert len(objective) > 10 and (objective.diff() > -1e-12).all()
    assert objective[-1] - objective[0] > 0.1


def test_concentrations_are_roots() -> None:
    for dims in (2, 5, 40):
        known = torch.tensor([1e-2, 1.0, 30.0, 1e4, 1e6], dtype=torch.float64)
        q = PowerSpherical(torch.eye(dims)[:1].double().expand(5, -1), known.log())
        a, b = q.shapes
        cost = torch.digamma(a + b) - torch.digamma(a)
        torch.testing.assert_close(solve_concentration(cost, dims), known.log(), atol=1e-5, rtol=0)


def test_the_density_is_one_on_the_sphere_and_draws_are_of_it() -> None:
    prior = mixture(3, 4)
    prior.fit(on_sphere(1500, 3, 1, 40.0), on_sphere(300, 3, 2, 40.0), RUN)
    height = 2 * (torch.arange(700).double() + 0.5) / 700 - 1
    angle = 2 * math.pi * (torch.arange(700).double() + 0.5) / 700
    heights, angles = (grid.flatten() for grid in torch.meshgrid(height, angle, indexing="ij"))
    radius = (1 - heights.square()).sqrt()
    points = torch.stack([radius * angles.cos(), radius * angles.sin(), heights], 1)
    log_prob, area = prior.log_prob(points), 4 * math.pi / len(points)
    assert log_prob.exp().sum().item() * area == pytest.approx(1, abs=1e-3)
    entropy = -(log_prob.exp() * log_prob).sum().item() * area
    torch.manual_seed(0)
    z = prior.sample(20_000)
    nll = -prior.log_prob(z).double()
    assert z.dtype == torch.float32 and (z.norm(dim=1) - 1).abs().max() < 1e-6
    assert nll.mean().item() == pytest.approx(entropy, abs=5 * nll.std().item() / math.sqrt(20_000) + 1e-3)
    torch.testing.assert_close(z.double().mean(0), (points * log_prob.exp()[:, None]).sum(0) * area, atol=0.02, rtol=0)


def test_temperature_truncation_state_and_seeds() -> None:
    train, val = on_sphere(800, 4, 1), on_sphere(200, 4, 2)
    prior, again, empty = mixture(4, 6), mixture(4, 6), mixture(4, 6)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    prior.fit(train, val, RUN)
    assert torch.equal(torch.get_rng_state(), before)
    again.fit(train, val, RUN)
    assert all(torch.equal(a, b) for a, b in zip(prior.state_dict().values(), again.state_dict().values(), strict=True))
    z = val.draw(torch.arange(200))
    empty.load_state_dict(load(save(prior.state_dict())))
    assert torch.equal(empty.log_prob(z), prior.log_prob(z))
    still = prior.sample(50, how=Sampling(temperature=0.0)).double() @ prior.means.T
    assert (still.amax(1) > 1 - 1e-6).all()
    cool, plain = prior.sample(4000, how=Sampling(temperature=0.5)), prior.sample(4000)
    assert prior.log_prob(cool).mean() > prior.log_prob(plain).mean() + 0.3
    kept = prior.sample(400, how=Sampling(truncation=0.25))
    assert prior.log_prob(kept).min() > prior.log_prob(plain).quantile(0.6)


def test_what_it_cannot_fit_is_refused() -> None:
    assert "these latents are real" in (SphericalMixture.check(LatentSpec((3,))) or "")
    assert "these latents are box" in (SphericalMixture.check(LatentSpec((3,), Support.BOX)) or "")
    with pytest.raises(PriorError, match="more than the 20 training images; lower it"):
        mixture(3, 30).fit(on_sphere(20, 3, 1), on_sphere(20, 3, 2), RUN)
    for wrong in ({"max_iter": 0}, {"tol": -1.0}, {"pseudo_counts": -1.0}):
        with pytest.raises(PriorError, match=r"prior\.\w+=.*: give"):
            mixture(3, 2, **wrong)
    broken = on_sphere(50, 3, 1)
    loc = broken.posterior(slice(None)).loc.clone()
    loc[7, 1] = math.nan
    params = {"loc": loc.numpy(), "log_concentration": broken.params["log_concentration"]}
    with pytest.raises(PriorError, match=r"loc of the training latents is not finite in 1 rows \(first: 7\)"):
        mixture(3, 2).fit(LatentDataset(broken.spec, "power_spherical", params), broken, RUN)
