"""Layouts of files that people have, and docs/layouts.md, which tells what each is taken for.

Every module `layouts_*.py` beside this one holds a list `LAYOUTS`, and its docstring is the heading of its table.

    python tests/support/layouts.py   # writes docs/layouts.md anew; test_layouts.py compares
"""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stage1_vae.data.images import DataError, ImageData

PAGE = Path(__file__).resolve().parents[2] / "docs" / "layouts.md"
HEAD = """# What is taken for what

Layouts of files, what each is taken for, and what is said about it before any work. The tables are written by
`python tests/support/layouts.py`, which reads every one of these layouts; a test compares them. DIR is `data.root`.
"""
COLUMNS = "| Files | Taken as | Said |\n|---|---|---|\n"
MOST_NAMED = 4


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


def named_modules() -> Iterator[tuple[str, list[Layout]]]:
    """Heading and layouts of every module."""
    for path in sorted(Path(__file__).parent.glob("layouts_*.py")):
        module = importlib.import_module(path.stem)
        yield module.__doc__.splitlines()[0].rstrip("."), module.LAYOUTS


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


def page() -> str:
    """The whole of docs/layouts.md."""
    parts = [HEAD]
    for heading, layouts in named_modules():
        parts.append(f"\n## {heading}\n\n{COLUMNS}" + "".join(_row(layout) for layout in layouts))
    return "".join(parts)


def _row(layout: Layout) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "set"
        folder.mkdir()
        found = loaded(layout, folder)
        cells = ("refused", found) if isinstance(found, str) else (_in_words(found), said(found, folder) or "-")
    return f"| {' | '.join(cell.replace('|', '/') for cell in (layout.title, *cells))} |\n"


def _in_words(data: ImageData) -> str:
    found = facts(data)
    train, val, test = found["num"]
    names = ", ".join(data.class_names[:MOST_NAMED]) + ", ..." * (len(data.class_names) > MOST_NAMED)
    classes = f"{data.num_classes} classes ({names})" if data.num_classes else "no classes"
    levels = f"{data.levels} levels" if data.levels else f"floats, {data.domain.value}"
    return f"{train} + {val} + {test} images {'x'.join(map(str, data.shape))}, {levels}, {classes}"


if __name__ == "__main__":
    sys.modules["layouts"] = sys.modules["__main__"]  # the modules import this one by its name
    PAGE.write_text(page(), encoding="utf-8")
