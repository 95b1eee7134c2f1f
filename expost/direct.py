"""Priors without a run: arrays of latents in, a fitted prior and its judgement out; no files, no Hydra.

    from expost import LatentDataset, fit_prior, judge
    latents = LatentDataset.of(loc, log_std, labels)
    prior, report = fit_prior(latents, "autoregressive", seed=0, num_components=10)
    z = prior.sample(64)
    print(judge(prior, latents).verdict)

The code is that of the command: the same prior is fitted to the same latents by `data=latents` with the same seed.
Nothing is printed, and torch's global generators are left as they were.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from expost.base import scratch
from expost.base.command import Command
from expost.base.errors import UserError, nearest
from expost.config.defaults import default_config
from expost.config.schema import Node
from expost.export.config import PRIOR_ALONE
from expost.export.description import made_with, prior_description
from expost.export.learned_prior import Fitted, LearnedPrior
from expost.job import Job
from expost.parts.assembly import LatentParts, assemble_latents, check_classes
from expost.parts.gaussian_rule import hold_against_gaussian
from expost.parts.priors import prior_nodes, set_key
from expost.parts.sections import flatten
from expost.store.artifacts import Store
from expost.training.tracking import Tracker
from stage1_vae.data.latents.data import LatentData, LatentStyle, missing_of
from stage1_vae.data.latents.source import DEPENDENT
from stage1_vae.data.splits import MIN_IMAGES, MIN_PER_SPLIT, SPLITS, split_rows
from stage1_vae.latents import LatentDataset, LatentSpec, constants, dependent_columns
from stage1_vae.latents.look import look_at
from stage1_vae.machine import flushed_denormals
from stage2_prior.fitting import FitReport, PriorError
from stage2_prior.prior import Prior
from stage2_prior.wrappers.varying import Varying

if TYPE_CHECKING:
    from expost.evaluation.report import Report

FRACTIONS = (0.1, 0.2)
"""Of latents that nobody has split: validation, and test."""
DEVICES = ("auto", "cpu", "gpu")
MOST_SEEDS = 2**32


@flushed_denormals()
def fit_prior(
    latents: LatentDataset,
    prior: str = "mixture",
    *,
    val: LatentDataset | None = None,
    seed: int = 0,
    device: str = "auto",
    fractions: tuple[float, float] = FRACTIONS,
    dependent: str = "compute",
    **settings: Any,
) -> tuple[LearnedPrior, FitReport]:
    """Fit a prior to the aggregate posterior of `latents`.

    Args:
        latents: what it is fitted to; without `val`, a part of it: the rest is held out, as `data=latents` holds out.
        prior: a name of `conf/prior/`.
        val: what decides when to stop, where that is not cut from `latents`.
        seed: of the fit.
        device: "auto", "cpu" or "gpu".
        fractions: of `latents` that are held out for validation and for `judge`; of no effect beside `val`.
        dependent: of columns that are sums or repeats of others, "compute" them from those, so that the density is of
            the others alone, or "keep" them: they are modelled like any other.
        settings: keys of the prior, as in its file (`num_components=10`, `conditional=True`, `fit={"max_epochs": 5}`).

    Raises:
        ValueError: in one line: no such prior or key, a prior that does not model such latents, too few of them.
    """
    check_dataset("latents", latents)
    check_number("seed", seed, MOST_SEEDS)
    if device not in DEVICES or (device == "gpu" and not torch.cuda.is_available()):
        raise ValueError(f"device={device!r}: {'no GPU here; ' * (device == 'gpu')}give 'auto', 'cpu' or 'gpu'")
    if dependent not in DEPENDENT:
        raise ValueError(f"dependent={dependent!r}: give {' or '.join(map(repr, DEPENDENT))}")
    parts_of = split(latents, fractions) if val is None else {"train": latents, "val": alike("val", val, latents)}
    computed = dependent_columns(parts_of["train"]) if dependent == "compute" else ()
    try:
        job, parts = assembled(prior, plain(settings), as_data(parts_of, dependent=computed), int(seed), device)
        check_classes(parts)
        run, held_out = job.fit_run(Tracker()), parts.data.val
        look = look_at(parts.data.train, keeps_dependent=dependent == "keep")
        if look.refusal:
            raise PriorError(look.refusal)
        report = parts.prior.fit(parts.data.train, held_out, run)
        report = hold_against_gaussian(report, parts, job.config.prior, parts.data.train, held_out, run)
        said = [words for what, words in job.lines if what == "prior"]  # of its section, before it was built
        report = replace(report, look=look.rows, notes=[*said, *report.notes])
    except UserError as error:
        raise ValueError(str(error)) from error
    description = {
        "format": PRIOR_ALONE,
        **prior_description(job.config.prior, parts.spec),
        "class_names": list(parts.data.class_names),
        "made_with": made_with("latents"),
        **({"fractions": list(map(float, fractions))} if val is None else {}),
    }
    fitted = Fitted(prior, job.config.prior, report)
    return LearnedPrior(parts.prior, parts.data.class_names, description, fitted), report


@flushed_denormals()
def judge(
    prior: LearnedPrior,
    latents: LatentDataset,
    *,
    test: LatentDataset | None = None,
    name: str | None = None,
    seed: int = 0,
    num_samples: int | None = None,
    folder: str | Path | None = None,
) -> "Report":
    """How well `prior` fits q(z), in nats and in distances, with floors and ceilings beside every figure.

    Args:
        prior: of `fit_prior`, or loaded.
        latents: what `fit_prior` was given, in the same order: what was held out then is held out here, and, without
            `test`, is what the prior is judged on.
        test: latents that the fit has not seen; a prior that was fitted with `val` needs them.
        name: of its row; None: that of its file in `conf/prior/`.
        seed: of what is drawn.
        num_samples: of each set; None: as many as `stage=evaluate` takes.
        folder: a new folder for `figures.json` and the pictures; None: they are not kept.

    Raises:
        ValueError: in one line: latents of another kind than the prior's; nothing was held out; the folder is there.
    """
    if not isinstance(prior, LearnedPrior):
        raise ValueError(f"prior is a {type(prior).__name__}; give what fit_prior or LearnedPrior.load returns")
    check_number("seed", seed, MOST_SEEDS)
    if num_samples is not None:
        check_number("num_samples", num_samples, 2**31, at_least=2)
    place = None if folder is None else new_folder(folder)
    data = as_data(judged(prior, latents, test), prior.class_names, computed_by(prior.prior))
    try:
        with tempfile.TemporaryDirectory(prefix="judge-", dir=scratch.folder()) as temporary:
            return measured(prior, data, name, int(seed), num_samples, place or Path(temporary))
    except UserError as error:
        raise ValueError(str(error)) from error


def measured(
    prior: LearnedPrior, data: LatentData, name: str | None, seed: int, num_samples: int | None, folder: Path
) -> "Report":
    """The report, with its figures and pictures in the empty `folder`.

    Raises:
        UserError: what cannot be judged.
    """
    from expost.measure.latent_evaluation import latent_subject, measure_latents  # who only fits has no use for it
    from expost.parts.weights import Histories

    fitted = prior.fitted or unrecorded(prior)
    evaluation = {} if num_samples is None else {"num_samples": int(num_samples)}
    trainer = {"accelerator": "cpu" if prior.device.type == "cpu" else "gpu", "progress": False}
    config = default_config(seed, fitted.node, trainer=trainer, evaluation=evaluation)
    job = Job(config, Command(choices={"prior": name or fitted.name}), Store(Path()), quiet=True)
    parts = LatentParts(data, prior.spec, prior.prior, prior.device)
    with job.seeded(seed):
        subject = latent_subject(job, parts, prior.prior, [data.splits[split] for split in SPLITS])
        return measure_latents(job, subject, Histories([], fitted.report), folder, Tracker())


def unrecorded(prior: LearnedPrior) -> Fitted:
    """What is known of the fit of a prior that was loaded: its settings, but for those of training, and no more."""
    node: Node = (prior.description or {}).get("prior", {})
    names = [name for name, file in prior_nodes().items() if file["_target_"] == node.get("_target_")]
    return Fitted([*names, "learned"][0], node, FitReport(math.nan, None, None))


def judged(prior: LearnedPrior, latents: LatentDataset, test: LatentDataset | None) -> dict[str, LatentDataset]:
    """What the prior was fitted to, what has decided when to stop, and what it is judged on.

    Raises:
        ValueError: nothing was held out; they are not of the kind that the prior is of.
    """
    if prior.fractions is None and test is None:
        raise ValueError("nothing was held out of what this prior was fitted to: give judge(..., test=LATENTS)")
    latents = of_spec("latents", latents, prior.spec)
    if prior.prior.num_classes and latents.labels is None:
        raise ValueError(
            f"this prior knows {prior.prior.num_classes} classes: give latents their labels, LatentDataset.of(...)"
        )
    parts_of = {"train": latents, "val": latents} if prior.fractions is None else split(latents, prior.fractions)
    if test is not None:
        parts_of["test"] = alike("test", test, latents)
    return parts_of


def check_dataset(name: str, latents: Any) -> None:
    """
    Raises:
        ValueError: it is none.
    """
    if not isinstance(latents, LatentDataset):
        raise ValueError(f"{name} is a {type(latents).__name__}; give LatentDataset.of(loc, log_std, labels)")


def check_number(name: str, value: Any, end: int, at_least: int = 0) -> None:
    """
    Raises:
        ValueError: it is no whole number, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not at_least <= value < end:
        raise ValueError(f"{name}={value!r}: give a whole number from {at_least} to below {end:,}")


def new_folder(folder: str | Path) -> Path:
    """The folder, made.

    Raises:
        ValueError: there is something in it already, or it cannot be made.
    """
    place = Path(folder).expanduser().absolute()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ValueError(f"{place} is there already; give a new folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{place} cannot be made: {error.strerror}; choose another folder") from error
    return place


def alike(name: str, latents: Any, others: LatentDataset) -> LatentDataset:
    """`latents` beside others of the same kind.

    Raises:
        ValueError: they are of another kind.
    """
    latents = of_spec(name, latents, others.spec)
    if latents.family != others.family:
        raise ValueError(f"{name}: a set of {latents.family} beside one of {others.family}; give both the same arrays")
    return latents


def of_spec(name: str, latents: Any, spec: LatentSpec) -> LatentDataset:
    """`latents`, whose classes and codes are counted as `spec` says.

    Raises:
        ValueError: they are of another kind, or have classes or codes that it has not.
    """
    check_dataset(name, latents)
    own = latents.spec
    if (own.shape, own.support, own.grids) != (spec.shape, spec.support, spec.grids):
        raise ValueError(f"{name}: these latents are {own.words}, and the others are {spec.words}")
    if any(size > known for size, known in zip(own.num_codes, spec.num_codes, strict=True)):
        raise ValueError(
            f"{name}: a codebook of {max(own.num_codes):,} beside one of {max(spec.num_codes):,}: say how large it is, "
            "LatentDataset.of(codes=..., num_codes=SIZE)"
        )
    if own.num_classes > spec.num_classes > 0:
        raise ValueError(f"{name}: labels of {own.num_classes:,} classes, and the others know {spec.num_classes:,}")
    labels = latents.labels if spec.num_classes else None
    return LatentDataset(spec, latents.family, latents.params, labels, latents.provenance)


def split(latents: LatentDataset, fractions: tuple[float, float]) -> dict[str, LatentDataset]:
    """Training, validation and test, as `data=latents` cuts them.

    Raises:
        ValueError: too few latents, or fractions that are none or leave nothing to fit.
    """
    num = len(latents)
    are_two = isinstance(fractions, tuple | list) and len(fractions) == 2
    if not are_two or not all(isinstance(part, float) and 0 < part < 1 for part in fractions):
        raise ValueError(
            f"fractions={fractions!r}: give two between 0 and 1, of validation and test, such as (0.1, 0.2)"
        )
    if num < MIN_IMAGES:
        raise ValueError(f"{num} latents are too few for three splits: give at least {MIN_IMAGES}, or val=LATENTS")
    held_out = sum(max(MIN_PER_SPLIT, round(num * part)) for part in fractions)
    if num - held_out < MIN_PER_SPLIT:
        raise ValueError(f"fractions={fractions!r} leave {max(0, num - held_out)} of {num} latents to fit: lower them")
    rows = split_rows(num, *fractions)
    return {name: latents.take(torch.from_numpy(np.sort(rows[name]))) for name in SPLITS}


def computed_by(prior: Prior) -> tuple[int, ...]:
    """The columns that `prior` computes from others: what stands beside it in a report is of the same numbers."""
    return next((part.dependent for part in prior.modules() if isinstance(part, Varying)), ())


def as_data(
    parts_of: Mapping[str, LatentDataset], class_names: Sequence[str] = (), dependent: tuple[int, ...] = ()
) -> LatentData:
    """Latents as a job reads them, of which the columns `dependent` are computed from others; without a test split,
    none is asked for."""
    train = parts_of["train"]
    names = tuple(class_names) or tuple(map(str, range(train.spec.num_classes)))
    kind = "loc" if train.family in ("delta", "diagonal_normal") else train.family
    return LatentData(
        "latents",
        train,
        parts_of["val"],
        parts_of.get("test", parts_of["val"]),
        fingerprint="",
        class_names=names,
        style=LatentStyle(name="latents", dtype="float32", shape=train.spec.shape),
        missing=missing_of(kind, train.family != "delta", train.labels is not None),
        constant=constants(train) if kind == "loc" else None,
        dependent=dependent,
    )


def assembled(
    prior: str, settings: Mapping[str, Any], data: LatentData, seed: int, device: str
) -> tuple[Job, LatentParts]:
    """A job in Python, and what was built for it.

    Raises:
        UserError: no such prior or key, or one that does not suit the latents.
    """
    offered = prior_nodes()
    if prior not in offered:
        raise UserError(f"prior={prior}: no such prior; {nearest(str(prior), offered)}")
    node, given = offered[prior], dict(flatten(dict(settings)))
    for path, value in given.items():
        set_key(node, path, value, prior, data.spec)
    config = default_config(seed, node, trainer={"accelerator": device, "progress": False})
    typed = tuple(f"prior.{'.'.join(path)}={value}" for path, value in given.items())
    job = Job(config, Command(choices={"prior": prior}, overrides=typed), Store(Path()), quiet=True)
    return assemble_latents(job, data)


def plain(value: Any) -> Any:
    """Settings as YAML holds them: of numpy and torch, of Hydra, and tuples."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value
