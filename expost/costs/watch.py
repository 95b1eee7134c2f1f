"""How long work takes, when all of it would take too long: a little of it is timed, never more than some seconds.

What is there once (imports, caches, the opening of files) is told apart from what each unit takes: within one training
by the times at which its steps end, elsewhere by two lengths of the same work.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from expost.costs.fork import peak_bytes

GROWTH = 8
"""A next length is at most so many times the last."""

Times = list[tuple[int, float]]
"""One or two lengths of the same work in units, and the seconds that each took."""


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # its calls return before the work is done
    return time.perf_counter() - started


def grown(run: Callable[[int], float], first: int, most: int, enough: float, least: int = 1) -> Times:
    """The last two lengths of work that is made longer until it takes `enough` seconds.

    Args:
        run: does so many units; returns its seconds.
        first: units to begin with.
        most: units there are.
        enough: seconds that the noise of a machine at work does not drown.
        least: lengths, where there are so many; of work that no single length can tell.
    """
    times = [(min(first, most), run(min(first, most)))]
    while (times[-1][1] < enough or len(times) < least) and times[-1][0] < most:
        num, seconds = times[-1]
        factor = min(GROWTH, max(2, round(1.5 * enough / max(seconds, 1e-9))))
        times.append((min(factor * num, most), run(min(factor * num, most))))
    return times[-2:]


def straight(times: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Seconds that are there once and seconds a unit, on the line through two lengths; of one, all are the units'."""
    (few, first), (many, last) = times[0], times[-1]
    if many == few:
        return 0.0, last / many
    unit = max(0.0, last - first) / (many - few)
    return max(0.0, last - unit * many), unit


def at(times: Sequence[Sequence[float]], num: float) -> float:
    """Seconds of `num` units on that line."""
    once, unit = straight(times)
    return once + unit * num


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
