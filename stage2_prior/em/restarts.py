"""Independent starts of an iterative fit, of which the best is kept; a search that was stopped goes on where it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, Protocol, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

from stage2_prior.fitting import Kept, Stopwatch


class Climbing(Protocol):
    """A state of an iterative fit: a frozen dataclass of tensors, numbers, tuples of numbers and such dataclasses."""

    @property
    def curve(self) -> tuple[float, ...]:
        """One number an iteration, or fewer: those that may be told."""


S = TypeVar("S", bound=Climbing)
Told = tuple[dict[str, float], int]


@dataclass(frozen=True)
class Search(Generic[S]):
    """How to search.

    Attributes:
        kind: the class `S`.
        num: how many starts.
        iterations: of each, at most.
        start: a new one; draws from `generator`.
        climb: a state to the end of its climb; tells its second argument of the state after each iteration.
        score: of a state at its end; the highest is kept.
        done: iterations of a state so far.
        figures: of a state and the number of a point of its curve: what is told of it, and the step it belongs to.
        tell: takes them; of a search that goes on it hears all of earlier attempts again, so that a log is whole.
        generator: on the CPU.
        device: where states live; what was kept comes back there.
        watch: goes on from the seconds that earlier attempts took to what they kept.
    """

    kind: type[S]
    num: int
    iterations: int
    start: Callable[[], S]
    climb: Callable[[S, Callable[[S], None]], S]
    score: Callable[[S], float]
    done: Callable[[S], int]
    figures: Callable[[S, int], Told]
    tell: Callable[[Mapping[str, float], int], None]
    generator: torch.Generator
    device: torch.device
    watch: Stopwatch


@dataclass
class Progress(Generic[S]):
    """How far a search is.

    Attributes:
        best: end of the best start so far.
        state: of the start that is climbing.
        number: of that start.
        told: everything that the log has heard.
    """

    best: S | None = None
    state: S | None = None
    number: int = 0
    told: list[Told] = field(default_factory=list)


def best_of(search: Search[S], kept: Kept) -> S:
    """The best end of all starts; what it depends on goes into `kept` after each iteration, and is looked for there."""
    at = _found(search, kept)
    for figures, step in at.told:
        search.tell(figures, step)
    num_points = 0 if at.state is None else len(at.state.curve)

    def heard(now: S) -> None:
        nonlocal num_points
        at.told += (news := [search.figures(now, point) for point in range(num_points, len(now.curve))])
        for figures, step in news:
            search.tell(figures, step)
        num_points = len(now.curve)
        tensors: dict[str, Tensor] = {"generator": search.generator.get_state()}
        facts = {"number": at.number, "told": at.told, "seconds": search.watch.seconds}
        facts |= {"state": pack(now, "state", tensors), "best": pack(at.best, "best", tensors)}
        kept.save(at.number * search.iterations + search.done(now), search.num * search.iterations, tensors, facts)

    while at.number < search.num:
        end = search.climb(search.start() if at.state is None else at.state, heard)
        if at.best is None or search.score(end) > search.score(at.best):
            at.best = end
        at.state, at.number, num_points = None, at.number + 1, 0
    assert at.best is not None
    return at.best


def _found(search: Search[S], kept: Kept) -> Progress[S]:
    if (found := kept.load()) is None:
        return Progress()
    tensors, facts = found
    search.generator.set_state(tensors["generator"])
    search.watch.go_on_from(facts.get("seconds", 0.0))  # of states that were kept before this was, as `told` below
    tensors = {name: value.to(search.device) for name, value in tensors.items()}
    best, state = (unpack(search.kind, facts[name], tensors) for name in ("best", "state"))
    return Progress(best, state, facts["number"], [(figures, step) for figures, step in facts.get("told", [])])


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it, its tensors put into `tensors` under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return name
    if is_dataclass(value):
        return {each.name: pack(getattr(value, each.name), f"{name}.{each.name}", tensors) for each in fields(value)}
    return value


def unpack(kind: Any, packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` made of a value of the type `kind`; optional ones may be None."""
    if packed is None:
        return None
    kind = next((each for each in get_args(kind) if is_dataclass(each)), kind)
    if kind is Tensor:
        return tensors[packed]
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: unpack(hints[name], part, tensors) for name, part in packed.items()})
    return tuple(packed) if isinstance(packed, list) else packed
