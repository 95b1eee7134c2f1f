"""Standardisation: its Jacobian, the exactness of the transformed posteriors, figures in the units of z."""

import numpy as np
import pytest
import torch
from latent_values import means
from without_lightning import no_loop

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.standardize import Standardized

SPEC = LatentSpec((3,), num_classes=2)
LOGGED: list[tuple[dict[str, float], int]] = []
RUN = FitRun(torch.device("cpu"), 0, lambda figures, step: LOGGED.append((dict(figures), step)), no_loop)


def latents(num: int = 4000, family: str = "diagonal_normal") -> LatentDataset:
    rng = np.random.default_rng(0)
    params = {"loc": np.float32(rng.normal(size=(num, 3)) * [1, 30, 0.01] + [5, -100, 0])}
    if family != "delta":
        params["log_std"] = np.float32(rng.normal(-1, 0.3, (num, 3)) + np.log([1, 30, 0.01]))
    return LatentDataset(SPEC, family, params, labels=np.arange(num) % 2, provenance={"of": "a test"})  # type: ignore[arg-type]


def test_density_is_the_change_of_variables() -> None:
    """A standardised standard normal is N(shift, diag(unit^2)), Jacobian included."""
    prior = Standardized(StandardNormal(SPEC))
    data = latents()
    prior.fit(data, data, RUN)
    z = data.draw(torch.arange(100))
    expected = torch.distributions.Normal(prior.shift, prior.unit).log_prob(z).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(prior.loss(z), -expected, rtol=1e-5, atol=1e-4)
    assert prior.unit.log().sum().abs() > 0.1, "a Jacobian of one would hide its absence"


def test_moments_are_those_of_the_draws() -> None:
    data = latents()
    prior = Standardized(StandardNormal(SPEC))
    prior.fit(data, data, RUN)
    torch.manual_seed(0)
    draws = torch.cat([data.draw(torch.arange(4000)) for _ in range(50)]).double()
    torch.testing.assert_close(((draws.mean(0) - prior.shift) / prior.unit).float(), torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close((draws.std(0) / prior.unit).float(), torch.ones(3), atol=0.01, rtol=0)
    z = prior.sample(50_000)
    torch.testing.assert_close(z.std(0) / prior.unit, torch.ones(3), atol=0.02, rtol=0)


@pytest.mark.parametrize("family", ["diagonal_normal", "delta"])
def test_the_inner_prior_sees_the_same_posteriors_in_new_units(family: str) -> None:
    data = latents(family=family)
    prior = Standardized(StandardNormal(SPEC))
    prior.fit(data, data, RUN)
    inner = prior._standardise(data)
    index = torch.arange(0, 4000, 7)
    torch.manual_seed(1)
    z = data.draw(index)
    torch.manual_seed(1)
    u = inner.draw(index)
    torch.testing.assert_close(prior.shift + prior.unit * u, z, rtol=1e-5, atol=1e-4)
    assert torch.equal(inner.labels, data.labels) and inner.provenance == data.provenance
    if family != "delta":  # the density of the posterior changes by the Jacobian
        change = data.posterior(index).log_prob(z) - inner.posterior(index).log_prob(u)
        torch.testing.assert_close(change, (-prior.unit.log().sum()).expand_as(change), rtol=0, atol=2e-2)


def test_wrapping_an_equivariant_prior_changes_nothing() -> None:
    """The Gaussian is moment-matched, so it is the same density with and without the wrapper; so are its figures."""
    data = latents()
    plain, wrapped = Gaussian(SPEC), Standardized(Gaussian(SPEC))
    a, b = plain.fit(data, data, RUN), wrapped.fit(data, data, RUN)
    z = data.draw(torch.arange(500))
    torch.testing.assert_close(wrapped.log_prob(z), plain.log_prob(z), rtol=1e-4, atol=1e-3)
    assert a.train_nll_nats is not None and b.train_nll_nats == pytest.approx(a.train_nll_nats, abs=1e-2)
    assert a.val_nll_nats is not None and b.val_nll_nats == pytest.approx(a.val_nll_nats, abs=1e-2)


def test_a_dimension_that_never_moves_keeps_its_unit() -> None:
    loc = np.float32(np.random.default_rng(0).normal(size=(100, 3)))
    loc[:, 1] = 7.0
    data = LatentDataset(SPEC, "delta", {"loc": loc})
    prior = Standardized(StandardNormal(SPEC))
    prior.fit(data, data, RUN)
    assert prior.unit[1] == 1 and prior.shift[1] == 7
    assert prior.log_prob(torch.from_numpy(loc)).isfinite().all()


def test_maps_are_standardised_too() -> None:
    spec = LatentSpec((2, 3, 4))
    rng = np.random.default_rng(0)
    data = LatentDataset(spec, "delta", {"loc": np.float32(5 + 3 * rng.normal(size=(50, 2, 3, 4)))})
    prior = Standardized(StandardNormal(spec))
    prior.fit(data, data, RUN)
    assert prior.shift.shape == (2, 3, 4) and prior.sample(5).shape == (5, 2, 3, 4)
    assert prior.log_prob(means(data)).shape == (50,)


def test_what_it_cannot_scale_is_refused() -> None:
    assert "codes" in (Standardized.check(LatentSpec((4,), Support.CODES, num_codes=(8,))) or "")
    loc = np.zeros((5, 3), np.float32)
    loc[2] = np.nan
    bad = LatentDataset(SPEC, "delta", {"loc": loc})
    with pytest.raises(PriorError, match="first: 2"):
        Standardized(StandardNormal(SPEC)).fit(bad, bad, RUN)
