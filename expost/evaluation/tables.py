"""Tables on a terminal of any width: a word is never broken while a line has room for it, and no number ever.

What does not fit beside the first columns follows below them, under the same labels; where not even one column fits,
each row becomes a few lines. Texts are shown as they are: no bracket in them is markup, no character moves the cursor.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2
"""Columns of the terminal between two of the table."""
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of characters that end a line, move the cursor or cannot be encoded."""

PARTS = re.compile(r"[^,;:=/|]*[,;:=/|]|[^,;:=/|]+")


def printable(words: str) -> str:
    """`words` with escapes for characters that a terminal would obey instead of showing."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNPRINTABLE else c for c in words)


def one_line(title: str) -> str:
    """The title of a column, which may be hyphenated, in one line."""
    return title.replace("-\n", "").replace("\n", " ")


def break_up(word: str, width: int) -> str:
    """A word that is too long for one line, in lines that end behind a sign: [1024,2048] between its numbers."""
    if Text(word).cell_len <= width:
        return word
    lines = [""]
    for part in PARTS.findall(word):
        if lines[-1] and Text(lines[-1] + part).cell_len > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


@dataclass(frozen=True)
class Column:
    """Attributes:
    title: its lines are separated by line breaks.
    cells: one a row.
    style: of all of them, in rich's words.
    bold: rows whose cell is bold.
    is_label: names the rows, on the left of every table.
    is_whole: its cells are not wrapped while there is another way.
    is_text: words, which begin at the left.
    limit: widest that a label may be; longer ones go on in the next line.
    """

    title: str
    cells: Sequence[str]
    style: str = ""
    bold: frozenset[int] = frozenset()
    is_label: bool = False
    is_whole: bool = False
    is_text: bool = False
    limit: int | None = None

    @property
    def natural(self) -> int:
        """Width at which nothing wraps but a label beyond its limit."""
        widest = max(Text(line).cell_len for text in (self.title, *self.shown) for line in text.split("\n"))
        return widest if self.limit is None else max(min(widest, self.limit), self.least)

    @property
    def least(self) -> int:
        """Width of the longest word; of a label beyond its limit, that limit."""
        longest = max((Text(word).cell_len for text in (self.title, *self.shown) for word in text.split()), default=0)
        return longest if self.limit is None else min(longest, self.limit)

    @property
    def needed(self) -> int:
        return self.natural if self.is_whole else self.least

    @property
    def shown(self) -> list[str]:
        return [printable(cell) for cell in self.cells]

    def cell(self, row: int, width: int) -> Text:
        words = " ".join(break_up(word, width) for word in printable(self.cells[row]).split(" "))
        return Text(words, "bold" if row in self.bold else "")


def framed(title: str, tables: Sequence[RenderableType], caption: Sequence[str]) -> Group:
    """Tables one below the other under their title, and lines below them."""
    parts = [part for table in tables for part in (Text(""), table)]
    words = Text("\n".join(map(printable, caption)), "dim")
    return Group(Text(printable(title), "italic"), *parts, Text(""), words)


def lay_out(columns: Sequence[Column], width: int, row_styles: Sequence[str] = ()) -> list[RenderableType]:
    """The tables for `width` columns of a terminal that show all of `columns`, or their rows as lines of text."""
    labels = [column for column in columns if column.is_label]
    values = [column for column in columns if not column.is_label]
    for sizes in ([label.natural for label in labels], [label.least for label in labels]):
        used = sum(size + GAP for size in sizes)
        if used + max(value.needed for value in values) <= width:
            packed = _pack(values, width - used)
            return [_table(labels, sizes, group, width - used, row_styles) for group in packed]
    return [Group(*_lines(labels, values, width, row_styles))]


def _pack(values: Sequence[Column], width: int) -> list[list[Column]]:
    """The columns in as few tables as fit into `width`, in order."""
    tables: list[list[Column]] = []
    left = 0
    for value in values:
        if not tables or value.needed > left:
            tables.append([])
            left = width
        tables[-1].append(value)
        left -= value.needed + GAP
    return tables


def _table(
    labels: Sequence[Column], sizes: Sequence[int], values: Sequence[Column], width: int, row_styles: Sequence[str]
) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), row_styles=list(row_styles)
    )
    widths = [*sizes, *_share_out(values, width)]
    for column, size in zip([*labels, *values], widths, strict=True):
        table.add_column(
            Text(column.title),
            width=size,
            style=column.style,
            vertical="top" if any(value.is_text for value in values) else "bottom",
            justify="left" if column.is_label or column.is_text else "right",
            overflow="fold",
        )
    for row in range(len(labels[0].cells)):
        table.add_row(*(column.cell(row, size) for column, size in zip([*labels, *values], widths, strict=True)))
    return table


def _share_out(values: Sequence[Column], width: int) -> list[int]:
    """Widths of columns that fit: to each what it needs, and what is left to those that want least."""
    widths = [value.needed for value in values]
    left = width - sum(widths) - GAP * (len(values) - 1)
    for n in sorted(range(len(values)), key=lambda n: values[n].natural - widths[n]):
        more = min(values[n].natural - widths[n], left)
        widths[n] += more
        left -= more
    return widths


def _lines(labels: Sequence[Column], values: Sequence[Column], width: int, row_styles: Sequence[str]) -> Iterator[Text]:
    """A row after the other: its labels, and each value under its title."""
    for row in range(len(labels[0].cells)):
        style = row_styles[row] if row_styles else ""
        yield Text(" ".join(label.cell(row, width).plain for label in labels), style)
        for value in values:
            yield Text.assemble(f"  {one_line(value.title)} ", value.cell(row, width), style=value.style or style)
