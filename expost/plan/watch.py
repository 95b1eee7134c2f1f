"""Times the steps of one training from within, and ends it when they tell."""

import time
from typing import Any

import pytorch_lightning as pl

from expost.costs.fork import peak_bytes


class Watch(pl.Callback):
    """Times the steps and the validations of one training, and ends it when the steps took `enough` seconds.

    The first stretch of steps is not timed: it pays for what is there once. A validation's last batch is, for the
    same reason.

    Attributes:
        num, seconds: optimiser steps, and what they took.
        all_steps: with those that were not timed.
        seconds_an_item: of validation, an image or a latent.
        val_items: what a whole validation has of them, as if all of its batches were full.
        seconds_of_validations: all of them.
        peak_bytes: of the process, by the end of the last step.
    """

    def __init__(self, enough: float) -> None:
        self.enough = enough
        self.num, self.all_steps, self.seconds, self.seconds_of_validations = 0, 0, 0.0, 0.0
        self.seconds_an_item, self.val_items, self.peak_bytes = 0.0, 0, 0
        self._first: tuple[int, float] | None = None
        self._val_started = self._batch_started = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        now = time.perf_counter()
        self.peak_bytes, self.all_steps = peak_bytes(), trainer.global_step
        if self._first is None:
            self._first = trainer.global_step, now
        else:
            self.num, self.seconds = trainer.global_step - self._first[0], now - self._first[1]
            trainer.should_stop |= self.seconds >= self.enough

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._val_started = self._batch_started = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: object, outputs: object, batch: Any, *_: int
    ) -> None:
        now = time.perf_counter()
        self.seconds_an_item = (now - self._batch_started) / len(batch[0])
        self.val_items = max(self.val_items, len(trainer.val_dataloaders or ()) * len(batch[0]))
        self._batch_started = now

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        took = time.perf_counter() - self._val_started
        self.seconds_of_validations += took
        if self._first is not None:  # no step's time
            self._first = self._first[0], self._first[1] + took

    @property
    def seconds_a_step(self) -> float:
        return self.seconds / max(1, self.num)

    def once(self, seconds: float) -> float:
        """Of the `seconds` of the whole stage, those that neither steps nor validations took."""
        return max(0.0, seconds - self.all_steps * self.seconds_a_step - self.seconds_of_validations)
