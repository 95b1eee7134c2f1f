"""Frozen dataclasses that are stored as JSON: written and read back by the annotations of their fields."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, Self, get_args, get_origin, get_type_hints

from expost.evaluation.errors import EvaluationError

OMITTED = {"omitted": True}
"""Metadata of a field that is not written where it has its default."""


class IncompleteError(EvaluationError):
    """A stored record lacks what it cannot be without."""


@dataclass(frozen=True)
class Record:
    """Fields are numbers, words, other records, tuples and mappings of them, and None for what does not exist."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values in the order of the fields; None for NaN and infinity, which JSON cannot hold."""
        return plain(self)

    @classmethod
    def from_json(cls, stored: object, where: str = "report") -> Self:
        """The record in `stored`, which may be of another version: what it does not know is passed over, what is
        missing or null has its default, and a part that lacks what it cannot be without is None where it may be.

        Raises:
            EvaluationError: something is of another type, or missing; `where` names the whole.
        """
        return _read(cls, stored, where)


def plain(value: Any) -> Any:
    """A record, or anything within one, as plain JSON values."""
    if isinstance(value, Record):
        named = ((field, getattr(value, field.name)) for field in fields(value))
        return {f.name: plain(inner) for f, inner in named if not f.metadata.get("omitted") or inner != f.default}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(kind: Any, stored: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if NoneType in inner:
        try:
            return None if stored is None else _read(inner[0], stored, where)
        except IncompleteError:
            return None
    if origin is Mapping:
        items = _checked(dict, stored, where).items()
        return {key: _read(inner[1], value, f"{where}.{key}") for key, value in items if _is_told(inner[1], value)}
    if origin is tuple:
        values = _checked(list, stored, where)
        kinds = [inner[0]] * len(values) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(values):
            raise EvaluationError(f"{where} holds {len(values)} values, not {len(kinds)}")
        return tuple(_read(*pair, where) for pair in zip(kinds, values, strict=True))
    if issubclass(kind, Record):
        return _read_record(kind, _checked(dict, stored, where), where)
    return _checked(kind, stored, where)


def _read_record(kind: type[Record], stored: Mapping[str, Any], where: str) -> Record:
    hints: dict[str, Any] = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        value, hint = stored.get(field.name), hints[field.name]
        if value is not None:
            values[field.name] = _read(hint, value, f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            if not _is_told(hint, value):
                raise IncompleteError(f"{where} holds no {field.name}")
            values[field.name] = None
    return kind(**values)


def _is_told(kind: Any, value: object) -> bool:
    return value is not None or NoneType in get_args(kind)


def _checked(kind: type, stored: Any, where: str) -> Any:
    """`stored` as it is: a whole number is a float too, and yes or no is no number."""
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(stored, kinds) or (isinstance(stored, bool) and kind is not bool):
        raise EvaluationError(f"{where} is of type {type(stored).__name__}, not {kind.__name__}")
    return stored
