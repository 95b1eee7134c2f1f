"""Stage 1's training run: settings to callbacks, and batches handed to Lightning a stretch at a time.

Lightning's bookkeeping (hooks, progress, connectors) costs about half a millisecond a batch, a seventh of a small net's
step. A stretch of batches passes through it as one, and the module takes one optimiser step for each batch in it: the
same steps on the same batches, whatever the length. Large images make long steps, to which that cost is nothing, and
long stretches of them would not fit in memory; so a stretch is bounded by its pixels.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from stage1_vae.data.loader import Batches
from stage1_vae.objective import Objective
from stage1_vae.training.settings import Settings
from stage1_vae.vae import VAE

TRAIN_VERSION = 2
"""Part of the key of what `train` makes; raised whenever its results change."""
AVERAGES_VERSION = 2
"""The same where weights are averaged: 1 took statistics of batches from the raw ones and did not warm up."""
MAX_LENGTH = 16
MAX_PIXELS = 2**22
"""16 MiB of float32."""


class Stretches:
    """An iterable of lists of batches; Lightning takes it as it is.

    Args:
        batches: pairs of x [B, C, H, W] and labels.
        image_shape: (C, H, W).
        one_by_one: stretches of one batch, for callbacks that must see each step.
    """

    def __init__(self, batches: Batches, image_shape: tuple[int, int, int], one_by_one: bool = False) -> None:
        self.batches = batches
        fitting = MAX_PIXELS // (batches.batch_size * math.prod(image_shape))
        self.length = 1 if one_by_one else max(1, min(MAX_LENGTH, fitting))
        self.sampler = batches.sampler  # Lightning tells it the epoch
        self.batch_sampler = None  # Lightning looks for it beside a sampler

    def __len__(self) -> int:
        return -(-len(self.batches) // self.length)

    def __iter__(self) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
        rest = iter(self.batches)
        while stretch := list(islice(rest, self.length)):
            yield stretch


def train(
    vae: VAE,
    objective: Objective,
    batches: Batches,
    val_batches: Batches,
    settings: Settings,
    lightning_fit: Callable[..., None],
    seed: int,
) -> list[dict[str, float]]:
    """Train `vae` in place; the figures of each epoch, in nats per image.

    `lightning_fit` runs Lightning's loop on a module, its training and its validation batches; it takes the keywords of
    `pytorch_lightning.Trainer`.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    # Lightning takes seconds to import: only where something is trained.
    from pytorch_lightning.callbacks import Callback, EarlyStopping

    from stage1_vae.training.averages import Averages
    from stage1_vae.training.module import BestWeights, VAEModule

    objective.begin(vae)
    stretches = Stretches(batches, vae.image_shape, one_by_one=settings.ema_decay is not None)
    total_steps = min(settings.max_epochs * len(batches), settings.max_steps or sys.maxsize)
    module = VAEModule(vae, objective, settings, total_steps, seed, batches.batch_size)
    callbacks: list[Callback] = []
    if settings.ema_decay is not None:
        callbacks.append(Averages(settings.ema_decay))
    if settings.patience is not None:
        # One check a validation; patience is in epochs.
        checks = -(-settings.patience // settings.val_every)
        callbacks += [EarlyStopping("val_loss", patience=checks), BestWeights()]
    options: dict[str, Any] = {"max_epochs": -(-total_steps // len(batches)), "callbacks": callbacks}
    # Validated at least once, also where `max_steps` ends training within the first epochs.
    options["check_val_every_n_epoch"] = min(settings.val_every, total_steps // len(batches)) or None
    if total_steps < len(batches):
        options["val_check_interval"] = -(-total_steps // stretches.length)
    with warnings.catch_warnings():
        # Lightning warns of averages of a model that may be cut up over ranks; the two are refused together.
        warnings.filterwarnings("ignore", message=".*WeightAveraging callback with a model that overrides")
        lightning_fit(module, stretches, val_batches, **options)
    vae.eval()  # what is kept is what was validated
    objective.end(vae)
    return module.history
