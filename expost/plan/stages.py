"""Stages 1 and encode in small: the pipeline's own functions on a few steps and blocks."""

import json
import math
from dataclasses import replace

import numpy as np

from expost import pipeline
from expost.forecast.timing import lengthen, seconds_of
from expost.parts.sampling import block_size
from expost.plan.costs import Facts
from expost.plan.probe import Probing, Watch, change, files_of
from expost.store.artifacts import Artifact
from stage1_vae.latents import IN_MEMORY_BYTES, LatentDataset, LatentSpec
from stage1_vae.latents.files import LatentWriter
from stage1_vae.latents.spec import PARAMETERS
from stage1_vae.rows import spread_rows

MAX_LATENT_BYTES = IN_MEMORY_BYTES * 5 // 4
"""Latents that are made up for the probes; of a larger set so many, which is enough to be read from the disk as it."""
NOISE_ROWS = 4096
"""Latents that are drawn; the others repeat them."""
NPY_HEADER = 128
"""Bytes."""


def probe_vae(probing: Probing, batch_size: int, enough: float) -> Facts:
    """Stage 1 at `batch_size`, which may be smaller than the one to come, until its steps took `enough` seconds.

    A smaller batch comes with as many images fewer, so that an epoch keeps its number of batches.
    """
    watch, artifacts = Watch(enough), list[Artifact]()
    job = probing.place(f"vae-{batch_size}-{enough}", limit_val_batches=2)
    job = change(job, "trainer", batch_size=batch_size, max_steps=None, max_epochs=10**6, val_every=1)
    job = replace(job, watchers=(watch,))
    num = round(batch_size / probing.rank_batch * len(probing.parts.data.train))
    parts = probing.with_few(train=max(4 * batch_size, num))
    seconds = seconds_of(lambda: artifacts.append(pipeline.train_vae(job, parts)))
    files = files_of(artifacts[0])
    history = json.loads((artifacts[0].path / "history.json").read_text(encoding="utf-8"))
    return {
        "batch_size": batch_size,
        "step_size": batch_size,
        "seconds_once": max(0.0, seconds - watch.seconds),
        "seconds_a_step": watch.seconds_a_step,
        "bytes_by_steps": watch.peak_bytes,
        "bytes_an_epoch": files.pop("history.json") / max(1, len(history)),
        "files": files,
    }


def train_hardly(probing: Probing) -> Artifact:
    """A VAE after one step: made by the first who asks, found by all others."""
    job = change(probing.place("vae"), "trainer", max_steps=1, batch_size=2)
    return pipeline.train_vae(job, probing.with_few(train=4, val=2))


def probe_encode(probing: Probing) -> Facts:
    """Encoding, some blocks of the training images with an untrained VAE; the files of all images to the byte."""
    vae, data = train_hardly(probing), probing.parts.data
    artifacts: list[Artifact] = []

    def encode(num: int) -> float:
        parts, job = probing.with_few(train=num, val=1, test=1), probing.place(f"encode-{len(artifacts)}")
        return seconds_of(lambda: artifacts.append(pipeline.encode_images(job, parts, vae)))

    encode(2)  # pays for what is there once in a process
    times = lengthen(encode, min(block_size(data.shape), len(data.train)), len(data.train), probing.enough)
    files = files_of(artifacts[-1])
    for name, size in files.items():
        split = name.partition("/")[0]
        if name.endswith(".npy"):
            num = times[-1][0] if split == "train" else 1
            files[name] = NPY_HEADER + (size - NPY_HEADER) // num * len(getattr(data, split))
    return {"times": times, "files": files}


def imagine_inputs(probing: Probing) -> Facts:
    """Make what later stages read: an untrained VAE, and latents in full number; how many there are of each split."""
    train_hardly(probing)
    spec, family = probing.parts.vae.spec, probing.parts.vae.bottleneck.family
    params = imagine_params(spec, family)
    row_bytes = spec.num_dims * sum(values.itemsize for values in params.values())
    rows = {}
    for split in pipeline.SPLITS:
        images = getattr(probing.parts.data, split)
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


def first_latents(probing: Probing, split: str, num: int) -> LatentDataset:
    """The first `num` of the imagined latents."""
    whole = LatentDataset.load(latents_of(probing).path / split)
    params = {name: values[:num] for name, values in whole.params.items()}
    return LatentDataset(whole.spec, whole.family, params, None if whole.labels is None else whole.labels[:num])
