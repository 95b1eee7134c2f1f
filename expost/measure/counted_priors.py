"""Priors by counting, fitted when discrete latents are judged: floors that a learned prior of codes must beat."""

import time
from typing import Any

from expost.job import Run
from expost.measure.subject import Floor
from expost.training.tracking import Tracker
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.counting import CountingPrior
from stage2_prior.prior import Prior
from stage2_prior.priors.bigram import Bigram
from stage2_prior.priors.unigram import Unigram

COUNTED: dict[str, type[CountingPrior]] = {"unigram": Unigram, "bigram": Bigram}
"""Row -> prior."""


def floor_ingredients(spec: LatentSpec) -> dict[str, Any]:
    """What of the floors can change an evaluation: `floors`, row -> version; nothing for latents that have none."""
    found = {row: cls.version for row, cls in COUNTED.items() if cls.check(spec) is None}
    return {"floors": found} if found else {}


def counted_floors(train: LatentDataset, val: LatentDataset, run: Run, name: str) -> dict[str, Floor]:
    """Those that suit the latents, fitted, but for the learned prior `name` itself; none for real numbers."""
    found = {}
    for row, cls in COUNTED.items():
        if row == name or cls.check(train.spec) is not None:
            continue
        started = time.perf_counter()
        prior = _fitted(cls(train.spec), train, val, run)
        found[row] = Floor(prior, time.perf_counter() - started)
    return found


def _fitted(prior: Prior, train: LatentDataset, val: LatentDataset, run: Run) -> Prior:
    prior.fit(train, val, run.fit_run(Tracker()))
    return prior.to(run.device).eval()
