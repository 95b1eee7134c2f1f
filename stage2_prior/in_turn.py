"""Several fits that are one: a prior a class, or members of an ensemble, one after the other."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import Tensor

from stage2_prior.fitting import FitReport, FitRun, FitStates, Logged
from stage2_prior.prior import Prior

FINISHED, CURRENT = "finished", "current"


class FitsInTurn(FitStates):
    """The progress of fits one after the other: those that are finished, and where the next one is; an earlier attempt
    at it is looked for when it is made. To the fit under way, its `FitStates`.

    Args:
        run: of the whole.
        num: fits.
    """

    def __init__(self, run: FitRun, num: int) -> None:
        self.run, self.num = run, num
        self.reports: list[FitReport] = []  # of finished ones, in their order
        self._logged: list[list[Logged]] = []  # of each, in the order in which the log heard them
        self._state: dict[str, Tensor] = {}  # of finished ones, under "3.NAME"
        self._current: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._iterations = 1  # of one, at most
        if (saved := run.states.load()) is not None:
            tensors, facts = saved
            self._state, current = _under(FINISHED, tensors), _under(CURRENT, tensors)
            self.reports = [FitReport(**report) for report in facts["reports"]]
            self._logged = [[(figures, step) for figures, step in logged] for logged in facts["told"]]
            self._current = None if facts[CURRENT] is None else (current, facts[CURRENT])

    def restore(self, y: int, prior: Prior) -> bool:
        """Give `prior` the state of fit `y`, and the log its figures, if that one is finished."""
        if y >= len(self.reports):
            return False
        prior.load_state_dict(_under(str(y), self._state))
        for figures, step in self._logged[y]:
            self.run.log(figures, step)
        return True

    def fit_of(self, y: int) -> FitRun:
        """What the fit `y` is lent: figures under its number, and states beside those of finished ones."""
        self._logged.append([])

        def log(figures: Mapping[str, float], step: int) -> None:
            named = {f"{name}_of_{y}": value for name, value in figures.items()}
            self._logged[y].append((named, step))
            self.run.log(named, step)

        alone = partial(self.run.lightning_fit, resumable=False)  # its checkpoints would be taken for another one's
        return replace(self.run, log=log, states=self, lightning_fit=alone)

    def finish(self, y: int, prior: Prior, report: FitReport) -> None:
        self._state |= {f"{y}.{name}": value for name, value in prior.state_dict().items()}
        self.reports.append(report)
        self._current = None
        self.save(0, self._iterations, {}, None)

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None) -> None:
        self._iterations = total
        ready = len(self.reports)
        state = {f"{FINISHED}.{name}": value for name, value in self._state.items()}
        state |= {f"{CURRENT}.{name}": value for name, value in tensors.items()}
        known = {"reports": [asdict(report) for report in self.reports], "told": self._logged[:ready], CURRENT: facts}
        self.run.states.save(ready * total + done, self.num * total, state, known)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept of the one under way; once, for those behind it begin anew."""
        current, self._current = self._current, None
        return current


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose names begin with `name` and a dot, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
