"""How long work takes, when all of it would take too long: a little of it is timed, never more than some seconds.

What is there once (imports, caches, the opening of files) is told apart from what each unit takes by two lengths of the
same work.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from expost.config.schema import Trainer

GROWTH = 8
"""A next length is at most so many times the last."""

FORWARD = 1 / 3
"""Of a training step, what only looks at the same images takes."""

Times = Sequence[Sequence[float]]
"""One or two lengths of the same work in units, and the seconds that each took."""


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # its calls return before the work is done
    return time.perf_counter() - started


def lengthen(
    run: Callable[[int], float], first: int, most: int, enough: float, least: int = 1
) -> list[tuple[int, float]]:
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


def line_through(times: Times) -> tuple[float, float]:
    """Seconds that are there once and seconds a unit, on the line through two lengths; of one, all are the units'."""
    (few, first), (many, last) = times[0], times[-1]
    if many == few:
        return 0.0, last / many
    unit = max(0.0, last - first) / (many - few)
    return max(0.0, last - unit * many), unit


def linear_seconds(times: Times, num: float) -> float:
    """Seconds of `num` units on that line."""
    once, unit = line_through(times)
    return once + unit * num


def length_of_stage1(trainer: Trainer, num_images: int) -> tuple[int, int, int]:
    """Optimiser steps, epochs and validations of stage 1, if nothing stops it early."""
    batches = -(-num_images // trainer.batch_size)
    steps = min(trainer.max_epochs * batches, trainer.max_steps or trainer.max_epochs * batches)
    validations = max(1, (steps // batches) // min(trainer.val_every, max(1, steps // batches)))
    return steps, -(-steps // batches), validations


def in_time(seconds: float) -> str:
    """Two figures of it: 4.2 s, 12 min, 3.5 h, 2.1 d."""
    for limit, size, unit in ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"
