"""The door: images, or files of latents -> the parameters of q(z|x), split by split."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from expost.forecast.latents import copy_parts
from expost.forecast.notice import Expectation, encode_parts
from expost.job import Job
from expost.parts.assembly import ImageParts, LatentParts, Parts
from expost.parts.decoding import block_size
from expost.stages.making import Making, Stage
from expost.training.progress import bar
from stage1_vae.data.latents.data import LatentData
from stage1_vae.data.splits import SPLITS
from stage1_vae.external.autoencoder import External
from stage1_vae.latents.asked import ask_twice, num_asked, spread_over
from stage1_vae.latents.files import LatentWriter
from stage1_vae.vae import ENCODE_VERSION, encode

COPY_VERSION = 1
"""Part of the key of latents that are copied from files; raised whenever what they become changes."""


def encode_images(making: Making) -> Mapping[str, Any]:
    """A folder of latents for each split."""
    parts = making.parts.of_images
    if parts.frozen is None:  # what is frozen was asked when it was loaded
        ask(making)
    for split in SPLITS:
        encode_split(making, split)
    if parts.frozen is not None and isinstance(parts.vae, External):
        parts.vae.check_unchanged(parts.frozen.loaded.weights_sha256)
    return {f"num_{split}": len(getattr(making.parts.data, split)) for split in SPLITS}


def ask(making: Making) -> None:
    """Ask the VAE about some training images twice, before all are encoded.

    Raises:
        EncodingError: its posterior is no function of an image, or it changes while it encodes.
    """
    parts = making.parts.of_images
    rows = spread_over(len(parts.data.train), num_asked(math.prod(parts.data.shape)))
    x = parts.preprocess(parts.data.train.batch(rows), torch.Generator().manual_seed(0))
    with making.job.seeded(0):
        ask_twice(making.vae, x.to(making.vae.device))


def encode_split(making: Making, split: str) -> None:
    """Encode `split` into a new folder; of several ranks each fills a stretch of its rows.

    Every batch is the one that a single process would encode, noise included: the bytes are the same either way. The
    files are opened when all of them have their size, and the header is written when all ranks have closed them.
    """
    job, parts, vae, folder = making.job, making.parts.of_images, making.vae, making.folder / split
    data = parts.data
    images = getattr(data, split)
    files = (folder, vae.spec, vae.family, len(images), images.labels is not None)
    if job.ranks.rank == 0:
        folder.mkdir()
        LatentWriter.create(*files).close()
    job.ranks.wait_for_all()
    batches = parts.batches(images, block_size(data.shape), job.ranks, whole_batches=True)
    with LatentWriter(*files) as writer:
        encode(vae, bar(f"encode {split}", job.shows_progress, batches), writer, batches.rows)
    job.ranks.wait_for_all()
    if job.ranks.rank == 0:
        facts = {"vae": making.inputs["vae"].key, "data": data.name, "fingerprint": data.fingerprint, "split": split}
        with LatentWriter(*files) as writer:
            writer.finish(facts)


def copy_latents(making: Making, data: LatentData) -> Mapping[str, Any]:
    """The same of latents that somebody else has encoded, block by block."""
    for split, latents in data.splits.items():
        (making.folder / split).mkdir()
        latents.save(making.folder / split)
    return {f"num_{split}": len(latents) for split, latents in data.splits.items()}


def make_latents(making: Making) -> Mapping[str, Any]:
    parts = making.parts
    return copy_latents(making, parts.data) if isinstance(parts, LatentParts) else encode_images(making)


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change the latents."""
    if isinstance(parts, LatentParts):
        return {"files": parts.data.fingerprint, "version": COPY_VERSION}
    return {"vae": keys["vae"], "version": ENCODE_VERSION}


def expected(making: Making) -> list[Expectation]:
    if isinstance(making.parts, LatentParts):
        return copy_parts(list(making.parts.data.splits.values()))
    return encode_parts(making.job.config.trainer, making.parts.of_images, making.vae)


STAGE = Stage(
    name="latents",
    typed="encode",
    needs=lambda config, parts: () if isinstance(parts, LatentParts) else ("vae",),
    ingredients=ingredients,
    make=make_latents,
    expected=expected,
    in_ranks=lambda parts: isinstance(parts, ImageParts),
    reads_images=True,
)
