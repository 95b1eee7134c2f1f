"""Priors without a run: arrays of latents in, a fitted prior and its judgement out; no files, no Hydra.

    from expost import LatentDataset, fit_prior, judge
    latents = LatentDataset.of(loc, log_std, labels)
    prior, report = fit_prior(latents, "autoregressive", seed=0, num_components=10)
    z = prior.sample(64)
    print(judge(prior, latents).verdict)

The code is that of the command: the same prior is fitted to the same latents by `data=latents` with the same seed.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expost.base import scratch
from expost.base.command import Command
from expost.base.errors import UserError, nearest
from expost.config.defaults import default_config
from expost.config.schema import Seeds
from expost.evaluation.report import Report
from expost.export.config import PRIOR_ALONE
from expost.export.description import made_with, prior_description
from expost.export.learned_prior import LearnedPrior
from expost.job import Job
from expost.measure.latent_evaluation import latent_subject, measure_latents
from expost.parts.assembly import LatentParts, assemble_latents
from expost.parts.priors import flatten, prior_nodes, set_key
from expost.parts.weights import Histories
from expost.stages.check import check_classes
from expost.store.artifacts import Store
from expost.training.tracking import Tracker
from stage1_vae.data.latents.data import LatentData, LatentStyle
from stage1_vae.data.splits import SPLITS, split_rows
from stage1_vae.latents import LatentDataset
from stage2_prior.fitting import FitReport

FRACTIONS = (0.1, 0.2)
"""Of latents that nobody has split: validation, and test."""


def fit_prior(
    latents: LatentDataset,
    prior: str = "mixture",
    *,
    val: LatentDataset | None = None,
    seed: int = 0,
    device: str = "auto",
    fractions: tuple[float, float] = FRACTIONS,
    **settings: Any,
) -> tuple[LearnedPrior, FitReport]:
    """Fit a prior to the aggregate posterior of `latents`.

    Args:
        latents: what it is fitted to; without `val`, a part of it: the rest is held out, as `data=latents` holds out.
        prior: a name of `conf/prior/`.
        val: what decides when to stop, where that is not cut from `latents`.
        seed: of the fit.
        device: "auto", "cpu" or "gpu".
        fractions: of `latents` that are held out for validation and for `judge`.
        settings: keys of the prior, as in its file (`num_components=10`, `conditional=True`, `fit={"max_epochs": 5}`).

    Raises:
        ValueError: in one line: no such prior or key, a prior that does not model such latents, too few of them.
    """
    try:
        parts_of = split(latents, fractions) if val is None else {"train": latents, "val": val, "test": val}
        job, parts = assembled(prior, settings, parts_of, seed, device)
        check_classes(parts)
        report = parts.prior.fit(parts.data.train, parts.data.val, job.fit_run(Tracker()))
    except UserError as error:
        raise ValueError(str(error)) from error
    description = {
        "format": PRIOR_ALONE,
        **prior_description(job.config.prior, parts.spec),
        "class_names": list(parts.data.class_names),
        "made_with": made_with("latents"),
        **({"fractions": list(fractions)} if val is None else {}),
    }
    return LearnedPrior(parts.prior, parts.data.class_names, description), report


def judge(
    prior: LearnedPrior,
    latents: LatentDataset,
    *,
    test: LatentDataset | None = None,
    name: str = "learned",
    seed: int = 0,
    num_samples: int | None = None,
    folder: str | Path | None = None,
) -> Report:
    """How well `prior` fits q(z), in nats and in distances, with floors and ceilings beside every figure.

    Args:
        prior: of `fit_prior`, or loaded.
        latents: what it was fitted to; without `test`, with what was held out of them then, which it is judged on.
        test: latents that the fit has not seen.
        name: of its row.
        seed: of what is drawn.
        num_samples: of each set; None: as `stage=evaluate` takes.
        folder: a new folder for `figures.json` and the pictures; None: they are not kept.

    Raises:
        ValueError: in one line: latents of another kind than the prior's; nothing was held out.
    """
    if latents.spec.shape != prior.spec.shape or latents.spec.support is not prior.spec.support:
        raise ValueError(f"these latents are {latents.spec.words}; the prior is of {prior.spec.words}")
    if test is None and prior.fractions is None:
        raise ValueError("nothing was held out of what this prior was fitted to: give judge(..., test=LATENTS)")
    parts_of = {"train": latents, "val": latents, "test": test} if test is not None else None
    parts_of = split(latents, prior.fractions or FRACTIONS) if parts_of is None else parts_of
    config = default_config(seeds=Seeds(vae=seed, prior=seed, sample=seed))
    if num_samples is not None:
        evaluation = config.evaluation.model_copy(update={"num_samples": num_samples})
        config = config.model_copy(update={"evaluation": evaluation})
    node = (prior.description or {}).get("prior", config.prior)
    job = Job(config.model_copy(update={"prior": node}), Command(choices={"prior": name}), Store(Path()), quiet=True)
    data = as_data({key: value for key, value in parts_of.items() if value is not None})
    parts = LatentParts(data, prior.spec, prior.prior, prior.device)
    histories = Histories([], FitReport(0.0, None, None))
    with tempfile.TemporaryDirectory(prefix="judge-", dir=scratch.folder()) as place:
        target = Path(place) if folder is None else Path(folder).expanduser()
        target.mkdir(parents=True, exist_ok=True)
        with job.seeded(seed):
            subject = latent_subject(job, parts, prior.prior, [parts_of[split] for split in SPLITS])
            return measure_latents(job, subject, histories, target, Tracker())


def split(latents: LatentDataset, fractions: tuple[float, float]) -> dict[str, LatentDataset]:
    """Training, validation and test, as `data=latents` cuts them.

    Raises:
        DataError: too few latents, or fractions that leave none to fit.
    """
    rows = split_rows(len(latents), *fractions)
    return {name: latents.take(torch.from_numpy(np.sort(rows[name]))) for name in SPLITS}


def as_data(parts_of: Mapping[str, LatentDataset]) -> LatentData:
    """Latents as a job reads them."""
    train = parts_of["train"]
    names = tuple(map(str, range(train.spec.num_classes)))
    style = LatentStyle(name="latents", dtype="float32", shape=train.spec.shape)
    constant = constants(train) if train.family in ("delta", "diagonal_normal") else None
    splits = (parts_of[split] for split in SPLITS)
    return LatentData("latents", *splits, fingerprint="", class_names=names, style=style, constant=constant)


def constants(latents: LatentDataset) -> np.ndarray:
    """Which numbers of point masses are the same in all of them, bool [*shape]; none of others are."""
    if latents.family != "delta" or len(latents) == 0:
        return np.zeros(latents.spec.shape, bool)
    first = latents.posterior(slice(0, 1)).mean[0]
    same = torch.ones(latents.spec.shape, dtype=torch.bool)
    for posterior in latents.blocks():
        same &= (posterior.mean == first).all(0)
    return same.numpy()


def assembled(
    prior: str, settings: Mapping[str, Any], parts_of: Mapping[str, LatentDataset], seed: int, device: str
) -> tuple[Job, LatentParts]:
    """A job in Python, and what was built for it.

    Raises:
        UserError: no such prior or key, or one that does not suit the latents.
    """
    offered = prior_nodes()
    if prior not in offered:
        raise UserError(f"prior={prior}: no such prior; {nearest(prior, offered)}")
    node, data = offered[prior], as_data(parts_of)
    for path, value in flatten(dict(settings)):
        set_key(node, path, value, prior, data.spec)
    config = default_config(seeds=Seeds(vae=seed, prior=seed, sample=seed), prior=node)
    trainer = config.trainer.model_copy(update={"accelerator": device, "progress": False})
    config = config.model_copy(update={"trainer": trainer})
    typed = tuple(f"prior.{'.'.join(path)}={value}" for path, value in flatten(dict(settings)))
    job = Job(config, Command(choices={"prior": prior}, overrides=typed), Store(Path()), quiet=True)
    return assemble_latents(job, data)
