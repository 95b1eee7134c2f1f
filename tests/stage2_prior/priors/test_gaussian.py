"""The moment-matched Gaussian: its moments, its density, singular latents."""

import numpy as np
import pytest
import torch
from latent_values import means
from torch.distributions import MultivariateNormal
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import PriorError
from stage2_prior.priors.gaussian import Gaussian

SPEC = LatentSpec((3,))


def correlated(num: int) -> LatentDataset:
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(num, 3)) @ np.array([[1.0, 0.5, 0], [0, 0.7, -0.4], [0, 0, 0.2]]) + [1, -2, 3]
    log_std = rng.normal(-1, 0.5, size=loc.shape)
    return LatentDataset(SPEC, "diagonal_normal", {"loc": np.float32(loc), "log_std": np.float32(log_std)})


def test_moments_are_those_of_the_draws() -> None:
    latents = correlated(2000)
    prior = Gaussian(SPEC)
    report = prior.fit(latents, latents, RUN)
    torch.manual_seed(0)
    draws = torch.cat([latents.draw(torch.arange(2000)) for _ in range(200)]).double()
    torch.testing.assert_close(prior.mean, draws.mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(prior.scale @ prior.scale.T, torch.cov(draws.T), atol=1e-2, rtol=0)
    assert report.notes == []


def test_density_is_that_of_torch() -> None:
    latents = correlated(500)
    prior = Gaussian(SPEC)
    report = prior.fit(latents, latents, RUN)
    z = means(latents)
    reference = MultivariateNormal(prior.mean, scale_tril=prior.scale).log_prob(z.double())
    torch.testing.assert_close(prior.log_prob(z), reference.float())
    entropy = MultivariateNormal(prior.mean, scale_tril=prior.scale).entropy().item()
    assert report.train_nll_nats == pytest.approx(entropy, abs=0.2)  # a moment match makes the two equal in expectation


def test_no_other_gaussian_is_better() -> None:
    latents = correlated(500)
    prior = Gaussian(SPEC)
    prior.fit(latents, latents, RUN)
    torch.manual_seed(0)
    z = torch.cat([latents.draw(torch.arange(500)) for _ in range(50)])
    best = prior.log_prob(z).mean()
    for factor in (0.9, 1.1):
        prior.scale.mul_(factor)
        assert prior.log_prob(z).mean() < best - 1e-3
        prior.scale.div_(factor)
    prior.mean.add_(0.1)
    assert prior.log_prob(z).mean() < best - 1e-3


def test_a_singular_covariance_gets_a_ridge_and_a_note() -> None:
    line = np.float32(np.outer(np.linspace(-1, 1, 50), [1, 2, 0]))
    latents = LatentDataset(SPEC, "delta", {"loc": line})
    prior = Gaussian(SPEC)
    report = prior.fit(latents, latents, RUN)
    assert len(report.notes) == 1 and "singular" in report.notes[0]
    assert prior.log_prob(means(latents)).isfinite().all()


def test_latents_that_are_not_finite_are_refused() -> None:
    loc = np.zeros((5, 3), np.float32)
    loc[3, 1] = np.inf
    with pytest.raises(PriorError, match=r"loc .* 1 rows \(first: 3\)"):
        Gaussian(SPEC).fit(LatentDataset(SPEC, "delta", {"loc": loc}), correlated(5), RUN)
