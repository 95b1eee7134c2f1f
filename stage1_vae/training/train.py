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
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging
from torch import Tensor

from stage1_vae.data.loader import Batches
from stage1_vae.objective import Objective
from stage1_vae.training.module import VAEModule
from stage1_vae.vae import VAE

TRAIN_VERSION = 2
"""Part of the key of what `train` makes; raised whenever its results change."""
MAX_LENGTH = 16
MAX_PIXELS = 2**22
"""16 MiB of float32."""


@dataclass(frozen=True)
class Settings:
    """The `trainer:` section as far as it can change a result; `precision` is "32" or "bf16"."""

    max_epochs: int
    max_steps: int | None
    lr: float
    weight_decay: float
    schedule: str
    warmup_steps: int
    gradient_clip: float | None
    ema_decay: float | None
    patience: int | None
    val_every: int
    precision: str
    compile: bool


class BestWeights(pl.Callback):
    """Keeps the weights of the lowest validation loss and puts them back at the end: what early stopping is for.

    Stands behind weight averaging in the list of callbacks, so that it sees the weights that are validated.
    """

    def __init__(self) -> None:
        self.best = float("inf")
        self.weights: dict[str, Tensor] = {}
        self.validated: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validated = {name: value.clone() for name, value in module.state_dict().items()}

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if not trainer.sanity_checking and loss < self.best:
            self.best = loss
            self.weights = self.validated

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.weights:
            module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.weights = state["best"], state["weights"]


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


def validation_schedule(settings: Settings, total_steps: int, stretches: Stretches) -> dict[str, int | None]:
    """When Lightning validates: at least once, also where `max_steps` ends training within the first epochs."""
    num_batches = len(stretches.batches)
    if total_steps < num_batches:
        return {"val_check_interval": -(-total_steps // stretches.length), "check_val_every_n_epoch": None}
    return {"check_val_every_n_epoch": min(settings.val_every, total_steps // num_batches)}


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
    stretches = Stretches(batches, vae.image_shape, one_by_one=settings.ema_decay is not None)
    total_steps = min(settings.max_epochs * len(batches), settings.max_steps or sys.maxsize)
    module = VAEModule(
        vae,
        objective,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        gradient_clip=settings.gradient_clip,
        max_steps=settings.max_steps,
        total_steps=total_steps,
        seed=seed,
        batch_size=batches.batch_size,
        bf16=settings.precision == "bf16",
        compiled=settings.compile,
    )
    callbacks: list[pl.Callback] = []
    if settings.ema_decay is not None:
        # Buffers (running statistics) are averages already.
        callbacks.append(EMAWeightAveraging(decay=settings.ema_decay, use_buffers=False))
    if settings.patience is not None:
        # One check a validation; patience is in epochs.
        checks = -(-settings.patience // settings.val_every)
        callbacks += [EarlyStopping("val_loss", patience=checks), BestWeights()]
    options: dict[str, Any] = {
        "max_epochs": -(-total_steps // len(batches)),
        **validation_schedule(settings, total_steps, stretches),
        "callbacks": callbacks,
    }
    with warnings.catch_warnings():
        # Lightning warns of averages of a model that may be cut up over ranks; the two are refused together.
        warnings.filterwarnings("ignore", message=".*WeightAveraging callback with a model that overrides")
        lightning_fit(module, stretches, val_batches, **options)
    return module.history
