"""Priors of latents that are stored as draws: what they find is the aggregate of these, correlations within a posterior
included."""

import numpy as np
import pytest
import torch
from prior_cases import run_for

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec
from stage1_vae.latents.spec import PARAMETERS
from stage2_prior.fitting import PriorError
from stage2_prior.moments import moments
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.kde import Kernels
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.standardize import Standardized

COVARIANCE = np.array([[1.0, 0.9], [0.9, 1.0]])
"""Within every posterior; the images' own places are close together."""


def latents(num: int, seed: int) -> LatentDataset:
    rng = np.random.default_rng(seed)
    places = 3.0 + 0.2 * rng.standard_normal((num, 2))
    draws = {name: places + rng.multivariate_normal([0, 0], COVARIANCE, num) for name in PARAMETERS["draws"]}
    return LatentDataset(LatentSpec((2,)), "draws", {name: values.astype(np.float32) for name, values in draws.items()})


def truth() -> torch.distributions.MultivariateNormal:
    covariance = torch.from_numpy(COVARIANCE + 0.04 * np.eye(2))
    return torch.distributions.MultivariateNormal(torch.full((2,), 3.0).double(), covariance)


def test_moments_hold_the_covariance_within_posteriors() -> None:
    found = moments(latents(4000, 0), full=True)
    torch.testing.assert_close(found.mean, truth().mean, rtol=0, atol=0.05)
    torch.testing.assert_close(found.total, truth().covariance_matrix, rtol=0, atol=0.05)
    assert found.log_std is None


@pytest.mark.parametrize(
    "prior",
    [
        Gaussian(LatentSpec((2,))),
        Mixture(LatentSpec((2,)), num_components=2, covariance="full"),
        Mixture(LatentSpec((2,)), num_components=2, covariance="full", batch_size=512),
        Standardized(Mixture(LatentSpec((2,)), num_components=2, covariance="full")),
        Kernels(LatentSpec((2,)), num_points=2000),
    ],
    ids=["gaussian", "mixture", "mixture in batches", "standardised mixture", "kde"],
)
def test_a_prior_of_draws_comes_to_their_aggregate(prior: Gaussian | Mixture | Standardized | Kernels) -> None:
    prior.fit(latents(2000, 0), latents(500, 1), run_for(prior))
    z = truth().sample(torch.Size([4000])).float()
    with torch.no_grad():
        excess = (truth().log_prob(z.double()) - prior.log_prob(z)).mean().item()
    lost_without_correlation = 0.5 * float(np.log(1.04**2 / np.linalg.det(COVARIANCE + 0.04 * np.eye(2))))
    assert lost_without_correlation > 0.5
    assert -0.01 < excess < (0.08 if isinstance(prior, Kernels) else 0.02)


def test_kernels_of_no_width_of_their_own_are_refused() -> None:
    prior = Kernels(LatentSpec((2,)), num_points=100, bandwidth=0)
    with pytest.raises(PriorError, match="held_out"):
        prior.fit(latents(100, 0), latents(50, 1), run_for(prior))


def test_normal_posteriors_are_as_they_were() -> None:
    loc, log_std = torch.randn(50, 2).numpy(), np.zeros((50, 2), np.float32)
    normals = LatentDataset(LatentSpec((2,)), "diagonal_normal", {"loc": loc, "log_std": log_std})
    assert normals.in_points() is normals and normals.has_density
    assert isinstance(normals.posterior(slice(0, 3)), DiagonalNormal)
