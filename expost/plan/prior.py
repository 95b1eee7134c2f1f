"""The prior in small: what fits by gradient is stopped after some steps, EM is run on few latents.

EM has no step that is short: an iteration is a pass over all latents. So its time is that of few latents, where every
limit of size is as much smaller as the set is (what is read in blocks there is read in blocks here), and its memory is
that of all of them, in a fit that is interrupted when it has taken it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from expost import pipeline
from expost.config.build import target_class
from expost.forecast.timing import FORWARD, lengthen, seconds_of
from expost.parts.assembly import build_prior, resolved_fit
from expost.plan.costs import Facts
from expost.plan.probe import Probing, Watch, at_most, change, files_of
from expost.plan.stages import first_latents, latents_of
from expost.store.artifacts import Artifact
from expost.training.tracking import Tracker
from stage1_vae.data.images import spread_classes
from stage1_vae.latents import LatentDataset
from stage2_prior.fit_settings import FitSettings
from stage2_prior.fitting import FitRun, Sizes
from stage2_prior.prior import GradientPrior
from stage2_prior.wrappers.per_class import Chosen, needed_of_each

MIN_LATENTS = 1024
PASSES = 2


@dataclass(frozen=True)
class Iterations:
    """One fit.

    Attributes:
        rows: latents.
        seconds: of all of it.
        ends: when each pass ended, over the latents of one class where each has a prior of its own, by class.
    """

    rows: int
    seconds: float
    ends: Mapping[str, Sequence[float]]

    @property
    def seconds_a_pass(self) -> float:
        """Over all latents, the last of each class: the first pays for caches."""
        return sum(ends[-1] - ends[-2] for ends in self.ends.values())

    @property
    def num_passes(self) -> int:
        """Of the class that has the most."""
        return max(len(ends) for ends in self.ends.values())

    @property
    def once(self) -> float:
        passes = sum(len(ends) * (ends[-1] - ends[-2]) for ends in self.ends.values())
        return max(0.0, self.seconds - passes)


def probe_prior(probing: Probing) -> Facts:
    """The prior on imagined latents."""
    node = probing.job.config.prior
    if issubclass(target_class(node), GradientPrior):
        return probe_steps(probing)
    if "max_iter" in node:
        return probe_iterations(probing)
    facts, seconds = fit_prior(probing, latents_of(probing))
    return facts | {"unit": "", "num": 0, "seconds_a_unit": 0.0, "seconds_once": seconds}


def probe_steps(probing: Probing) -> Facts:
    """Some steps, at the batch size to come, on latents in full number."""
    settings = FitSettings(**(probing.job.config.prior.get("fit") or {}))
    watch = Watch(probing.enough)
    facts, seconds = fit_prior(probing, latents_of(probing), watch)
    data, val = probing.parts.data, first_latents(probing, "val", 1)
    course = settings.course(len(data.train), val.spec.num_dims)
    num_val = len(data.val) if val.is_certain else max(len(data.val), settings.val_draws)
    held_out = min(num_val, course.held_out or num_val)
    return facts | {
        "unit": "step",
        "num": course.epochs * course.steps,
        "seconds_a_unit": watch.seconds_a_step,
        "seconds_once": max(0.0, seconds - watch.seconds),
        "epochs": course.epochs,
        "more": FORWARD * course.epochs * held_out / course.batch_size,
    }


def probe_iterations(probing: Probing) -> Facts:
    """Some passes over few latents for the time, and over all of them for the memory."""
    num, node = len(probing.parts.data.train), probing.job.config.prior
    whole = first_latents(probing, "train", num)
    prior, components = probing.parts.prior, int(node.get("num_components") or 0)
    fits: dict[int, Iterations] = {}

    def iterate(few: int) -> float:
        train = few_latents(probing, few)
        fits[few] = fit_iterations(probing, train, len(train) / num, PASSES)
        return fits[few].seconds_a_pass

    first = min(len(whole), max(MIN_LATENTS, 2 * components, 2 * needed_of_each(prior) * prior.num_classes))
    iterate(first)  # pays for what is there once in a process
    timed = [fits[few] for few, _ in lengthen(iterate, first, len(whole), probing.enough)]
    few_on_disk = Artifact("latents", "1" * 20, probing.scratch / "few")
    for split, latents in {"train": few_latents(probing, first), "val": first_latents(probing, "val", first)}.items():
        (few_on_disk.path / split).mkdir(parents=True)
        latents.save(few_on_disk.path / split)
    facts, _ = fit_prior(probing, few_on_disk, max_iter=1)
    with at_most(6 * probing.enough + 2):
        fit_iterations(probing, whole, 1.0, 1)
    return facts | {
        "unit": "iteration",
        "num": int(node["max_iter"]),
        "restarts": int(node.get("num_restarts") or 1),
        "more": fits[first].num_passes - PASSES,
        "passes": [(fit.rows, fit.seconds_a_pass) for fit in timed],
        "once": [(fit.rows, fit.once) for fit in timed],
    }


def few_latents(probing: Probing, num: int) -> LatentDataset:
    """The first `num` of the imagined latents; where each class has a prior of its own, enough of each for that."""
    of_each, whole = needed_of_each(probing.parts.prior), first_latents(probing, "train", len(probing.parts.data.train))
    if of_each == 0 or whole.labels is None or num >= len(whole):
        return first_latents(probing, "train", num)
    rows = spread_classes(len(whole), num, whole.labels, of_each)
    params = {name: Chosen(values, rows.numpy()) for name, values in whole.params.items()}
    return LatentDataset(whole.spec, whole.family, params, whole.labels[rows])


def fit_iterations(probing: Probing, train: LatentDataset, share: float, num: int) -> Iterations:
    """The prior's own fit on `train`, `num` iterations of it, as of a set that is `1 / share` times as large."""
    job = change(probing.job, "prior", max_iter=num, tol=0.0, num_restarts=1)
    val = first_latents(probing, "val", max(2, round(share * len(probing.parts.data.val))))
    prior = build_prior(job, train.spec, len(train))
    ends: dict[str, list[float]] = {}

    def log(figures: Mapping[str, float], step: int) -> None:
        of_class = next(iter(figures)).rpartition("_of_")[2]  # the figure itself where there is one fit
        ends.setdefault(of_class, []).append(time.perf_counter())

    lent = FitRun(
        device=job.device,
        seed=job.config.seeds.prior,
        log=log,
        lightning_fit=job.lightning_fit(Tracker()),
        settings=resolved_fit(job),
        sizes=Sizes().scaled(share),
    )
    seconds = seconds_of(lambda: prior.fit(train, val, lent))
    return Iterations(len(train), seconds, ends)


def fit_prior(probing: Probing, latents: Artifact, *watchers: Watch, **settings: int) -> tuple[Facts, float]:
    """What every artifact of stage 2 tells, made of these `latents` with other `settings`; and its seconds."""
    job = replace(probing.place("prior", limit_val_batches=2), watchers=watchers)
    job = change(job, "prior", **settings)
    parts = replace(probing.parts, prior=build_prior(job, probing.parts.vae.spec, len(probing.parts.data.train)))
    artifacts: list[Artifact] = []
    seconds = seconds_of(lambda: artifacts.append(pipeline.fit_prior(job, parts, latents)))
    fit = json.loads((artifacts[0].path / "fit.json").read_text(encoding="utf-8"))
    curve_bytes = len(json.dumps(fit["curve"]))
    facts = {
        "epochs": 0,
        "more": 0,
        "num_parameters": fit["num_parameters"],
        "bytes_a_row": curve_bytes / max(1, len(fit["curve"])),
        "bytes_of_curve": curve_bytes,
        "files": files_of(artifacts[0]),
    }
    return facts, seconds
