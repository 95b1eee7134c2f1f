"""Stage 1's training run: settings to callbacks, and the fastest step that the hardware offers."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stage1_vae.data.loader import Batches
from stage1_vae.objective import Objective
from stage1_vae.training.stretches import Stretches
from stage1_vae.vae import VAE


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


def validation_schedule(settings: Settings, total_steps: int, stretches: Stretches) -> dict[str, int | None]:
    """When Lightning validates: at least once, also where `max_steps` ends training within the first epochs."""
    num_batches = len(stretches.batches)
    if total_steps < num_batches:
        return {"val_check_interval": -(-total_steps // stretches.length), "check_val_every_n_epoch": None}
    return {"check_val_every_n_epoch": min(settings.val_every, total_steps // num_batches)}


TRAIN_VERSION = 2
"""Part of the key of what `train` makes; raised whenever its results change."""


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
    from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging

    from stage1_vae.training.module import BestWeights, VAEModule

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
    callbacks: list[Callback] = []
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
