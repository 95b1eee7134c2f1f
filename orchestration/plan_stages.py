"""Stages in small: the pipeline's own functions on a few steps, blocks or iterations, timed at two lengths.

What a stage takes is a part that is there once and a part for each step. Two runs of different lengths tell them apart;
the length is doubled until the difference can be trusted.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from orchestration.assembly import Parts, build_prior
from orchestration.build import target_class
from orchestration.plan_fork import Facts
from orchestration.sampling import block_size
from orchestration.schema import Node
from orchestration.stages import Run
from orchestration.store import Artifact, Store
from stage1_vae.data.images import spread
from stage1_vae.latent_files import LatentWriter
from stage1_vae.latents import IN_MEMORY_BYTES, PARAMETERS, LatentDataset
from stage2_prior.fit import FitSettings
from stage2_prior.prior import GradientPrior

MAX_LATENT_BYTES = IN_MEMORY_BYTES * 5 // 4
"""Latents that are made up for the probes; of a larger set so many, which is enough to be read from the disk as it."""


@dataclass(frozen=True)
class Probing:
    """What the probes share.

    Attributes:
        job: the run, in small: a root of its own, one rank, no loggers.
        parts: its images in full number, its models.
        scratch: an empty folder.
    """

    job: Run
    parts: Parts
    scratch: Path

    @property
    def enough(self) -> float:
        return self.job.config.plan.probe_seconds

    def place(self, name: str, **limits: Any) -> Run:
        """The job with a store of its own, so that nothing is found there, and with limits for Lightning."""
        return replace(self.job, store=Store(self.scratch / name), trainer_overrides=limits)


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def lengths(run: Callable[[int], float], most: int, enough: float) -> tuple[float, float]:
    """Seconds that are there once, and seconds a unit.

    Args:
        run: does so many units; returns its seconds.
        most: units there are.
        enough: the difference, in seconds, that the noise of a machine at work does not drown.
    """
    first = run(1)  # imports, compilation, caches: next to a long one they are nothing
    once, num, longer = first if first > 2 * enough else run(1), 1, 0.0
    while num < most and longer - once < enough:
        num = min(2 * num, most)
        longer = run(num)
    unit = max(0.0, longer - once) / (num - 1) if num > 1 else 0.0
    return max(0.0, once - unit), unit


def probe_vae(probing: Probing, batch_size: int, timed: bool) -> Facts:
    """Stage 1 at `batch_size`, which may be smaller than the one to come; `timed`, or one step for its memory alone."""
    trainer = probing.job.config.trainer
    made: list[Artifact] = []

    def run(num_steps: int, num_val: int = 1) -> float:
        small = trainer.model_copy(update={"batch_size": batch_size, "max_steps": num_steps, "max_epochs": 10**6})
        config = probing.job.config.model_copy(update={"trainer": small})
        job = replace(probing.place(f"vae-{len(made)}", limit_val_batches=num_val), config=config)
        return seconds_of(lambda: made.append(pipeline.train_vae(job, probing.parts)))

    if not timed:
        run(1)
        return {"seconds_a_step": run(1)}
    num_batches = -(-len(probing.parts.data.train) // batch_size)
    most = min(2048, 4 * num_batches) if any(True for _ in probing.parts.vae.parameters()) else 1
    once, step = lengths(run, most, probing.enough)
    num_val = -(-len(probing.parts.data.val) // max(batch_size, block_size(probing.parts.data.shape)))
    several = min(8, num_val)
    val = max(0.0, run(1, several) - once - step) / (several - 1) if several > 1 else 0.0
    history = json.loads((made[-1].path / "history.json").read_text())
    return {
        "batch_size": batch_size,
        "seconds_once": max(0.0, once - val),
        "seconds_a_step": step,
        "seconds_a_val_batch": val,
        "bytes_an_epoch": len(json.dumps(history)) / max(1, len(history)),
        "files": {name: size for name, size in files_of(made[-1]).items() if name != "history.json"},
    }


def hardly_trained(probing: Probing) -> Artifact:
    """A VAE after one step: made by the first who asks, found by all others."""
    trainer = probing.job.config.trainer.model_copy(update={"max_steps": 1, "batch_size": 2})
    config = probing.job.config.model_copy(update={"trainer": trainer})
    return pipeline.train_vae(replace(probing.place("vae", limit_val_batches=1), config=config), probing.parts)


def probe_encode(probing: Probing) -> Facts:
    """Encoding, some blocks of the training images with an untrained VAE, which is there already."""
    vae = hardly_trained(probing)
    block, data = block_size(probing.parts.data.shape), probing.parts.data
    made: list[Artifact] = []

    def run(num_blocks: int) -> float:
        cut = replace(data, train=spread(data.train, num_blocks * block), val=spread(data.val, 1))
        parts = replace(probing.parts, data=replace(cut, test=spread(data.test, 1)))
        job = probing.place(f"encode-{len(made)}")
        return seconds_of(lambda: made.append(pipeline.encode_images(job, parts, vae)))

    most = -(-len(data.train) // block)
    once, seconds = lengths(run, min(256, most), probing.enough)
    sizes = files_of(made[-1])
    return {
        "seconds_once": once,
        "seconds_an_image": seconds / min(block, len(data.train)),
        "files": {name: size for name, size in sizes.items() if not name.endswith(".npy")},
    }


def imagine_inputs(probing: Probing) -> Facts:
    """What later stages read: an untrained VAE, and latents in full number, N(0, I) with posteriors a tenth as wide."""
    hardly_trained(probing)
    spec, family = probing.parts.vae.spec, probing.parts.vae.bottleneck.family
    generator = np.random.default_rng(0)
    row_bytes = spec.num_dims * 4 * len(PARAMETERS[family])
    rows = {}
    for split in pipeline.SPLITS:
        images = getattr(probing.parts.data, split)
        rows[split] = num = min(len(images), max(1000, MAX_LATENT_BYTES // row_bytes))
        params = {"loc": generator.standard_normal((num, *spec.shape), dtype=np.float32)}
        if "log_std" in PARAMETERS[family]:
            params["log_std"] = np.full_like(params["loc"], math.log(0.1))
        folder = probing.scratch / "latents" / split
        folder.mkdir(parents=True)
        with LatentWriter.create(folder, spec, family, num, images.labels is not None) as writer:
            writer.write(0, params, None if images.labels is None else images.labels[:num])
            writer.finish({})
    return {"rows": rows}


def latents_of(probing: Probing) -> Artifact:
    return Artifact("latents", "0" * 20, probing.scratch / "latents")


def probe_prior(probing: Probing) -> Facts:
    """The prior, some steps or iterations of it, on imagined latents."""
    node = probing.job.config.prior
    learns = issubclass(target_class(node), GradientPrior)
    made: list[Artifact] = []

    def run(changes: Node, **limits: int) -> float:
        job = probing.place(f"prior-{len(made)}", **limits)
        job = replace(job, config=job.config.model_copy(update={"prior": node | changes}))
        parts = replace(probing.parts, prior=build_prior(job, probing.parts.vae.spec, len(probing.parts.data.train)))
        return seconds_of(lambda: made.append(pipeline.fit_prior(job, parts, latents_of(probing))))

    facts: Facts = {"seconds_an_epoch": 0.0}
    if learns:
        fit = FitSettings(**(node.get("fit") or {}))
        rows = len(LatentDataset.load(latents_of(probing).path / "train"))
        size = min(fit.batch_size, max(32, rows // 16), rows)
        once, unit = lengths(
            lambda num: run({}, max_epochs=1, limit_train_batches=num), min(512, rows // size), probing.enough
        )
        longer = run({}, max_epochs=3, limit_train_batches=1)
        facts |= {"unit": "step", "seconds_an_epoch": max(0.0, (longer - once - 3 * unit) / 2)}
        facts |= {"epochs": fit.max_epochs, "num": fit.max_epochs * max(1, len(probing.parts.data.train) // size)}
        once = max(0.0, once - facts["seconds_an_epoch"])
    elif "max_iter" in node:
        num_iterations = int(node["max_iter"]) * int(node.get("num_restarts") or 1)
        changes = {"tol": 0.0, "num_restarts": 1}
        once, unit = lengths(lambda num: run({"max_iter": num, **changes}), min(32, num_iterations), probing.enough)
        facts |= {"unit": "iteration", "num": num_iterations, "epochs": 0}
    else:
        run({})
        once, unit = run({}), 0.0
        facts |= {"unit": "", "num": 0, "epochs": 0}
    fitted = json.loads((made[-1].path / "fit.json").read_text())
    curve = fitted["curve"]
    return facts | {
        "seconds_once": once,
        "seconds_a_unit": unit,
        "num_parameters": fitted["num_parameters"],
        "bytes_a_row": len(json.dumps(curve)) / max(1, len(curve)),
        "bytes_of_curve": len(json.dumps(curve)),
        "files": files_of(made[-1]),
    }


def files_of(artifact: Artifact) -> dict[str, int]:
    """Bytes of each file of an artifact, by its path in it."""
    paths = sorted(path for path in artifact.path.rglob("*") if path.is_file())
    return {path.relative_to(artifact.path).as_posix(): path.stat().st_size for path in paths}
