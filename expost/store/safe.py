"""Reading what others wrote: nothing that is loaded can run code, leave its folder, or take memory that it lacks.

A file is opened through its folder's descriptor, part by part, and no part may be a link: what was checked is what is
read, whoever renames things meanwhile. JSON is strict (no NaN, no key twice, bounded depth and size); tensors are read
by `expost.store.tensors`. A class is named, never evaluated: its module is imported only from a list of packages, no
attribute is followed from module to module, and what is found must call itself what it was called.

Unpickling, and what it costs to trust it: "pickle — Python object serialization", Python documentation, warning at the
top. An importer that walks attributes runs `os.system` under an alias: GitHub advisory GHSA-37p2-j732-x8pj.
"""

import importlib
import inspect
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from expost.base.errors import UserError

T = TypeVar("T")

PROJECT = ("stage1_vae", "stage2_prior")
LIBRARIES = ("torch.nn", "torch.optim", "zuko")
"""Packages whose classes a stored configuration may name."""
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)

MAX_JSON_BYTES = 2**20
MAX_DEPTH = 32
MAX_WORDS = 300
"""Longest message in characters: it may quote what was read."""


class UnsafeError(UserError, ValueError):
    """What was read is refused: one line that names the file and the reason."""

    def __init__(self, message: str) -> None:
        line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        super().__init__(line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 4]} ...")


def resolve_class(target: object, base: type[T]) -> type[T]:
    """The class that a stored `_target_` names, fit to be called.

    Raises:
        UnsafeError: it is not a class of this project or of an allowed library, is known there by another name (an
            alias), is not a `base`, or is abstract.
    """
    if not isinstance(target, str) or not DOTTED.fullmatch(target):
        raise UnsafeError(f"_target_={target!r} is no dotted name of a class")
    root = next((root for root in (*PROJECT, *LIBRARIES) if target.startswith(f"{root}.")), None)
    if root is None:
        raise UnsafeError(
            f"_target_={target} is refused: only classes of {', '.join((*PROJECT, *LIBRARIES))} may be named"
        )
    module_name, name = target.rsplit(".", 1)
    try:
        cls = vars(importlib.import_module(module_name)).get(name)  # the module's own names, nothing is followed
    except Exception as error:  # whatever an import may raise
        raise UnsafeError(f"_target_={target}: there is no module {module_name}") from error
    if not isinstance(cls, type):
        raise UnsafeError(f"_target_={target} is no class")
    real = f"{cls.__module__}.{cls.__qualname__}"
    if real != target and (root in PROJECT or not real.startswith(f"{root}.")):
        raise UnsafeError(f"_target_={target} is refused: it is another name of {real}")
    if not issubclass(cls, base) or inspect.isabstract(cls):
        raise UnsafeError(f"_target_={target} is refused: it is no {base.__name__} that can be made")
    return cls


@contextmanager
def open_file(folder: Path, name: str, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    """The plain file `name` (with / between its parts) inside `folder`, for reading.

    Raises:
        UnsafeError: the name leads out of the folder, a part of it is a link, it is no plain file, or it has more than
            `max_bytes`.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise UnsafeError(f"{name!r} leads out of {folder}")
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i, part in enumerate(parts):
            kind = os.O_DIRECTORY if i < len(parts) - 1 else os.O_NONBLOCK  # a pipe would wait for its writer
            inner = _open_part(folder, name, part, kind, place)
            os.close(place)
            place = inner
        facts = os.fstat(place)
        if not stat.S_ISREG(facts.st_mode):
            raise UnsafeError(f"{folder / name} is no plain file")
        if max_bytes is not None and facts.st_size > max_bytes:
            raise UnsafeError(f"{folder / name} has {facts.st_size:,} bytes; at most {max_bytes:,} are expected")
        with os.fdopen(os.dup(place), "rb") as file:
            yield file
    finally:
        os.close(place)


def _open_part(folder: Path, name: str, part: str, kind: int, place: int) -> int:
    try:
        if stat.S_ISLNK(os.stat(part, dir_fd=place, follow_symlinks=False).st_mode):
            raise UnsafeError(f"{folder / name}: {part} is a symbolic link; put the file itself there")
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=place)
    except OSError as error:
        raise UnsafeError(f"{folder / name}: {error.strerror}") from error


def read_bytes(folder: Path, name: str, max_bytes: int) -> bytes:
    """The whole of a file that has at most `max_bytes`.

    Raises:
        UnsafeError: it is larger, or whatever `open_file` refuses.
    """
    with open_file(folder, name, max_bytes) as file:
        return file.read(max_bytes)


def read_json(folder: Path, name: str, max_bytes: int = MAX_JSON_BYTES, kind: type = dict) -> Any:
    """The JSON object, or the list, in a file.

    Raises:
        UnsafeError: it is too large or too deep, no strict JSON (NaN, a key twice), or another kind of value.
    """
    return parse_json(read_bytes(folder, name, max_bytes), f"{folder / name}", kind)


def parse_json(content: bytes, what: str, kind: type = dict) -> Any:
    """The JSON object, or the list, in `content`, which messages call `what`.

    Raises:
        UnsafeError: as for `read_json`.
    """
    try:
        text = content.decode()
        if _depth(text) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UnsafeError(f"{what} is no JSON that may be read: {error}") from error
    if not isinstance(value, kind):
        raise UnsafeError(f"{what} holds no JSON {'object' if kind is dict else kind.__name__}")
    return value


def _depth(text: str) -> int:
    """How deep brackets nest outside of strings."""
    now = deepest = 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', text, re.DOTALL):
        if (bracket := token.group()) in "[{":
            now += 1
            deepest = max(deepest, now)
        elif bracket in "]}":
            now -= 1
    return deepest


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits} is no finite number")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content
