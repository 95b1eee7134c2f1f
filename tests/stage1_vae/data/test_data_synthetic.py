"""Sources whose density is known: the formulas against matrices, grids and draws."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from stage1_vae.data.images import DataError, Domain
from stage1_vae.data.linear_gaussian import LinearGaussian
from stage1_vae.data.mixture_rings import MixtureRings, RingsDensity

SMALL = LinearGaussian(image_shape=(2, 3, 3), latent_dim=5, sigma=0.4, num_train=4000, num_val=50, num_test=60, seed=3)
RINGS = MixtureRings(
    centres=[[-1.0, 0.2], [1.5, 0.0], [0.0, 0.0]],
    radii=[1.0, 0.3, 0.0],
    widths=[0.1, 0.3, 0.5],
    weights=[1.0, 3.0, 2.0],
    num_train=20_000,
    num_val=20,
    num_test=20,
)


def dense(source: LinearGaussian) -> tuple[Tensor, MultivariateNormal]:
    """W and p(x) of `source` as plain matrices."""
    density = source.density()
    weights = density.basis @ torch.diag(density.lengths)  # [P, D]
    covariance = weights @ weights.T + density.sigma**2 * torch.eye(len(weights), dtype=torch.float64)
    return weights, MultivariateNormal(density.offset, covariance)


def test_log_prob_is_that_of_the_full_covariance() -> None:
    x = SMALL.load().test.batch(torch.arange(60))
    log_prob = SMALL.density().log_prob(x)
    assert log_prob.shape == (60,) and log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, dense(SMALL)[1].log_prob(x.double().flatten(1)), rtol=1e-10, atol=1e-9)


def test_the_posterior_is_diagonal_and_exact() -> None:
    density, (weights, _) = SMALL.density(), dense(SMALL)
    x = SMALL.load().test.batch(torch.arange(60))
    precision = torch.eye(5, dtype=torch.float64) + weights.T @ weights / density.sigma**2
    covariance = torch.linalg.inv(precision)  # of any W, diagonal for orthogonal columns
    mean = (x.double().flatten(1) - density.offset) @ weights @ covariance / density.sigma**2
    posterior = density.posterior(x)
    torch.testing.assert_close(posterior.loc, mean, rtol=1e-9, atol=1e-10)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-12
    torch.testing.assert_close(posterior.variance, covariance.diagonal().expand(60, -1), rtol=1e-9, atol=0)


def test_bayes_holds_at_any_z() -> None:
    density = SMALL.density()
    x = SMALL.load().test.batch(torch.arange(60))
    z = 2 * torch.randn(4, 60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    joint = density.log_likelihood(x, z) + density.log_prior(z)
    evidence = joint - density.posterior(x).log_prob(z)
    torch.testing.assert_close(evidence, density.log_prob(x).expand(4, -1), rtol=1e-9, atol=1e-8)


def test_images_are_drawn_from_the_density_and_their_posteriors_aggregate_to_the_prior() -> None:
    data, density = SMALL.load(), SMALL.density()
    x = data.train.batch(torch.arange(4000)).double()
    flat, law = x.flatten(1), dense(SMALL)[1]
    assert (flat.mean(0) - law.mean).abs().max() < 5 * flat.std(0).max() / math.sqrt(4000)
    empirical = MultivariateNormal(flat.mean(0), torch.cov(flat.T))
    assert kl_divergence(empirical, law) < 0.06, "expected: 18 * 21 / 2 / (2 * 4000) = 0.024"
    entropy, nll = law.entropy(), -density.log_prob(x)
    assert abs(nll.mean() - entropy) < 4 * nll.std() / math.sqrt(4000)
    posterior = density.posterior(x)
    second = (posterior.loc.T @ posterior.loc) / 4000 + torch.diag(posterior.variance[0])
    torch.testing.assert_close(second, torch.eye(5, dtype=torch.float64), rtol=0, atol=0.1)


def test_the_same_recipe_gives_the_same_images_and_another_seed_others() -> None:
    data, again, other = (
        SMALL.load(),
        SMALL.load(),
        LinearGaussian(num_train=40, num_val=10, num_test=10, seed=1).load(),
    )
    rows = torch.arange(50)
    assert torch.equal(data.train.batch(rows), again.train.batch(rows)) and data.fingerprint == again.fingerprint
    assert not torch.equal(data.train.batch(rows), data.val.batch(rows))
    assert data.fingerprint != other.fingerprint
    assert (len(data.train), len(data.val), len(data.test)) == (4000, 50, 60)
    assert data.shape == (2, 3, 3) and data.domain is Domain.REAL and data.density is not None


def grid(step: float = 0.01, reach: float = 4.0) -> Tensor:
    axis = torch.arange(-reach, reach + step, step, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)


def test_rings_integrate_to_one() -> None:
    for density in (RINGS.density(), MixtureRings().density()):
        mass = density.log_prob(grid()).exp().sum() * 0.01**2
        assert abs(mass - 1) < 1e-6


def test_a_ring_without_a_radius_is_a_normal_law() -> None:
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    ring = RingsDensity(torch.tensor([[0.5, -1.0]], dtype=torch.float64), zero, 0.7 * one, zero)
    x = torch.randn(50, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    law = Independent(Normal(torch.tensor([0.5, -1.0], dtype=torch.float64), 0.7), 1)
    torch.testing.assert_close(ring.log_prob(x), law.log_prob(x.flatten(1)))


def test_points_are_drawn_from_the_density() -> None:
    """The mean of log p over draws against the integral over a grid, and how many fall into cells."""
    density, x = RINGS.density(), RINGS.load().train.batch(torch.arange(20_000))
    points, log_prob = grid(), density.log_prob(grid())
    mass = log_prob.exp() * 0.01**2  # [G]
    negentropy, drawn = (mass * log_prob).sum(), density.log_prob(x)
    assert abs(drawn.mean() - negentropy) < 4 * drawn.std() / math.sqrt(20_000)
    cells = torch.zeros(64, dtype=torch.float64).index_add(0, cell(points), mass)
    counts = torch.bincount(cell(x.double()), minlength=64).double()
    kept = cells * 20_000 > 5
    chi_square = ((counts - cells * 20_000).square() / (cells * 20_000))[kept].sum()
    degrees = int(kept.sum()) - 1
    assert degrees > 15 and chi_square < degrees + 5 * math.sqrt(2 * degrees)


def cell(x: Tensor) -> Tensor:
    """Number of the cell, of 8 x 8 over [-2.5, 2.5]^2, that each point falls into."""
    index = ((x.flatten(1) + 2.5) / 0.625).long().clamp(0, 7)
    return index[:, 0] * 8 + index[:, 1]


@pytest.mark.parametrize(
    ("source", "changes", "key"),
    [
        (LinearGaussian, {"sigma": 0.0}, "sigma"),
        (LinearGaussian, {"sigma": math.inf}, "sigma"),
        (LinearGaussian, {"latent_dim": 37}, "latent_dim"),
        (LinearGaussian, {"latent_dim": 0}, "latent_dim"),
        (LinearGaussian, {"image_shape": [6, 6]}, "image_shape"),
        (LinearGaussian, {"num_test": 1}, "num_test"),
        (LinearGaussian, {"seed": -1}, "seed"),
        (MixtureRings, {"radii": [1.0]}, "one length"),
        (MixtureRings, {"centres": [], "radii": [], "widths": [], "weights": []}, "one length"),
        (MixtureRings, {"centres": [[0.0], [0.0], [0.0]]}, "centres"),
        (MixtureRings, {"widths": [0.1, 0.1, 0.0]}, "widths"),
        (MixtureRings, {"weights": [1.0, -1.0, 1.0]}, "weights"),
        (MixtureRings, {"num_val": 0}, "num_val"),
        (MixtureRings, {"seed": 2**32}, "seed"),
    ],
)
def test_bad_recipes_are_refused(source: Any, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(DataError, match=key):
        source(**changes)
