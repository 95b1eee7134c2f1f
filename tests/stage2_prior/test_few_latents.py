"""A hundred fits to a few latents of any shape: a finite density that integrates to one, and notes that are true."""

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor
from without_lightning import RUN

from expost import fit_prior
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.prior import Prior
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.kde import Kernels
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.defensive import Defensive
from stage2_prior.wrappers.whiten import Whitened

NUM_FITS = 100


def latents(rng: np.random.Generator, num: int, dims: int) -> Tensor:
    """[num, dims], of one of five kinds."""
    noise = rng.normal(size=(num, dims))
    kinds = [
        noise,
        rng.normal(size=(num, 2)) @ rng.normal(size=(2, dims)) + 0.1 * noise,
        3 * rng.normal(size=(3, dims))[rng.integers(3, size=num)] + 0.2 * noise,
        rng.standard_t(2, size=(num, dims)) * np.logspace(-3, 3, dims),
        rng.integers(0, 3, size=(num, dims)).astype(float),
    ]
    return torch.from_numpy(kinds[rng.integers(len(kinds))]).float()


def priors(dims: int, num: int) -> list[Prior]:
    spec = LatentSpec((dims,))
    mixtures = [Mixture(spec, num_components="auto"), Mixture(spec, num_components=min(50, num))]
    return [Gaussian(spec), Whitened(StandardNormal(spec)), Defensive(Kernels(spec, num_points=num)), *mixtures]


def integral(prior: Prior, z: Tensor) -> float:
    """Of a density over the plane, by importance sampling around the latents that it was fitted to."""
    torch.manual_seed(0)
    centre, spread = z.median(0).values, z.std(0).clamp_min(1e-3)
    draws = torch.distributions.StudentT(1.0, centre, spread)
    drawn = torch.cat([draws.sample((20_000,)), prior.sample(20_000)])  # half of them where the density is
    proposal = torch.logaddexp(draws.log_prob(drawn).sum(1), prior.log_prob(drawn)) - math.log(2)
    return (prior.log_prob(drawn) - proposal).double().exp().mean().item()


@pytest.mark.parametrize("seed", range(NUM_FITS))
def test_a_fit_to_a_few_latents(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num, dims = int(rng.integers(20, 201)), 2 if seed % 5 == 0 else int(rng.integers(2, 65))
    z = latents(rng, num + 100, dims)
    train, val = LatentDataset.of(z[: num - num // 10]), LatentDataset.of(z[num - num // 10 : num])
    for prior in priors(dims, len(train)):
        notes = " ".join(prior.fit(train, val, RUN).notes)
        assert prior.log_prob(z).isfinite().all() and prior.sample(50).isfinite().all()
        if isinstance(prior, Mixture):
            used = int(prior.log_weights.isfinite().sum())
            assert prior.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-9)
            if said := re.match(r"(\d+) components? ", notes):
                assert int(said[1]) == used
        if isinstance(prior, Whitened):
            assert ("whitened" in notes) == bool(prior.factor.tril(-1).count_nonzero())
        if isinstance(prior, Gaussian):
            assert ("tell little" in notes) == (len(train) < 2 * dims)
        if dims == 2:
            assert integral(prior, z[:num]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["mixture", "bayes_mixture"])
def test_the_shelf_takes_few_latents_too_and_loses_nothing_to_a_gaussian(name: str) -> None:
    """Fewer held-out latents than decide on anything else tell that components lose without bound."""
    for seed in range(0, 60, 6):
        rng = np.random.default_rng(seed)
        num, dims = int(rng.integers(20, 201)), int(rng.integers(2, 65))
        z = latents(rng, num + 300, dims)
        fresh, nats = z[num:], {}
        for prior in (name, "gaussian"):
            nats[prior] = fit_prior(LatentDataset.of(z[:num]), prior, seed=0)[0].log_prob(fresh).double()
        assert (nats[name] - nats["gaussian"]).mean() > -0.3, (seed, num, dims)
