"""Stage 2: latents -> prior."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors.torch import save_file

from expost.forecast.notice import prior_parts
from expost.job import Run
from expost.parts.assembly import Parts
from expost.parts.priors import prior_ingredients
from expost.parts.weights import weights
from expost.stages.making import Making, Stage
from expost.training.progress import counting


def fit_prior(making: Making) -> Mapping[str, Any]:
    """`prior.safetensors` and what the fit reported, `fit.json`; of several ranks, the first writes them."""
    job, prior, tracker = making.job, making.parts.prior, making.tracker
    with counting("prior", job.shows_progress, tracker.log) as log:
        fit_run = job.fit_run(tracker, log=log)
        report = prior.fit(making.latents("train"), making.latents("val"), fit_run)
    for note in report.notes:
        job.say("prior", note)
    fitted = weights(prior)
    job.ranks.check_equal(fitted)
    facts = asdict(report) | {"num_parameters": prior.num_parameters}
    if job.ranks.rank == 0:
        save_file(fitted, making.folder / "prior.safetensors")
        (making.folder / "fit.json").write_text(json.dumps(facts), encoding="utf-8")
    return {name: facts[name] for name in ("seconds", "val_nll_nats", "num_parameters")}


def ingredients(job: Run, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a fitted prior."""
    return prior_ingredients(job, parts.prior, keys["latents"])


STAGE = Stage(
    name="prior",
    typed="prior",
    needs=lambda config, parts: ("latents",),
    ingredients=ingredients,
    make=fit_prior,
    expected=lambda making: prior_parts(making.job, making.parts.prior, making.latents("train"), making.latents("val")),
    in_ranks=lambda parts: parts.prior.fits_in_ranks,
)
