"""Training that is stopped in the middle, and what is kept of it, for tests."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from expost.store.training_states import TrainingStates

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


def training_states(folder: Path, said: list[str] | None = None, share: float = 1e9) -> TrainingStates:
    return TrainingStates(folder / NAME, folder / "quarantine", share, [].append if said is None else said.append)


def quarantined(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("quarantine/*/*"))
