"""Stages 1, encode and prior in small: the pipeline's own functions on a few steps and blocks.

A prior that fits by gradient is stopped after some steps. EM has no step that is short: an iteration is a pass over all
latents. So its time is that of few latents, where every limit of size is as much smaller as the set is (what is read in
blocks there is read in blocks here), and its memory is that of all of them, in a fit that is interrupted when it has
taken it.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from expost.config.build import target_class
from expost.evaluation.images.features import FeatureNet, FeatureNetConfig
from expost.forecast.timing import FORWARD, lengthen, linear_seconds, seconds_of
from expost.job import Job
from expost.parts.assembly import Parts
from expost.parts.decoding import block_size
from expost.parts.priors import build_prior
from expost.plan.costs import Facts
from expost.plan.probe import Probing, Watch, at_most, change, files_of, make
from expost.stages.features import write_net
from expost.stages.prior import members_alone, needs
from expost.stages.vae import CALIBRATION_IMAGES
from expost.store.artifacts import Artifact
from expost.training.tracking import Tracker
from stage1_vae.data.images import spread_classes
from stage1_vae.data.splits import SPLITS
from stage1_vae.latents import IN_MEMORY_BYTES, LatentDataset, LatentSpec
from stage1_vae.latents.files import LatentWriter
from stage1_vae.latents.spec import PARAMETERS
from stage1_vae.rows import spread_rows
from stage2_prior.combined.members import Combined
from stage2_prior.fitting import FitSettings, Sizes
from stage2_prior.prior import GradientPrior, Prior, innermost

MAX_LATENT_BYTES = IN_MEMORY_BYTES * 5 // 4
"""Latents that are made up for the probes; of a larger set so many, which is enough to be read from the disk as it."""
NOISE_ROWS = 4096
"""Latents that are drawn; the others repeat them."""
NPY_HEADER = 128
"""Bytes."""
FEW_CALIBRATED = 64
"""Images by which an autoencoder that comes trained may be told from the mean image."""
SECONDS_OF_CHOICE = 5.0
"""In which the first of several priors is fitted."""
MIN_LATENTS, PASSES = 1024, 2
"""Of a fit in iterations."""


def probe_vae(probing: Probing, batch_size: int, enough: float) -> Facts:
    """Stage 1 at `batch_size`, which may be smaller than the one to come, until its steps took `enough` seconds.

    A smaller batch comes with as many images fewer, so that an epoch keeps its number of batches.
    """
    watch = Watch(enough)
    job = probing.place(f"vae-{batch_size}-{enough}", limit_val_batches=2)
    job = change(job, "trainer", batch_size=batch_size, max_steps=None, max_epochs=10**6, val_every=1)
    job = replace(job, watchers=(watch,))
    num = round(batch_size / probing.rank_batch * len(probing.images.data.train))
    parts = probing.with_few(train=max(4 * batch_size, num))
    vae, seconds = make("vae", job, parts)
    files = files_of(vae.path)
    history = json.loads((vae.path / "history.json").read_text(encoding="utf-8"))
    return {
        "batch_size": batch_size,
        "step_size": batch_size,
        "seconds_once": max(0.0, seconds - watch.seconds),
        "seconds_a_step": watch.seconds_a_step,
        "grown_bytes": watch.grown_bytes,
        "bytes_an_epoch": files.pop("history.json") / max(1, len(history)),
        "files": files,
    }


def probe_calibration(probing: Probing) -> Facts:
    """Stage 1 that comes from elsewhere: the pass over training images that gives its likelihood a scale."""
    data, artifacts = probing.images.data, list[Artifact]()
    most = min(len(data.train), CALIBRATION_IMAGES)

    def calibrate(num: int) -> float:
        artifact, seconds = make("vae", probing.place(f"vae-{num}"), probing.with_few(train=num))
        artifacts.append(artifact)
        return seconds

    times = lengthen(calibrate, min(block_size(data.shape), most), most, probing.enough)
    files = files_of(artifacts[-1].path)
    size = probing.rank_batch
    return {
        "batch_size": size,
        "step_size": size,
        "seconds_once": linear_seconds(times, most),
        "seconds_a_step": 0.0,
        "bytes_an_epoch": 0,
        "calibrated_on": most,
        "files": files,
    }


def train_hardly(probing: Probing) -> Artifact:
    """A VAE after one step: made by the first who asks, found by all others."""
    job = change(probing.place("vae"), "trainer", max_steps=1, batch_size=2)
    num = 4 if probing.images.frozen is None else FEW_CALIBRATED
    return make("vae", job, probing.with_few(train=num, val=2))[0]


def untrained_net(probing: Probing) -> Artifact:
    """The feature net with random weights, written as the trained one will be."""
    folder, data = probing.scratch / "features", probing.images.data
    folder.mkdir(exist_ok=True)
    accuracy = 0.5 if data.num_classes else None
    config = FeatureNetConfig(data.shape, data.num_classes, 0, accuracy, not data.are_pictures)
    write_net(FeatureNet(config), folder)
    return Artifact("features", "0" * 20, folder)


def probe_encode(probing: Probing) -> Facts:
    """Encoding, some blocks of the training images with an untrained VAE; the files of all images to the byte."""
    vae, data = train_hardly(probing), probing.images.data

    def few(num: int) -> Parts:
        return probing.with_few(train=num, val=1, test=1)

    return lengthen_latents(probing, few, block_size(data.shape), vae=vae)


def lengthen_latents(probing: Probing, few: Callable[[int], Parts], block: int, **given: Artifact) -> Facts:
    """The stage that makes latents, on `few` of training and one of each other split, `block` of them to begin with."""
    data, artifacts = probing.parts.data, list[Artifact]()

    def encode(num: int) -> float:
        latents, seconds = make("latents", probing.place(f"encode-{len(artifacts)}"), few(num), **given)
        artifacts.append(latents)
        return seconds

    encode(2)  # pays for what is there once in a process
    times = lengthen(encode, min(block, len(data.train)), len(data.train), probing.enough)
    files = files_of(artifacts[-1].path)
    for name, size in files.items():
        split = name.partition("/")[0]
        if name.endswith(".npy"):
            num = times[-1][0] if split == "train" else 1
            files[name] = NPY_HEADER + (size - NPY_HEADER) // num * len(getattr(data, split))
    return {"times": times, "files": files}


def imagine_inputs(probing: Probing) -> Facts:
    """Make what later stages read: an untrained VAE, and latents in full number; how many there are of each split."""
    train_hardly(probing)
    spec, family = probing.images.vae.spec, probing.images.vae.family
    params = imagine_params(spec, family)
    row_bytes = sum(values[0].nbytes for values in params.values())
    rows = {}
    for split in SPLITS:
        images = getattr(probing.images.data, split)
        rows[split] = num = min(len(images), max(1000, MAX_LATENT_BYTES // row_bytes))
        labels = images.labels
        if labels is not None and num < len(images):
            labels = labels[spread_rows(len(images), num)]  # files often come sorted by class
        folder = latents_of(probing).path / split
        folder.mkdir(parents=True)
        with LatentWriter.create(folder, spec, family, num, labels is not None) as writer:
            for start in range(0, num, NOISE_ROWS):
                size = min(NOISE_ROWS, num - start)
                block = {name: values[:size] for name, values in params.items()}
                writer.write(start, block, None if labels is None else labels[start : start + size])
            writer.finish({})
    return rows


def imagine_params(spec: LatentSpec, family: str) -> dict[str, np.ndarray]:
    """Parameters of `NOISE_ROWS` posteriors: N(0, I) a tenth as wide, bits whose logits are N(0, 1), uniform codes, the
    same on a sphere and in a box."""
    generator, shape = np.random.default_rng(0), (NOISE_ROWS, *spec.shape)
    if family == "codes":
        sizes = np.repeat(spec.num_codes, [height * width for height, width in spec.grids])  # [T]
        return {"codes": generator.integers(sizes, size=shape).astype(spec.dtype("codes"))}
    first, *widths = PARAMETERS[family]
    middle = generator.standard_normal(shape, dtype=np.float32)
    if family == "power_spherical":
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        return {first: middle, widths[0]: np.full(NOISE_ROWS, math.log(100.0), dtype=np.float32)}  # a tenth wide, too
    if family == "draws":
        noise = generator.standard_normal((len(widths), *shape), dtype=np.float32)
        return {first: middle} | dict(zip(widths, middle + 0.1 * noise, strict=True))
    params = {first: np.tanh(middle) if family == "truncated_normal" else middle}
    return params | {name: np.full(shape, math.log(0.1), dtype=np.float32) for name in widths}


def latents_of(probing: Probing) -> Artifact:
    return Artifact("latents", "0" * 20, probing.scratch / "latents")


def first_latents(probing: Probing, split: str, num: int) -> LatentDataset:
    """The first `num` of the imagined latents."""
    whole = LatentDataset.load(latents_of(probing).path / split)
    params = {name: values[:num] for name, values in whole.params.items()}
    return LatentDataset(whole.spec, whole.family, params, None if whole.labels is None else whole.labels[:num])


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
    """The prior on imagined latents: in steps, in iterations, or whole where it is fitted in closed form; one made of
    others as each of them."""
    node, alone = probing.job.config.prior, members_alone(probing.job, probing.parts)
    if alone:
        members = [probe_prior(replace(probing, job=part.job, parts=part.parts)) for part in alone]
        return {"members": members, "num_parameters": sum(facts["num_parameters"] for facts in members)}
    if issubclass(target_class(node), Combined):  # it takes the seconds that it is given
        facts, _ = fit_prior(probing, latents_of(probing), seconds=SECONDS_OF_CHOICE + probing.enough)
        return facts | {"unit": "", "num": 0, "seconds_a_unit": 0.0, "seconds_once": float(node["seconds"])}
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
    return facts | {
        "unit": "step",
        "num": course.epochs * course.steps,
        "seconds_a_unit": watch.seconds_a_step,
        "seconds_once": max(0.0, seconds - watch.seconds),
        "epochs": course.epochs,
        "more": FORWARD * course.epochs * min(num_val, course.held_out or num_val) / course.batch_size,
    }


def probe_iterations(probing: Probing) -> Facts:
    """Some passes over few latents for the time, and over all of them for the memory."""
    num, node, prior = len(probing.parts.data.train), probing.job.config.prior, probing.parts.prior
    whole = first_latents(probing, "train", num)
    fits: dict[int, Iterations] = {}

    def iterate(few: int) -> float:
        train = few_latents(probing, few)
        fits[few] = fit_iterations(probing, train, len(train) / num, PASSES)
        return fits[few].seconds_a_pass

    most_components = int(
        getattr(innermost(prior), "num_components", 0)
    )  # of one that chooses, as many as it has room for
    least = 2 * max(most_components, prior.min_images_a_class * prior.num_classes)
    first = min(len(whole), max(MIN_LATENTS, least))
    iterate(first)  # pays for what is there once in a process
    timed = [fits[few] for few, _ in lengthen(iterate, first, len(whole), probing.enough)]
    few_on_disk = Artifact("latents", "1" * 20, probing.scratch / "few")
    for split in SPLITS:
        latents = few_latents(probing, first) if split == "train" else first_latents(probing, split, first)
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
    of_each = probing.parts.prior.min_images_a_class
    whole = first_latents(probing, "train", len(probing.parts.data.train))
    if of_each == 0 or whole.labels is None or num >= len(whole):
        return first_latents(probing, "train", num)
    return whole.take(spread_classes(len(whole), num, whole.labels, of_each))


def fit_iterations(probing: Probing, train: LatentDataset, share: float, num: int) -> Iterations:
    """The prior's own fit on `train`, `num` iterations of it, as of a set that is `1 / share` times as large."""
    val = first_latents(probing, "val", max(2, round(share * len(probing.parts.data.val))))
    job, prior = change_prior(probing.job, train.spec, len(train), max_iter=num, tol=0.0, num_restarts=1)
    ends: dict[str, list[float]] = {}

    def log(figures: Mapping[str, float], step: int) -> None:
        of_class = next(iter(figures)).rpartition("_of_")[2]  # the figure itself where there is one fit
        ends.setdefault(of_class, []).append(time.perf_counter())

    lent = job.fit_run(Tracker(), log=log, sizes=Sizes().scale(share))
    seconds = seconds_of(lambda: prior.fit(train, val, lent))
    return Iterations(len(train), seconds, ends)


def change_prior(job: Job, spec: LatentSpec, num: int, **settings: Any) -> tuple[Job, Prior]:
    """The job with other `settings` of its prior, and that prior, for `num` latents."""
    job = change(job, "prior", **settings)
    prior, node = build_prior(job, spec, num)
    return change(job, "prior", **node), prior


def fit_prior(probing: Probing, latents: Artifact, *watchers: Watch, **settings: float) -> tuple[Facts, float]:
    """What every artifact of stage 2 tells, made of these `latents` with other `settings`; and its seconds."""
    job = replace(probing.place("prior", limit_val_batches=2), watchers=watchers)
    job, prior = change_prior(job, probing.parts.spec, len(probing.parts.data.train), **settings)
    parts = replace(probing.parts, prior=prior)
    names, given = needs(job.config, parts), {"latents": latents}  # what is not given would be made in full
    if "vae" in names:
        given["vae"] = train_hardly(probing)
    if "features" in names and job.config.evaluation.features is None:  # a file is only noted
        given["features"] = untrained_net(probing)
    artifact, seconds = make("prior", job, parts, **given)
    fit = json.loads((artifact.path / "fit.json").read_text(encoding="utf-8"))
    curve_bytes = len(json.dumps(fit["curve"]))
    facts = {
        "epochs": 0,
        "more": 0,
        "num_parameters": fit["num_parameters"],
        "bytes_a_row": curve_bytes / max(1, len(fit["curve"])),
        "bytes_of_curve": curve_bytes,
        "files": files_of(artifact.path),
    }
    return facts, seconds
