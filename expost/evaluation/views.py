"""A report as a table: what the terminal, the page and the card of a model show of its rows, and the notes below."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from rich.console import Group, RenderableType

from expost.evaluation.report import FIGURES, Figure, Report, Row
from expost.evaluation.row_names import (
    AGGREGATE,
    BASELINES,
    FLOORS,
    MOMENT_MATCHED,
    RECONSTRUCTIONS,
    TRAIN_AGAINST_TEST,
)
from expost.evaluation.tables import Column, framed, lay_out, one_line
from expost.evaluation.verdict import beyond_noise

TITLES = {
    **BASELINES,
    AGGREGATE: "aggre-\ngate\ndraws",
    RECONSTRUCTIONS: "recon-\nstruc-\ntions",
    TRAIN_AGAINST_TEST: "train\nvs\ntest",
    MOMENT_MATCHED: "moment\nmatched",
}
ROUNDING = 1e-7
"""A spread of so small a share is that of float32: the figure is the same for every image."""
LARGE = 1e7
"""What is larger, as of a baseline in other units than the latents, has its power of ten and no spread."""
WIDE = 110
"""Columns of a terminal from which on every row has room for its spreads."""
SPREADS = (
    "± is one standard deviation: of samples over random halves of them and of the reference, of {nouns.figures} over "
    "the test {nouns.many}; other seeds of training are not in it. Bold: better by more than two of the difference."
)


class Line(NamedTuple):
    """One figure of a table: its label, its text in each column, and the column that is best beyond noise, if any."""

    label: str
    texts: list[str]
    best: int | None = None


def title(name: str) -> str:
    """What a row is called, in one line."""
    return one_line(TITLES.get(name, name))


def lines(report: Report, only: Collection[str] | None = None) -> list[Line]:
    """A line for each figure that exists in some row; its columns are the rows of the report, and those in `only`
    (None: all) show their spreads."""
    names, best = list(report.rows), winners(report)
    return [
        Line(
            figure.title,
            [_text(key, row, only is None or name in only) for name, row in report.rows.items()],
            names.index(best[key]) if key in best else None,
        )
        for key, figure in FIGURES.items()
        if any(row.figures[key] is not None for row in report.rows.values())
    ]


def _text(key: str, row: Row, with_spread: bool) -> str:
    """The figure as it is shown: "12.34 ± 0.05", to one digit of the spread or two, where the figure has so many."""
    value, noise, layout = row.figures[key], row.spread.get(key), FIGURES[key].format
    if value is None:
        return "-"
    if layout.startswith(".") and abs(value) >= LARGE:
        layout, noise = ".2e", None
    if noise is None or not with_spread or noise < ROUNDING * abs(value):
        return format(value, layout)
    if noise > 0 and layout.endswith("f"):
        first = max(0, -math.floor(math.log10(noise)))
        decimals = min(9, max(first, min(int(layout[-2]), first + 1)))
        layout = f"{layout[:-2]}{decimals}f"
    return f"{value:{layout}} ± {noise:{layout}}"


def winners(report: Report) -> dict[str, str]:
    """Figure -> the prior that is better in it than every other one, by more than the noise of both.

    A figure where the best two differ by less than two standard deviations of their difference has no winner. Costs of
    images are paired: both priors were asked about the same images with the same draws, and what the images differ by
    says nothing about the priors.
    """
    rows = {name: row for name, row in report.rows.items() if name not in FLOORS and not row.memorises}
    best = {key: _winner(key, figure, rows, report.baseline) for key, figure in FIGURES.items()}
    return {key: name for key, name in best.items() if name is not None}


def _winner(key: str, figure: Figure, rows: Mapping[str, Row], baseline: str) -> str | None:
    values = {name: value for name, row in rows.items() if (value := row.figures[key]) is not None}
    if not figure.better or len(values) < 2:
        return None
    first, second = sorted(values, key=lambda name: values[name], reverse=figure.better == "↑")[:2]
    gain = next((gain for name in (first, second) if (gain := (rows[name].gain or {}).get(key))), None)
    if gain is not None and baseline in (first, second):
        is_better = beyond_noise(gain.value, gain.standard_error)
    else:
        is_better = beyond_noise(values[first] - values[second], *(rows[n].spread.get(key) for n in (first, second)))
    return first if is_better else None


def conditions(report: Report) -> str:
    """What every distance depends on: number of samples, reference split, features."""
    counts = {row.num_samples for row in report.rows.values() if row.num_samples is not None}
    samples = " or ".join(f"{count:,}" for count in sorted(counts))
    if not samples:
        return f"No distances ({report.features})."
    return f"Distances: {samples} samples against {report.reference or 'the test split'}, on {report.features}."


def legend(report: Report) -> str:
    """`conditions`, and what ± and bold mean in the views of one run; a comparison has words of its own."""
    has_spread = any(row.spread for row in report.rows.values())
    return f"{conditions(report)} {SPREADS.format(nouns=report.nouns)}" if has_spread else conditions(report)


def notes(report: Report) -> list[str]:
    """Notes of the report and of its rows, each row's under its name; one that several rows share is told once."""
    return [*report.notes, *shared_notes((title(name), row.notes) for name, row in report.rows.items())]


def shared_notes(notes_by_name: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """Each note once, behind the names that it belongs to."""
    names: dict[str, dict[str, None]] = {}
    for name, notes in notes_by_name:
        for note in notes:
            names.setdefault(note, {}).setdefault(name)
    return [f"{', '.join(owners)}: {note}" for note, owners in names.items()]


def looks(report: Report) -> Iterator[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """What was remarkable of the latents before a prior was fitted: a caption, the heads of columns, and lines."""
    found = next((fitting.look for fitting in report.fitting.values() if fitting.look), ())
    if found:
        lines = [(row.what, [row.seen, row.done]) for row in found]
        yield "Training latents, before the prior was fitted", ["seen", "what is done"], lines


def ladders(report: Report) -> Iterator[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """Of each prior that was chosen among several: a caption, the heads of columns, and each rung with its texts."""
    for name, fitting in report.fitting.items():
        rungs = fitting.ladder
        if not rungs:
            continue
        by_distance = any(rung.frechet_distance is not None for rung in rungs)
        head = ["held-out\nnats", *["Frechet\ndistance"] * by_distance, "behind\nthe best", "fit\nseconds", ""]
        lines = []
        for rung in rungs:
            figures = [_number(rung.val_nll_nats, ".3f"), *[_number(rung.frechet_distance, ".3f")] * by_distance]
            behind = "-" if rung.behind is None else f"{rung.behind:.3f} ± {rung.error or 0:.3f}"
            lines.append((rung.rung, [*figures, behind, f"{rung.seconds:.1f}", rung.words]))
        metric = "Frechet distance" if by_distance else "held-out nats"
        yield f"Ladder of {title(name)}, by {metric}; ± is one standard error of the difference", head, lines


def _number(value: float | None, layout: str) -> str:
    return "-" if value is None else format(value, layout)


def terminal_ladders(report: Report, width: int) -> list[RenderableType]:
    """The tables of `ladders` for a terminal."""
    tables: list[RenderableType] = []
    for caption, head, lines in ladders(report):
        texts = list(zip(*(texts for _, texts in lines), strict=True))
        columns = [Column("rung", [label for label, _ in lines], is_label=True)]
        columns += [Column(name, list(cells), is_text=not name) for name, cells in zip(head, texts, strict=True)]
        tables.append(framed(caption, lay_out(columns, width), ()))
    return tables


def terminal_table(report: Report, width: int = 80) -> Group:
    """The closing table, figures down, rows across, in as many tables as `width` asks for; on a narrow terminal only
    the baseline and the learned prior have their spreads."""
    alone = f"{TITLES[report.baseline]} alone"
    heading = f"{report.data}: {'what the learned prior bought' if report.learned else alone}"
    tables = lay_out(columns(report, None if width >= WIDE else [report.baseline, *report.learned]), width)
    return framed(heading, tables, (legend(report), *notes(report)))


def columns(report: Report, only: Collection[str] | None = None) -> list[Column]:
    """The labels of the figures, and a column for each row of the report; arguments as of `lines`."""
    figures, learned = lines(report, only), report.learned
    shown = [Column("", [line.label for line in figures], is_label=True)]
    for n, name in enumerate(report.rows):
        style = "green" if name in learned else "dim" if name in FLOORS else ""
        bold = frozenset(row for row, line in enumerate(figures) if line.best == n)
        shown.append(Column(TITLES.get(name, name), [line.texts[n] for line in figures], style, bold))
    return shown
