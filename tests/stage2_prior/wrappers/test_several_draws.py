"""Several draws of one image weigh as one behind every wrapper."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.prior import Prior
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.flatten import Flattened
from stage2_prior.wrappers.johnson import Johnson
from stage2_prior.wrappers.per_class import latents_of
from stage2_prior.wrappers.standardize import Standardized
from stage2_prior.wrappers.varying import Varying
from stage2_prior.wrappers.whiten import Whitened


class Recording(StandardNormal):
    """What it was given to fit."""

    given: LatentDataset | None = None

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        self.given = train
        return super().fit(train, val, run)


@pytest.mark.parametrize(
    ("wrapper", "shape"),
    [
        (Standardized, (4,)),
        (Whitened, (4,)),
        (Johnson, (4,)),
        (lambda prior: Varying(prior, fixed=[4]), (5,)),
        (lambda prior: Flattened(prior, (4, 2, 2)), (4, 2, 2)),
    ],
)
def test_they_are_still_of_one_image(wrapper: Callable[[Any], Prior], shape: tuple[int, ...]) -> None:
    loc = np.random.default_rng(0).standard_cauchy(size=(600, *shape)).astype(np.float32)
    loc[:, 4:] = 0  # of `Varying`
    latents = LatentDataset(LatentSpec(shape), "delta", {"loc": loc}, repeats=3)
    inner = Recording(LatentSpec((16,) if len(shape) == 3 else (4,)))
    wrapper(inner).fit(latents, latents, RUN)
    assert inner.given is not None and inner.given is not latents and inner.given.repeats == 3


def test_so_they_are_in_a_class() -> None:
    loc, labels = np.zeros((12, 2), np.float32), np.tile([0, 1, 1, 0], 3)
    of_class = latents_of(LatentDataset(LatentSpec((2,)), "delta", {"loc": loc}, labels, repeats=3), 1)
    assert (len(of_class), of_class.repeats) == (6, 3)
