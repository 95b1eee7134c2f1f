"""How long work takes, when all of it would take too long: a little of it is timed, never more than some seconds.

What is there once (imports, caches, the opening of files) is told apart from what each unit takes by two lengths of the
same work; within one training by the times at which its steps end (`expost.plan.watch`).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

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
