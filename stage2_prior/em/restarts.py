"""Independent starts of an iterative fit, of which the best is kept; a search that was stopped goes on where it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

from stage2_prior.fitting import FitRun, Logged, Stopwatch

S = TypeVar("S")
"""A state of an iterative fit: a frozen dataclass of tensors, numbers, tuples of numbers and such dataclasses."""


@dataclass
class Search(Generic[S]):
    """How to search, and how far the search is.

    Attributes:
        kind: the class `S`.
        num: how many starts.
        iterations: of each, at most.
        start: a new one; draws from `generator`.
        climb: a state to the end of its climb; tells its second argument of the state after each iteration.
        score: of a state at its end; the highest is kept.
        done: iterations of a state so far.
        figures: of a state, everything that is to be logged of its climb so far, and the steps.
        run: its log hears, of a search that goes on, all of earlier attempts again, so that it is whole; its states
            take what the search depends on after each iteration; states of the fit live on its device.
        generator: on the CPU.
        watch: goes on from the seconds that earlier attempts took to what they kept.
        best: end of the best start so far.
        state: of the start that is climbing.
        number: of that start.
        logged: everything that the log has heard, of all starts.
        num_logged: how much of it is of this start.
    """

    kind: type[S]
    num: int
    iterations: int
    start: Callable[[], S]
    climb: Callable[[S, Callable[[S], None]], S]
    score: Callable[[S], float]
    done: Callable[[S], int]
    figures: Callable[[S], list[Logged]]
    run: FitRun
    generator: torch.Generator
    watch: Stopwatch
    best: S | None = None
    state: S | None = None
    number: int = 0
    logged: list[Logged] = field(default_factory=list)
    num_logged: int = 0

    def find_best(self) -> S:
        """The best end of all starts, from where an earlier attempt has left the search."""
        self._resume()
        while self.number < self.num:
            end = self.climb(self.start() if self.state is None else self.state, self._keep)
            if self.best is None or self.score(end) > self.score(self.best):
                self.best = end
            self.state, self.number, self.num_logged = None, self.number + 1, 0
        assert self.best is not None
        return self.best

    def _log(self, news: list[Logged]) -> None:
        self.logged += news
        for figures, step in news:
            self.run.log(figures, step)

    def _keep(self, state: S) -> None:
        """Log an iteration, and keep what the next one depends on."""
        history = self.figures(state)
        self._log(history[self.num_logged :])
        self.num_logged = len(history)
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        facts = {"number": self.number, "told": self.logged, "seconds": self.watch.seconds}
        facts |= {"state": pack(state, "state", tensors), "best": pack(self.best, "best", tensors)}
        done, total = self.number * self.iterations + self.done(state), self.num * self.iterations
        self.run.states.save(done, total, tensors, facts)

    def _resume(self) -> None:
        if (saved := self.run.states.load()) is None:
            return
        tensors, facts = saved
        self.generator.set_state(tensors["generator"])
        self.watch.go_on_from(facts.get("seconds", 0.0))  # of states that were kept before this was, as `told` below
        tensors = {name: value.to(self.run.device) for name, value in tensors.items()}
        self.best, self.state = (unpack(self.kind, facts[name], tensors) for name in ("best", "state"))
        self.number = facts["number"]
        self.num_logged = 0 if self.state is None else len(self.figures(self.state))
        self._log([(figures, step) for figures, step in facts.get("told", [])])


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it, its tensors put into `tensors` under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return name
    if is_dataclass(value):
        return {part.name: pack(getattr(value, part.name), f"{name}.{part.name}", tensors) for part in fields(value)}
    return value


def unpack(kind: Any, packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` made of a value of the type `kind`; optional ones may be None."""
    if packed is None:
        return None
    kind = next((option for option in get_args(kind) if is_dataclass(option)), kind)
    if kind is Tensor:
        return tensors[packed]
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: unpack(hints[name], part, tensors) for name, part in packed.items()})
    return tuple(packed) if isinstance(packed, list) else packed
