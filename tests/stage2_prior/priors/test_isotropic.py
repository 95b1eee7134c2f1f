"""N(0, s^2 I): its likeliest width, its density, its samples."""

import numpy as np
import pytest
import torch
from without_lightning import no_loop

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.priors.standard_normal import Isotropic, StandardNormal
from stage2_prior.sampling import Sampling

SPEC = LatentSpec((4,))
RUN = FitRun(torch.device("cpu"), 0, lambda figures, step: None, no_loop)


def latents(scale: float = 1.5) -> LatentDataset:
    loc = np.random.default_rng(0).normal(0.5, scale, size=(3000, 4)).astype(np.float32)
    return LatentDataset(SPEC, "diagonal_normal", {"loc": loc, "log_std": np.full_like(loc, -0.5)})


def test_the_likeliest_width_counts_means_and_widths() -> None:
    data, prior = latents(), Isotropic(SPEC)
    report = prior.fit(data, data, RUN)
    expected = (np.asarray(data.params["loc"][:], np.float64) ** 2).mean() + np.exp(-1.0)
    assert prior.width.item() ** 2 == pytest.approx(expected, rel=1e-6) and prior.num_parameters == 1
    others = [Isotropic(SPEC, std=factor * prior.width.item()) for factor in (0.9, 1.1)]
    assert all(other.fit(data, data, RUN).val_nll_nats > report.val_nll_nats for other in others)


def test_density_is_that_of_a_scaled_normal() -> None:
    prior, z = Isotropic(SPEC, std=2.0), torch.randn(50, 4)
    expected = torch.distributions.Normal(0.0, 2.0).log_prob(z).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected)
    torch.testing.assert_close(Isotropic(SPEC, std=1.0).log_prob(z), StandardNormal(SPEC).log_prob(z))
    assert prior.num_parameters == 0
    torch.manual_seed(0)
    assert prior.sample(20_000).std().item() == pytest.approx(2.0, rel=0.02)
    assert prior.sample(20_000, how=Sampling(temperature=0.5)).std().item() == pytest.approx(1.0, rel=0.02)


def test_no_width_is_refused() -> None:
    with pytest.raises(PriorError, match=r"prior.std=0"):
        Isotropic(SPEC, std=0.0)
    nothing = LatentDataset(SPEC, "delta", {"loc": np.zeros((10, 4), np.float32)})
    with pytest.raises(PriorError, match="choose prior=gaussian"):
        Isotropic(SPEC).fit(nothing, nothing, RUN)
