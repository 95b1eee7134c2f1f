"""The prior in small: what fits by gradient is stopped after some steps, EM is run on few latents.

EM has no step that is short: an iteration is a pass over all latents. So its time is that of few latents, where every
limit of size is as much smaller as the set is (what is read in blocks there is read in blocks here), and its memory is
that of all of them, in a fit that is interrupted when it has taken it.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from expost import pipeline
from expost.config.build import target_class
from expost.config.schema import Node
from expost.costs.fork import Facts, at_most
from expost.costs.watch import Times, grown, seconds_of
from expost.parts.priors import build_prior
from expost.plan.stages import Probing, files_of, latents_of, some_latents
from expost.plan.watch import Watch
from expost.store.artifacts import Artifact
from expost.training.tracking import Tracker
from stage1_vae.data.images import spread_classes
from stage1_vae.latents import LatentDataset
from stage1_vae.latents import dataset as latents
from stage1_vae.latents import shuffle as block_shuffle
from stage2_prior.em import gaussian as gaussian_em
from stage2_prior.fitting import FitSettings
from stage2_prior.prior import GradientPrior
from stage2_prior.priors import mixture
from stage2_prior.wrappers.per_class import subset

LIMITS = (
    (latents, "IN_MEMORY_BYTES"),
    (block_shuffle, "BUFFER_BYTES"),
    (gaussian_em, "CACHE_BYTES"),
    (mixture, "START_POINTS"),
    (mixture, "HELD_OUT_POINTS"),
)
"""Sizes at which a fit goes another way."""
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
        return by_gradient(probing)
    if "max_iter" in node:
        return by_iteration(probing, node)
    made, seconds = fitted(probing, node)
    return told(made) | {"unit": "", "num": 0, "seconds_a_unit": 0.0, "seconds_once": seconds, "epochs": 0}


def by_gradient(probing: Probing) -> Facts:
    """Some steps, at the batch size to come, on latents in full number."""
    node = probing.job.config.prior
    fit, num = FitSettings(**(node.get("fit") or {})), len(probing.parts.data.train)
    watch = Watch(probing.enough)
    made, seconds = fitted(probing, node, watch)
    course = fit.course(num, probing.parts.vae.spec.num_dims)
    return told(made) | {
        "unit": "step",
        "num": course.epochs * course.steps,
        "seconds_a_unit": watch.seconds_a_step,
        "seconds_once": watch.once(seconds),
        "epochs": course.epochs,
        "seconds_an_epoch": watch.seconds_an_item * watch.val_items,
    }


def by_iteration(probing: Probing, node: Node) -> Facts:
    """Some passes over few latents for the time, and over all of them for the memory."""
    num = len(probing.parts.data.train)
    whole = some_latents(probing, "train", num)
    rows, prior, components = len(whole), probing.parts.prior, int(node.get("num_components") or 0)
    fits: dict[int, Iterations] = {}

    def run(few: int) -> float:
        train = few_latents(probing, few)
        fits[few] = iterations(probing, train, len(train) / num, PASSES)
        return fits[few].seconds_a_pass

    first = min(rows, max(MIN_LATENTS, 2 * components, 2 * prior.min_images_a_class * prior.num_classes))
    run(first)  # pays for what is there once in a process
    lengths = [few for few, _ in grown(run, first, rows, probing.enough)]
    a_pass: Times = [(fits[few].rows, fits[few].seconds_a_pass) for few in lengths]
    once: Times = [(fits[few].rows, fits[few].once) for few in lengths]
    made, _ = fitted(probing, node | {"max_iter": 1}, num=first)
    with at_most(6 * probing.enough + 2):
        iterations(probing, whole, 1.0, 1)
    return told(made) | {
        "unit": "iteration",
        "num": int(node["max_iter"]),
        "restarts": int(node.get("num_restarts") or 1),
        "more": fits[first].num_passes - PASSES,
        "passes": a_pass,
        "once": once,
        "epochs": 0,
    }


def few_latents(probing: Probing, num: int) -> LatentDataset:
    """The first `num` of the imagined latents; where each class has a prior of its own, enough of each for that."""
    of_each = probing.parts.prior.min_images_a_class
    whole = some_latents(probing, "train", len(probing.parts.data.train))
    if of_each == 0 or whole.labels is None or num >= len(whole):
        return some_latents(probing, "train", num)
    return subset(whole, spread_classes(len(whole), num, whole.labels, of_each))


def iterations(probing: Probing, train: LatentDataset, share: float, num: int) -> Iterations:
    """The prior's own fit on `train`, `num` iterations of it, with limits of `share` of their size."""
    job = probing.job
    changes = {"max_iter": num, "tol": 0.0, "num_restarts": 1}
    job = replace(job, config=job.config.model_copy(update={"prior": job.config.prior | changes}))
    val = some_latents(probing, "val", max(2, round(share * len(probing.parts.data.val))))
    prior, node = build_prior(job, train.spec, len(train))
    job = replace(job, config=job.config.model_copy(update={"prior": node}))
    ends: dict[str, list[float]] = {}

    def log(figures: Mapping[str, float], step: int) -> None:
        of_class = next(iter(figures)).rpartition("_of_")[2]  # the figure itself where there is one fit
        ends.setdefault(of_class, []).append(time.perf_counter())

    lent = job.fit_run(Tracker(), log=log)
    with scaled(share):
        seconds = seconds_of(lambda: prior.fit(train, val, lent))
    return Iterations(len(train), seconds, ends)


@contextmanager
def scaled(share: float) -> Iterator[None]:
    """Every one of `LIMITS` at `share` of its size inside the block."""
    sizes = [getattr(module, name) for module, name in LIMITS]
    for (module, name), size in zip(LIMITS, sizes, strict=True):
        setattr(module, name, max(1, round(share * size)))
    try:
        yield
    finally:
        for (module, name), size in zip(LIMITS, sizes, strict=True):
            setattr(module, name, size)


def fitted(probing: Probing, node: Node, *watchers: Watch, num: int | None = None) -> tuple[Artifact, float]:
    """Stage 2 on the first `num` latents, or all, and its seconds."""
    place = latents_of(probing) if num is None else few_on_disk(probing, num)
    job = replace(probing.place("prior", limit_val_batches=2), watchers=watchers)
    job = replace(job, config=job.config.model_copy(update={"prior": node}))
    prior, node = build_prior(job, probing.parts.vae.spec, len(probing.parts.data.train))
    job = replace(job, config=job.config.model_copy(update={"prior": node}))
    parts = replace(probing.parts, prior=prior)
    made: list[Artifact] = []
    seconds = seconds_of(lambda: made.append(pipeline.made("prior", job, parts, {"latents": place})["prior"]))
    return made[0], seconds


def few_on_disk(probing: Probing, num: int) -> Artifact:
    folder = probing.scratch / "few"
    for split, some in {"train": few_latents(probing, num), "val": some_latents(probing, "val", num)}.items():
        (folder / split).mkdir(parents=True)
        some.save(folder / split)
    return Artifact("latents", "1" * 20, folder)


def told(made: Artifact) -> Facts:
    """What every prior's artifact tells."""
    facts = json.loads((made.path / "fit.json").read_text(encoding="utf-8"))
    curve = facts["curve"]
    return {
        "seconds_an_epoch": 0.0,
        "num_parameters": facts["num_parameters"],
        "bytes_a_row": len(json.dumps(curve)) / max(1, len(curve)),
        "bytes_of_curve": len(json.dumps(curve)),
        "files": files_of(made),
    }
