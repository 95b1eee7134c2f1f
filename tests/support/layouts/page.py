"""docs/layouts.md: what each layout of files is taken for, read from the files themselves.

The docstring of a module in `MODULES` is the heading of its table.

    python tests/support/layouts/page.py   # writes it anew; test_layouts.py compares
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where it is run as a script
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from layouts import arrays, folders, formats, idx, vectors
from layouts.cases import Layout, facts, loaded, said

from stage1_vae.data.images import ImageData

MODULES = (arrays, formats, folders, idx, vectors)
PAGE = Path(__file__).resolve().parents[3] / "docs/layouts.md"
HEAD = """# What is taken for what

Layouts of files, what each is taken for, and what is said about it before any work. The tables are written by
`python tests/support/layouts/page.py`, which reads every one of these layouts; a test compares them. DIR stands for
`data.root`.
"""
COLUMNS = "| Files | Taken as | Said |\n|---|---|---|\n"
MOST_NAMED = 4


def page() -> str:
    """The whole of docs/layouts.md."""
    parts = [HEAD]
    for module in MODULES:
        heading = (module.__doc__ or "").splitlines()[0].rstrip(".")
        parts.append(f"\n## {heading}\n\n{COLUMNS}" + "".join(_row(layout) for layout in module.LAYOUTS))
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
    PAGE.write_text(page(), encoding="utf-8")
