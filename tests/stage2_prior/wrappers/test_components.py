"""Components of a mixture seen through wrappers: together they are its density, in the units of z."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from without_lightning import no_loop

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitRun
from stage2_prior.prior import Prior, Wrapper
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.chart import Charted
from stage2_prior.wrappers.flatten import Flattened
from stage2_prior.wrappers.johnson import Johnson
from stage2_prior.wrappers.per_class import PerClass
from stage2_prior.wrappers.standardize import Standardized
from stage2_prior.wrappers.varying import Varying
from stage2_prior.wrappers.whiten import Whitened

RUN = FitRun(torch.device("cpu"), 0, lambda figures, step: None, no_loop)
INNER = LatentSpec((4,), num_classes=2)
WRAPPERS: dict[str, Callable[[Prior], Wrapper]] = {
    "standardize": Standardized,
    "whiten": Whitened,
    "johnson": Johnson,
    "flatten": lambda prior: Flattened(prior, (1, 2, 2)),
    "varying": lambda prior: Varying(prior, (1,)),
    "chart": lambda prior: Charted(prior, "box"),
}


def latents_of(spec: LatentSpec, constant: bool) -> LatentDataset:
    loc = np.random.default_rng(0).normal(size=(400, *spec.shape)).astype(np.float32)
    if spec.support is Support.BOX:
        return LatentDataset(spec, "truncated_normal", {"loc": np.tanh(loc), "log_std": np.full_like(loc, -2)})
    if constant:
        loc[:, 1] = 3.0
    else:
        loc = np.sinh(3 * loc)  # of heavy tails
    return LatentDataset(spec, "delta", {"loc": loc}, labels=np.arange(400) % 2)


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_components_add_up_to_the_density(name: str) -> None:
    prior = WRAPPERS[name](Mixture(INNER, num_components=5))
    data = latents_of(prior.spec, name == "varying")
    prior.fit(data, data, RUN)
    z = data.draw(torch.arange(50))
    joint = prior.log_joint(z)
    assert prior.num_clusters == 5 and joint.shape == (50, 5)
    assert not isinstance(prior, Johnson) or prior.is_bent.all()
    torch.testing.assert_close(joint.double().logsumexp(1), prior.log_prob(z).double(), rtol=1e-5, atol=1e-4)


def test_what_is_no_mixture_has_none() -> None:
    assert Standardized(Gaussian(INNER)).num_clusters == 0
    assert PerClass(Mixture(INNER, num_components=5)).num_clusters == 0, "each class has its own"
