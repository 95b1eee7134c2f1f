"""Training that is stopped in the middle, and what is kept of it, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from training_run import settings

from expost.store.training_states import TrainingStates
from expost.training.trainer import LoopStates, lightning_fit
from stage2_prior.fitting import FitRun

NAME = "vae-0123456789abcdef0123"


class KilledError(Exception):
    """What ends the first attempt."""


class Dies(pl.Callback):
    """Ends training within an epoch, behind the first stretch of batches."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise KilledError


class StopsAt:
    """Lets a fit keep `num` times and stops it there."""

    def __init__(self, kept: LoopStates, num: int) -> None:
        self.kept, self.left = kept, num

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.kept.save(done, total, tensors, facts)
        self.left -= 1
        if not self.left:
            raise KilledError

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.kept.load()


def training_states(folder: Path, said: list[str] | None = None, share: float = 1e9) -> TrainingStates:
    lines = [] if said is None else said
    return TrainingStates(folder / NAME, folder / "quarantine", share, lines.append)


def quarantined(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("quarantine/*/*"))


def lent(kept: TrainingStates | None = None, dies: int | None = None, **asked: Any) -> FitRun:
    """A fit of stage 2 that keeps with `kept`, dies within the epoch `dies`, and is `asked` for what `fit:` sets."""
    fit = lightning_fit(settings(), [], states=kept)
    watchers = [] if dies is None else [Dies(dies)]

    def watched(*what: Any, **trainer: Any) -> None:
        fit(*what, callbacks=watchers, **trainer)

    return FitRun(torch.device("cpu"), 3, lambda figures, step: None, watched, asked)
