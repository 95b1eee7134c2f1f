"""Stage 2: latents -> prior."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from expost.config.build import origins, target_class
from expost.config.schema import Node
from expost.forecast.notice import prior_parts
from expost.job import Job
from expost.parts.assembly import Parts
from expost.parts.priors import PER_CLASS, decided, listed_wrappers
from expost.parts.sections import all_held, without
from expost.parts.weights import weights
from expost.stages.making import Making, Stage
from expost.training.progress import counting
from expost.training.tracking import Tracker
from stage2_prior.fitting import FIT_VERSION
from stage2_prior.labels import LABELS_VERSION


def fit_prior(making: Making) -> Mapping[str, Any]:
    """`prior.safetensors` and what the fit reported, `fit.json`; of several ranks, the first writes them."""
    job, prior, tracker = making.job, making.parts.prior, making.tracker
    with counting("prior", job.shows_progress, tracker.log) as log:
        fit_run = job.fit_run(tracker, log=log, **(of_stage1(making) if prior.needs_encoder else {}))
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


def of_stage1(making: Making) -> dict[str, Any]:
    """The encoder and the training images, as fields of a `FitRun`; row i of them is latent i."""
    job, parts, vae = making.job, making.parts.of_images, making.vae.requires_grad_(False)
    generator = torch.Generator(job.device).manual_seed(job.config.seeds.prior)

    def images(rows: Tensor) -> Tensor:
        return parts.preprocess(parts.data.train.batch(rows).to(job.device), generator)

    return {"encoder": lambda x: vae.encode(x).posterior, "images": images}


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a fitted prior."""
    ranks = job.config.trainer.num_ranks if parts.prior.fits_in_ranks else 1
    node = decided(job.config.prior, job.device)
    versions: dict[str, Any] = {}
    for part in all_held(node):  # their sections are in this one
        versions |= origins_of(part)
    versions |= origins_of(node)
    if not node.get("conditional"):
        node = without(node, ("conditional", "label_dropout"))
    return {
        "latents": keys["latents"],
        "prior": node | ({"fit": job.fit_settings} if "fit" in node else {}),
        "seed": job.config.seeds.prior,
        "versions": versions | {"fit": FIT_VERSION},
    } | ({"ranks": ranks} if ranks > 1 else {})


def origins_of(node: Node) -> dict[str, Any]:
    """Versions of the class that the prior's section `node` names and of its wrappers, those by name that have one."""
    versions, wrappers = origins([node]), listed_wrappers(node)
    if node.get("conditional"):
        if target_class(node).takes_labels:
            versions["labels"] = LABELS_VERSION
        else:
            wrappers.append(("per_class", PER_CLASS))
    for name, wrapper in wrappers:
        own = origins([wrapper])
        versions |= {name: own.pop(wrapper["_target_"])} | own
    return versions


STAGE = Stage(
    name="prior",
    typed="prior",
    needs=lambda config, parts: ("latents", *["vae"] * parts.prior.needs_encoder),
    ingredients=ingredients,
    make=fit_prior,
    expected=lambda making: prior_parts(
        making.parts.prior, making.latents("train"), making.latents("val"), making.job.fit_run(Tracker())
    ),
    in_ranks=lambda parts: parts.prior.fits_in_ranks,
)
