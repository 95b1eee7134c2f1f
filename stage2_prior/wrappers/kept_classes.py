"""What a fit that takes one class after the other keeps: the classes that are finished, and where the next one is."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from stage2_prior.fitting import FitReport, FitRun, Kept
from stage2_prior.prior import Prior

FINISHED, CURRENT = "finished", "current"
Told = list[tuple[dict[str, float], int]]
"""Figures and their step, in the order in which a log heard them."""


class KeptClasses:
    """The progress of such a fit; an earlier attempt at it is looked for when it is made.

    Args:
        run: of the whole fit.
        num: classes.
    """

    def __init__(self, run: FitRun, num: int) -> None:
        self.run, self.num = run, num
        self.reports: list[FitReport] = []  # of finished classes, in their order
        self._told: list[Told] = []
        self._state: dict[str, Tensor] = {}  # of finished classes, under "3.NAME"
        self._current: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._iterations = 1  # of one class, at most
        if (found := run.kept.load()) is not None:
            tensors, facts = found
            self._state, current = _under(FINISHED, tensors), _under(CURRENT, tensors)
            self.reports = [FitReport(**report) for report in facts["reports"]]
            self._told = [[(figures, step) for figures, step in each] for each in facts["told"]]
            self._current = None if facts[CURRENT] is None else (current, facts[CURRENT])

    def restore(self, y: int, prior: Prior) -> bool:
        """Give `prior` the state of class `y`, and the log its figures, if that class is finished."""
        if y >= len(self.reports):
            return False
        prior.load_state_dict(_under(str(y), self._state))
        for figures, step in self._told[y]:
            self.run.log(figures, step)
        return True

    def fit_of(self, y: int) -> FitRun:
        """What the fit of class `y` is lent: figures under its name, and states beside those of finished classes."""
        self._told.append([])

        def log(figures: Mapping[str, float], step: int) -> None:
            named = {f"{name}_of_{y}": value for name, value in figures.items()}
            self._told[y].append((named, step))
            self.run.log(named, step)

        alone = partial(self.run.lightning_fit, resumable=False)  # its checkpoints would be taken for another class's
        return replace(self.run, log=log, kept=_OneClass(self), lightning_fit=alone)

    def finish(self, y: int, prior: Prior, report: FitReport) -> None:
        self._state |= {f"{y}.{name}": value for name, value in prior.state_dict().items()}
        self.reports.append(report)
        self._current = None
        self.save(0, self._iterations, {}, None)

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None) -> None:
        """As of `Kept`, for the class under way."""
        self._iterations = total
        ready = len(self.reports)
        state = {f"{FINISHED}.{name}": value for name, value in self._state.items()}
        state |= {f"{CURRENT}.{name}": value for name, value in tensors.items()}
        known = {"reports": [asdict(report) for report in self.reports], "told": self._told[:ready], CURRENT: facts}
        self.run.kept.save(ready * total + done, self.num * total, state, known)

    def take_current(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept of the class under way; once, for the classes behind it begin anew."""
        found, self._current = self._current, None
        return found


@dataclass(frozen=True)
class _OneClass(Kept):
    """The `Kept` of the class under way."""

    classes: KeptClasses = field(repr=False)

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.classes.save(done, total, tensors, facts)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.classes.take_current()


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose names begin with `name` and a dot, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def mean_curve(reports: list[FitReport], weights: list[float]) -> Iterator[dict[str, float]]:
    """The curves of all classes as one, weighted; a class that is done stays where it is."""
    curves = [report.curve for report in reports]
    if not all(curves):
        return
    names = set.intersection(*(set(record) for curve in curves for record in curve))
    longest = max(curves, key=len)
    for i, record in enumerate(longest):
        means = {
            name: sum(w * curve[min(i, len(curve) - 1)][name] for w, curve in zip(weights, curves, strict=True))
            for name in sorted(names)
            if name.endswith("_nats")
        }
        yield means | {name: value for name, value in record.items() if not name.endswith("_nats")}
