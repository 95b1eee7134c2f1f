"""Stages 1 and encode in small: the pipeline's own functions on a few steps and blocks."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from expost import pipeline
from expost.costs.fork import Facts
from expost.costs.watch import grown, seconds_of
from expost.job import Run
from expost.parts.assembly import Parts
from expost.parts.decoding import block_size
from expost.plan.watch import Watch
from expost.store.artifacts import Artifact, Store
from stage1_vae.data.images import subset
from stage1_vae.data.splits import SPLITS
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.latents.dataset import IN_MEMORY_BYTES, PARAMETERS
from stage1_vae.latents.files import LatentWriter
from stage1_vae.rows import spread_rows

MAX_LATENT_BYTES = IN_MEMORY_BYTES * 5 // 4
"""Latents that are made up for the probes; of a larger set so many, which is enough to be read from the disk as it."""
NOISE_ROWS = 4096
"""Latents that are drawn; the others repeat them."""


@dataclass(frozen=True)
class Probing:
    """What the probes share.

    Attributes:
        job: the run, in small: a root of its own, one rank, no loggers.
        parts: its images in full number, its models.
        scratch: an empty folder.
        rank_batch: images of a step on one rank.
    """

    job: Run
    parts: Parts
    scratch: Path
    rank_batch: int

    @property
    def enough(self) -> float:
        return self.job.config.plan.probe_seconds

    def with_few(self, **counts: int) -> Parts:
        """The parts with at most so many images of the splits that are named."""
        data = self.parts.data
        few: dict[str, Any] = {split: subset(getattr(data, split), num) for split, num in counts.items()}
        return replace(self.parts, data=replace(data, **few))

    def place(self, name: str, **limits: Any) -> Run:
        """The job with a store of its own, so that nothing is found there, and with limits for Lightning."""
        return replace(self.job, store=Store(self.scratch / name), trainer_overrides=limits)


def probe_vae(probing: Probing, batch_size: int, enough: float) -> Facts:
    """Stage 1 at `batch_size`, which may be smaller than the one to come, until its steps took `enough` seconds.

    A smaller batch comes with as many images fewer, so that an epoch keeps its number of batches.
    """
    small = {"batch_size": batch_size, "max_steps": None, "max_epochs": 10**6, "val_every": 1}
    trainer = probing.job.config.trainer.model_copy(update=small)
    watch, made = Watch(enough), list[Artifact]()
    job = replace(
        probing.place(f"vae-{batch_size}-{enough}", limit_val_batches=2),
        config=probing.job.config.model_copy(update={"trainer": trainer}),
        watchers=(watch,),
    )
    share = batch_size / probing.rank_batch
    parts = probing.with_few(train=max(4 * batch_size, round(share * len(probing.parts.data.train))))
    seconds = seconds_of(lambda: made.append(pipeline.made("vae", job, parts)["vae"]))
    history = json.loads((made[0].path / "history.json").read_text(encoding="utf-8"))
    return {
        "batch_size": batch_size,
        "step_size": batch_size,
        "seconds_once": watch.once(seconds),
        "seconds_a_step": watch.seconds_a_step,
        "seconds_a_val_image": watch.seconds_an_item,
        "bytes_by_steps": watch.peak_bytes,
        "bytes_an_epoch": len(json.dumps(history)) / max(1, len(history)),
        "files": {name: size for name, size in files_of(made[0]).items() if name != "history.json"},
    }


def hardly_trained(probing: Probing) -> Artifact:
    """A VAE after one step: made by the first who asks, found by all others."""
    trainer = probing.job.config.trainer.model_copy(update={"max_steps": 1, "batch_size": 2})
    config = probing.job.config.model_copy(update={"trainer": trainer})
    job = replace(probing.place("vae"), config=config)
    return pipeline.made("vae", job, probing.with_few(train=4, val=2))["vae"]


def probe_encode(probing: Probing) -> Facts:
    """Encoding, some blocks of the training images with an untrained VAE, which is there already."""
    vae = hardly_trained(probing)
    block, data = block_size(probing.parts.data.shape), probing.parts.data
    made: list[Artifact] = []

    def run(num: int) -> float:
        parts, job = probing.with_few(train=num, val=1, test=1), probing.place(f"encode-{len(made)}")
        return seconds_of(lambda: made.append(pipeline.made("latents", job, parts, {"vae": vae})["latents"]))

    run(2)  # pays for what is there once in a process
    times = grown(run, min(block, len(data.train)), len(data.train), probing.enough)
    sizes = files_of(made[-1])
    return {"times": times, "files": {name: size for name, size in sizes.items() if not name.endswith(".npy")}}


def imagine_inputs(probing: Probing) -> Facts:
    """What later stages read: an untrained VAE, and latents in full number."""
    hardly_trained(probing)
    spec, family = probing.parts.vae.spec, probing.parts.vae.bottleneck.family
    params = imagined_params(spec, family)
    row_bytes = spec.num_dims * sum(values.itemsize for values in params.values())
    rows = {}
    for split in SPLITS:
        images = getattr(probing.parts.data, split)
        rows[split] = num = min(len(images), max(1000, MAX_LATENT_BYTES // row_bytes))
        all_labels = images.labels
        if all_labels is not None and num < len(images):
            all_labels = all_labels[spread_rows(len(images), num)]  # files often come sorted by class
        folder = probing.scratch / "latents" / split
        folder.mkdir(parents=True)
        with LatentWriter.create(folder, spec, family, num, images.labels is not None) as writer:
            for start in range(0, num, NOISE_ROWS):
                some = slice(start, min(start + NOISE_ROWS, num))
                labels = None if all_labels is None else all_labels[some]
                writer.write(start, {name: values[: some.stop - start] for name, values in params.items()}, labels)
            writer.finish({})
    return {"rows": rows}


def imagined_params(spec: LatentSpec, family: str) -> dict[str, np.ndarray]:
    """Parameters of `NOISE_ROWS` posteriors: N(0, I) a tenth as wide, bits whose logits are N(0, 1), uniform codes."""
    generator, shape = np.random.default_rng(0), (NOISE_ROWS, *spec.shape)
    if family == "codes":
        sizes = np.repeat(spec.num_codes, [height * width for height, width in spec.grids])  # [T]
        return {"codes": generator.integers(sizes, size=shape).astype(spec.dtype("codes"))}
    first, *widths = PARAMETERS[family]
    params = {first: generator.standard_normal(shape, dtype=np.float32)}
    return params | {name: np.full(shape, math.log(0.1), dtype=np.float32) for name in widths}


def latents_of(probing: Probing) -> Artifact:
    return Artifact("latents", "0" * 20, probing.scratch / "latents")


def some_latents(probing: Probing, split: str, num: int) -> LatentDataset:
    """The first `num` of the imagined latents."""
    whole = LatentDataset.load(latents_of(probing).path / split)
    params = {name: values[:num] for name, values in whole.params.items()}
    return LatentDataset(whole.spec, whole.family, params, None if whole.labels is None else whole.labels[:num])


def files_of(artifact: Artifact) -> dict[str, int]:
    """Bytes of each file of an artifact, by its path in it."""
    paths = sorted(path for path in artifact.path.rglob("*") if path.is_file())
    return {path.relative_to(artifact.path).as_posix(): path.stat().st_size for path in paths}
