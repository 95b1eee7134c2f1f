"""One split of the images into latents on disk, by one process or by several ranks: the same bytes either way."""

from collections.abc import Mapping
from pathlib import Path

from expost.job import Run
from expost.parts.assembly import Parts
from expost.parts.sampling import block_size
from expost.training.progress import bar
from stage1_vae.encode import encode
from stage1_vae.latents.files import LatentWriter
from stage1_vae.vae import VAE


def encode_split(job: Run, parts: Parts, vae: VAE, split: str, folder: Path, facts: Mapping[str, str]) -> None:
    """Encode `split` into the new `folder`; of several ranks each fills a stretch of its rows.

    Every batch is the one that a single process would encode, noise included. The files are opened when all of them
    have their size, and the header is written when all ranks have closed them.

    Args:
        job, parts: of this rank.
        vae: trained.
        split: train, val or test.
        folder: on a disk that all ranks see.
        facts: kept with the latents.
    """
    images = getattr(parts.data, split)
    files = (folder, vae.spec, vae.bottleneck.family, len(images), images.labels is not None)
    if job.ranks.rank == 0:
        folder.mkdir()
        LatentWriter.create(*files).close()
    job.ranks.wait_for_all()
    batches = parts.batches(images, block_size(parts.data.shape), job, whole_batches=True)
    with LatentWriter(*files) as writer:
        encode(vae, bar(f"encode {split}", job.shows_progress, batches), writer, batches.rows)
    job.ranks.wait_for_all()
    if job.ranks.rank == 0:
        with LatentWriter(*files) as writer:
            writer.finish({**facts, "split": split})
