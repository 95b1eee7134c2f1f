"""A job cut down to what shows whether it would run: stage=check."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from expost.base import scratch
from expost.base.command import Command
from expost.base.errors import UserError
from expost.config.schema import Config, Limits
from expost.job import Job
from expost.store.artifacts import Store
from stage1_vae.data.images import ImageData, spread_classes, subset
from stage1_vae.data.latents.data import LatentData
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.prior import Prior

TOKENS = 2**13
"""A batch of 128 latents of 64 numbers; of longer ones, smaller batches."""
LONG = 512
"""Numbers of a latent beyond which each of them costs a network more, as much as it is longer."""
IMAGE_TOKENS = 8 * TOKENS
"""Numbers of latents that all images of a split may be encoded to."""


@contextmanager
def reduced(config: Config, command: Command) -> Iterator[Job]:
    """The job on few images, with two batches a stage, in a folder that is removed after the block.

    Where a latent is long there are fewer images, in smaller batches: it takes no longer than any other.

    Raises:
        UserError: for several machines, which do not share that folder.
    """
    if config.trainer.num_nodes > 1:
        raise UserError("stage=check runs on one machine; add trainer.num_nodes=1")
    with tempfile.TemporaryDirectory(prefix="check-", dir=scratch.folder()) as place:
        changes = {
            "paths": config.paths.model_copy(update={"root": Path(place)}),
            "trainer": config.trainer.model_copy(update={"max_steps": 2}),
            "evaluation": config.evaluation.reduced(),
            "limits": Limits(steps=2, tokens=None),
            "upstream": "run",
        }
        limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
        small = config.model_copy(update=changes)
        max_images = max(512, 2 * config.trainer.batch_size)
        yield Job(
            small, replace(command, sweep_dir=None), Store(Path(place)), limits, quiet=True, max_images=max_images
        )


def shortened(job: Job, spec: LatentSpec) -> Job:
    """A reduced job with fewer images, and fewer a batch, where latents of `spec` are long; and so much less of the
    prior."""
    if job.max_images is None:
        return job
    trainer, ranks = job.config.trainer, job.config.trainer.num_ranks
    size = max(2, TOKENS // spec.num_dims)
    size = min(trainer.batch_size, max(ranks, size - size % ranks))
    tokens = TOKENS * LONG // max(LONG, spec.num_dims)
    changes = {
        "trainer": trainer.model_copy(update={"batch_size": size}),
        "limits": job.config.limits.model_copy(update={"tokens": tokens}),
    }
    max_images = min(job.max_images, max(2 * size, IMAGE_TOKENS // spec.num_dims))
    return replace(job, config=job.config.model_copy(update=changes), max_images=max_images)


def truncated(data: ImageData, limit: int, prior: Prior) -> ImageData:
    """`data` with at most `limit` images a split, but as many of training, and of each class, as `prior` needs: a large
    mixture is no mistake, nor is one a class."""
    train = subset(data.train, max(limit, prior.min_images), prior.min_images_a_class)
    return replace(data, train=train, val=subset(data.val, limit), test=subset(data.test, limit))


def few_latents(data: LatentData, limit: int, prior: Prior) -> LatentData:
    """The same of latents."""

    def few(latents: LatentDataset, num: int, of_each: int) -> LatentDataset:
        return latents.take(spread_classes(len(latents), min(num, len(latents)), latents.labels, of_each))

    train = few(data.train, max(limit, prior.min_images), prior.min_images_a_class)
    return replace(data, train=train, val=few(data.val, limit, 0), test=few(data.test, limit, 0))
