"""A job cut down to what shows whether it would run: stage=check."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestration import scratch
from orchestration.errors import UserError
from orchestration.launch import Launch
from orchestration.schema import Config
from orchestration.stages import Run
from orchestration.store import Store
from stage1_vae.data.images import ImageData, spread
from stage2_prior.per_class import needed_of_each
from stage2_prior.prior import Prior


@contextmanager
def reduced(config: Config, launch: Launch) -> Iterator[Run]:
    """The job on few images, with two batches a stage, in a folder that is removed after the block.

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
            "upstream": "run",
        }
        limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
        small = config.model_copy(update=changes)
        job = Run(small, replace(launch, sweep_dir=None), Store(Path(place)), limits, quiet=True)
        job.max_images = max(512, 2 * config.trainer.batch_size)
        yield job


def truncated(data: ImageData, limit: int, prior: Prior) -> ImageData:
    """`data` with at most `limit` images a split, but as many of training, and of each class, as `prior` needs: a large
    mixture is no mistake, nor is one a class."""
    most = max(limit, *(each.min_images for each in prior.modules() if isinstance(each, Prior)))
    train = spread(data.train, most, needed_of_each(prior))
    return replace(data, train=train, val=spread(data.val, limit), test=spread(data.test, limit))
