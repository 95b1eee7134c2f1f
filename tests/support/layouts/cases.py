"""Layouts of files that people have: how each is written down, and what a source takes it for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage1_vae.data.images import DataError, ImageData


@dataclass(frozen=True)
class Layout:
    """Files and what is right for them.

    Attributes:
        title: how they lie, in one line of prose.
        make: writes them below an empty folder; returns what the source is constructed with.
        source: class of the source.
        taken: facts of the loaded set, None where it is to be refused: `num` (train, val, test), `shape`, `classes`
            (their names), `levels`, `range` (smallest and largest value), and `says`, words that must be said.
        refused: words of the one line.
    """

    title: str
    make: Callable[[Path], dict[str, Any]]
    source: type
    taken: dict[str, Any] | None = None
    refused: tuple[str, ...] = ()


def loaded(layout: Layout, folder: Path) -> ImageData | str:
    """The set, or the line that refuses it, with DIR for `folder`."""
    try:
        return layout.source(**layout.make(folder)).load()
    except DataError as error:
        return str(error).replace(str(folder), "DIR")


def said(data: ImageData, folder: Path) -> str:
    """What the set says of itself, with DIR for `folder`."""
    return "; ".join((*data.guesses, *data.left_out)).replace(str(folder), "DIR")


def facts(data: ImageData) -> dict[str, Any]:
    """Facts by the names that `Layout.taken` uses."""
    return {
        "num": (len(data.train), len(data.val), len(data.test)),
        "shape": data.shape,
        "classes": data.class_names,
        "levels": data.levels,
        "range": data.value_range,
    }
