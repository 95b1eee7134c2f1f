"""The door: images -> the parameters of q(z|x), split by split."""

from collections.abc import Mapping
from typing import Any

from expost.forecast.notice import encode_parts
from expost.parts.decoding import block_size
from expost.stages.making import Making, Stage
from expost.training.progress import bar
from stage1_vae.data.splits import SPLITS
from stage1_vae.latents.files import LatentWriter
from stage1_vae.vae import ENCODE_VERSION, encode


def encode_images(making: Making) -> Mapping[str, Any]:
    """A folder of latents for each split."""
    for split in SPLITS:
        encode_split(making, split)
    return {f"num_{split}": len(getattr(making.parts.data, split)) for split in SPLITS}


def encode_split(making: Making, split: str) -> None:
    """Encode `split` into a new folder; of several ranks each fills a stretch of its rows.

    Every batch is the one that a single process would encode, noise included: the bytes are the same either way. The
    files are opened when all of them have their size, and the header is written when all ranks have closed them.
    """
    job, data, vae, folder = making.job, making.parts.data, making.vae, making.folder / split
    images = getattr(data, split)
    files = (folder, vae.spec, vae.family, len(images), images.labels is not None)
    if job.ranks.rank == 0:
        folder.mkdir()
        LatentWriter.create(*files).close()
    job.ranks.wait_for_all()
    batches = making.parts.batches(images, block_size(data.shape), job.ranks, whole_batches=True)
    with LatentWriter(*files) as writer:
        encode(vae, bar(f"encode {split}", job.shows_progress, batches), writer, batches.rows)
    job.ranks.wait_for_all()
    if job.ranks.rank == 0:
        facts = {"vae": making.inputs["vae"].key, "data": data.name, "fingerprint": data.fingerprint, "split": split}
        with LatentWriter(*files) as writer:
            writer.finish(facts)


STAGE = Stage(
    name="latents",
    typed="encode",
    needs=lambda config, parts: ("vae",),
    ingredients=lambda job, parts, keys: {"vae": keys["vae"], "version": ENCODE_VERSION},
    make=encode_images,
    expected=lambda making: encode_parts(making.job.config.trainer, making.parts, making.vae),
    in_ranks=lambda parts: True,
    reads_images=True,
)
