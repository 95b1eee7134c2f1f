"""A comparison as text: for the terminal, as CSV, Markdown and one self-contained HTML page."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from expost.evaluation.comparison.compare import OF_IMAGES, Comparison
from expost.evaluation.comparison.lines import Line, Value
from expost.evaluation.page import embed, render
from expost.evaluation.report import FIGURES
from expost.evaluation.tables import Column, framed, lay_out, printable

LABEL_WIDTH = 24
"""Widest label on a terminal; longer ones go on in the next line."""


def headline(comparison: Comparison) -> str:
    priors = sum(line.is_learned for line in comparison.lines)
    count = f"{priors} learned prior{'s' * (priors != 1)}" if priors else "the baseline alone"
    return f"{comparison.data}: {count}, sorted by {FIGURES[comparison.sort].label}"


def text(value: Value | None, key: str) -> str:
    """`mean ± standard deviation over seeds` or `value (standard deviation over resampled images)`; - for none."""
    if value is None:
        return "-"
    fmt = FIGURES[key].format
    mean = int(value.mean) if fmt.endswith("d") and value.mean.is_integer() else value.mean
    if fmt.endswith("d") and isinstance(mean, float):
        fmt = ",.1f"
    shown = format(mean, fmt)
    if value.seed_std is not None:
        return f"{shown} ± {format(value.seed_std, fmt)}" if value.seed_std else shown
    return shown if value.spread is None else f"{shown} ({format(value.spread, fmt)})"


def label_titles(comparison: Comparison) -> list[str]:
    seeds = any(line.num > 1 for line in comparison.lines)
    return ["prior", *["VAE"] * comparison.names_vaes, *["n"] * seeds]


def labels(comparison: Comparison, line: Line) -> list[str]:
    """What a line is called, under `label_titles`."""
    every = {"prior": line.label, "VAE": line.vae_label, "n": str(line.num)}
    return [every[name] for name in label_titles(comparison)]


def columns_of(comparison: Comparison, lines: Sequence[Line]) -> list[str]:
    """Figures that some of `lines` has: the sorting one first, then its kind; the number of samples is a condition."""
    present = [key for key in comparison.columns if any(key in line.values for line in lines) and key != "num_samples"]
    of_images = comparison.sort in OF_IMAGES
    return sorted(present, key=lambda key: (key != comparison.sort, (key in OF_IMAGES) != of_images))


def terminal(comparison: Comparison, width: int = 80) -> Group:
    """The table for `width` columns: figures that do not fit beside the first ones follow below them."""
    tables: list[RenderableType] = []
    for name, lines in comparison.blocks.items():
        if len(comparison.blocks) > 1:
            tables.append(Text(printable(name), style="bold"))
        styles = ["green" if line.is_learned else "" if line.is_prior else "dim" for line in lines]
        tables += lay_out(_columns(comparison, lines), width, styles)
    return framed(headline(comparison), tables, (comparison.conditions, *comparison.notes))


def _columns(comparison: Comparison, lines: Sequence[Line]) -> list[Column]:
    """What the lines are called, and their figures."""
    named = zip(*(labels(comparison, line) for line in lines), strict=True)
    shown = [
        Column(name, words, is_label=True, limit=LABEL_WIDTH)
        for name, words in zip(label_titles(comparison), named, strict=True)
    ]
    for key in columns_of(comparison, lines):
        values = [line.values.get(key) for line in lines]
        leading = frozenset(row for row, value in enumerate(values) if value is not None and value.leads)
        shown.append(Column(_header(key), [text(value, key) for value in values], bold=leading, is_whole=True))
    return shown


def _header(key: str) -> str:
    """The column title in two lines where it has two parts."""
    title = FIGURES[key].title
    first, _, rest = title.rpartition(" ") if "," not in title else title.partition(", ")
    return f"{first}\n{rest}" if len(first) > 3 else title


def to_csv(comparison: Comparison) -> str:
    """Unrounded, one line a prior: `KEY`, its standard deviations `KEY_seed_std` and `KEY_spread`, and `KEY_leads`."""
    columns, rows = records(comparison)
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return file.getvalue()


def records(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Column names and one plain row a line."""
    fixed = ["row", "prior", "vae", "likelihood", "num_seeds", "runs"]
    parts = ("", "_seed_std", "_spread", "_leads")
    columns = [*fixed, *(f"{key}{part}" for key in comparison.columns for part in parts)]
    rows: list[list[Any]] = []
    for line in comparison.lines:
        rows.append([line.row, line.label, line.vae_label, line.likelihood, line.num, " ".join(line.runs)])
        for value in map(line.values.get, comparison.columns):
            rows[-1] += [None] * 4 if value is None else [value.mean, value.seed_std, value.spread, value.leads]
    return columns, rows


def to_markdown(comparison: Comparison, picture: str | None = None) -> str:
    """A Markdown page; `picture` is the figure's file beside it."""
    out = [f"# {_plain(headline(comparison))}", ""]
    for name, lines in comparison.blocks.items():
        out += [f"## {_plain(name)}", ""] if len(comparison.blocks) > 1 else []
        out += [markdown_table(comparison, lines, columns_of(comparison, lines)), ""]
    out += [f"![the same as a figure]({picture})", ""] if picture else []
    out += [comparison.conditions, "", *(f"- {_plain(note)}" for note in comparison.notes), ""]
    return "\n".join([*out, f"Runs: {_plain(', '.join(comparison.runs))}", ""])


def markdown_table(comparison: Comparison, lines: Sequence[Line], keys: Sequence[str]) -> str:
    """One block as a Markdown table of the figures `keys`."""
    names = label_titles(comparison)
    out = [
        f"| {' | '.join([*names, *(_plain(FIGURES[key].title) for key in keys)])} |",
        f"|{'---|' * len(names)}{'---:|' * len(keys)}",
    ]
    for line in lines:
        cells = [f"**{shown}**" if leads else shown for shown, leads in _cells(line, keys)]
        out.append(f"| {' | '.join([*map(_plain, labels(comparison, line)), *cells])} |")
    return "\n".join(out)


def _cells(line: Line, keys: Sequence[str]) -> list[tuple[str, bool]]:
    """The text of each figure, and whether it leads."""
    values = [line.values.get(key) for key in keys]
    return [(text(value, key), value is not None and value.leads) for value, key in zip(values, keys, strict=True)]


def _plain(words: str) -> str:
    """Words that end no cell of a table and start no markup."""
    return re.sub(r"[|*<_]", r"\\\g<0>", words)


def to_html(comparison: Comparison, picture: Path) -> str:
    """One self-contained page with the figure in it: no file beside it, no network, no script."""
    blocks = []
    for name, lines in comparison.blocks.items():
        keys = columns_of(comparison, lines)
        kinds = ["learned" if line.is_learned else "baseline" if line.is_prior else "floor" for line in lines]
        rows = [(kind, labels(comparison, line), _cells(line, keys)) for kind, line in zip(kinds, lines, strict=True)]
        titles = [FIGURES[key].title.replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑") for key in keys]
        blocks.append((name if len(comparison.blocks) > 1 else "", titles, rows))
    return render(
        "comparison.html.j2",
        headline=headline(comparison),
        label_titles=label_titles(comparison),
        blocks=blocks,
        conditions=comparison.conditions,
        notes=comparison.notes,
        runs=comparison.runs,
        picture=embed(picture),
    )
