"""Independent starts of an iterative fit, of which the best is kept; a search that was stopped goes on where it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, Protocol, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

from stage2_prior.prior import Kept


class Climbing(Protocol):
    """A state of an iterative fit: a frozen dataclass of tensors, numbers, tuples of numbers and such dataclasses."""

    @property
    def curve(self) -> tuple[float, ...]:
        """One number an iteration, or fewer: those that may be told."""


S = TypeVar("S", bound=Climbing)


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
        tell: takes a state and the number of the last point of its curve; of a state that goes on from an earlier
            attempt it hears all points again, so that a log has all of them.
        generator: on the CPU.
        device: where states live; what was kept comes back there.
    """

    kind: type[S]
    num: int
    iterations: int
    start: Callable[[], S]
    climb: Callable[[S, Callable[[S], None]], S]
    score: Callable[[S], float]
    done: Callable[[S], int]
    tell: Callable[[S, int], None]
    generator: torch.Generator
    device: torch.device


def best_of(search: Search[S], kept: Kept) -> S:
    """The best end of all starts; what it depends on goes into `kept` after each iteration, and is looked for there."""
    best: S | None
    state: S | None
    best, state, number = _found(search, kept)
    told = 0

    def tell(now: S) -> None:
        nonlocal told
        for point in range(told, len(now.curve)):
            search.tell(now, point)
        told = len(now.curve)

    def heard(now: S) -> None:
        tell(now)
        tensors: dict[str, Tensor] = {"generator": search.generator.get_state()}
        facts = {"number": number, "state": pack(now, "state", tensors), "best": pack(best, "best", tensors)}
        kept.save(number * search.iterations + search.done(now), search.num * search.iterations, tensors, facts)

    if state is not None:
        tell(state)  # it may have been at its end
    while number < search.num:
        state = search.climb(search.start() if state is None else state, heard)
        best = state if best is None or search.score(state) > search.score(best) else best
        state, number, told = None, number + 1, 0
    assert best is not None
    return best


def _found(search: Search[S], kept: Kept) -> tuple[S | None, S | None, int]:
    """The best so far, the state that is climbing, and the number of its start."""
    if (found := kept.load()) is None:
        return None, None, 0
    tensors, facts = found
    search.generator.set_state(tensors["generator"])
    tensors = {name: value.to(search.device) for name, value in tensors.items()}
    best, state = (unpack(search.kind, facts[name], tensors) for name in ("best", "state"))
    return best, state, facts["number"]


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it, its tensors put into `tensors` under names that begin with `name`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return name
    if is_dataclass(value):
        return {
            field.name: pack(getattr(value, field.name), f"{name}.{field.name}", tensors) for field in fields(value)
        }
    return value


def unpack(kind: Any, packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` made of a value of the type `kind`; optional ones may be None."""
    if packed is None:
        return None
    kind = next((each for each in get_args(kind) if is_dataclass(each)), kind)
    if kind is Tensor:
        return tensors[packed]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: unpack(hints[name], part, tensors) for name, part in packed.items()})  # type: ignore[operator]
    return tuple(packed) if isinstance(packed, list) else packed
