"""From figures to `report.json` and the closing table.

The report is a plain mapping, so that every presentation (terminal, page, comparison) is a pure function of what is on
disk. A figure that does not exist is None, never 0 and never NaN: JSON has no NaN, and a reader could not tell why it
is there, so a figure that came out infinite or not a number becomes None and a note in words.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from expost.evaluation.row_names import AGGREGATE, BASELINES, FLOORS, RECONSTRUCTIONS, TRAIN_AGAINST_TEST, learned_rows
from expost.evaluation.tables import Column, laid_out, printable
from expost.evaluation.verdict import verdict_lines

if TYPE_CHECKING:
    from expost.evaluation.distances import Distances

TITLES = {
    **BASELINES,
    AGGREGATE: "aggre-\ngate\ndraws",
    RECONSTRUCTIONS: "recon-\nstruc-\ntions",
    TRAIN_AGAINST_TEST: "train\nvs\ntest",
}


@dataclass(frozen=True)
class Figure:
    """How one figure is shown: its label, the better direction, and its format."""

    label: str
    format: str
    better: str = ""


Line = tuple[str, list[str]]
"""Label of a figure, and its text in each column."""
ROUNDING = 1e-7
"""A spread of so small a share is that of float32: the figure is the same for every image."""
WIDE = 110
"""Columns of a terminal from which on every row has room for its spreads."""

FIGURES = {
    "distortion_nats": Figure("distortion, nats", ".2f", "↓"),
    "rate_nats": Figure("rate, nats", ".2f", "↓"),
    "elbo_nats": Figure("-ELBO, nats", ".2f", "↓"),
    "iwae_nats": Figure("-IWAE, nats", ".2f", "↓"),
    "ais_nats": Figure("-AIS, nats", ".2f", "↓"),
    "bits_per_dim": Figure("bits/dim", ".4f", "↓"),
    "latent_nll_nats": Figure("-log p(z), nats", ".2f", "↓"),
    "marginal_kl_nats": Figure("KL(q(z)|p), nats", ".2f", "↓"),
    "two_sample_accuracy": Figure("told from q(z)", ".1%", "↓"),
    "latent_mmd": Figure("MMD to q(z)", ".4f", "↓"),
    "frechet_distance": Figure("Frechet distance", ".3f", "↓"),
    "kernel_distance": Figure("kernel distance", ".4f", "↓"),
    "precision": Figure("precision", ".3f", "↑"),
    "recall": Figure("recall", ".3f", "↑"),
    "density": Figure("density", ".3f", "↑"),
    "coverage": Figure("coverage", ".3f", "↑"),
    "memorisation": Figure("memorisation", ".1%"),
    "class_accuracy": Figure("class accuracy", ".1%", "↑"),
    "gap_closed": Figure("gap closed", ".1%", "↑"),
    "num_samples": Figure("samples", ",d"),
    "samples_per_second": Figure("samples a second", ",.0f"),
    "fit_seconds": Figure("fit, seconds", ".1f"),
    "num_parameters": Figure("parameters", ",d"),
}
"""Every figure of a row, in the order of the table."""

SPREADS = (
    "± is one standard deviation: of samples over random halves of them and of the reference, of bounds over the test "
    "images; other seeds of training are not in it. Bold: better by more than two of the difference."
)


def build_row(
    bounds: Mapping[str, float | None] | None = None,
    distances: "Distances | None" = None,
    bits_per_dim: float | None = None,
    fit_seconds: float | None = None,
    num_parameters: int | None = None,
    notes: Sequence[str] = (),
    spread: Mapping[str, float] | None = None,
    **more: float | None,
) -> dict[str, Any]:
    """One row with every key of `FIGURES`, None where a figure does not apply, and `notes` in words.

    Args:
        bounds: `distortion_nats`, `rate_nats`, `elbo_nats`, `iwae_nats`, `latent_nll_nats`, as of `Bounds.means()`.
        distances: of the samples against the reference split.
        bits_per_dim: of the tightest bound, where it is one on a density or mass of images.
        fit_seconds: wall time of fitting the prior.
        num_parameters: of the prior.
        notes: what the reader should know about this row.
        spread: figure -> its standard deviation: over halves for samples, over images for bounds.
        more: other keys of `FIGURES`.
    """
    row: dict[str, Any] = dict.fromkeys(FIGURES)
    row.update(bounds or {})
    if distances is not None:
        names = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "num_samples")
        row.update({name: getattr(distances, name) for name in names})
    row.update(bits_per_dim=bits_per_dim, fit_seconds=fit_seconds, num_parameters=num_parameters, **more)
    unknown = (set(row) | set(spread or {})) - set(FIGURES)
    if unknown:
        raise ValueError(f"unknown figures: {', '.join(sorted(unknown))}")
    row["spread"] = dict(spread or {})
    row["notes"] = list(notes)
    return row


def build_report(
    data: str,
    features: str,
    rows: Mapping[str, Mapping[str, Any]],
    baseline: str = "standard_normal",
    **more: Any,
) -> dict[str, Any]:
    """The content of `report.json`: `gap_closed` and the verdict filled in, nothing infinite or NaN left.

    Args:
        data: name of the data set.
        features: what the distances are measured on, in words.
        rows: row name -> row of `build_row`; learned priors under their config name, and the two `FLOORS`.
        baseline: name of the row of the prior that nobody learns.
        more: further top-level keys, for instance `counted`, `reference`, `num_samples`, `notes`, `provenance`.
    """
    finished = {name: _finite(row) for name, row in rows.items()}
    for name, row in finished.items():
        if name != baseline and name not in FLOORS:
            row["gap_closed"] = _gap_closed(finished, row, baseline)
        row["spread"] = {key: value for key, value in row["spread"].items() if row.get(key) is not None}
    report = {"data": data, "features": features, "baseline": baseline, "rows": finished, **_plain(more)}
    lines = verdict_lines(report)
    return {**report, "verdict": " ".join(lines), "verdict_lines": lines}


def _gap_closed(rows: Mapping[str, Mapping[str, Any]], row: Mapping[str, Any], baseline: str) -> float | None:
    base, best = (rows.get(name, {}).get("frechet_distance") for name in (baseline, RECONSTRUCTIONS))
    mine = row["frechet_distance"]
    from expost.evaluation.distances import gap_closed  # torch: only who measures

    return None if mine is None or base is None or best is None else gap_closed(base, mine, best)


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for every infinite number or NaN, and a note that says so."""
    broken = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    notes = [f"{name} is missing: it came out as {row[name]}" for name in broken]
    known = {name: value for name, value in row.get("spread", {}).items() if math.isfinite(value)}
    return {**row, **dict.fromkeys(broken), "spread": known, "notes": [*row.get("notes", []), *notes]}


def _plain(value: Any) -> Any:
    """`value` with None for every float that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(report: Mapping[str, Any]) -> str:
    """The text of `report.json`; strict JSON."""
    return json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)


def learned_priors(report: Mapping[str, Any]) -> list[str]:
    """Names of the rows that are neither the baseline nor counted nor a floor."""
    return learned_rows(report)


def cells(report: Mapping[str, Any], only: Collection[str] | None = None) -> tuple[list[str], list[Line]]:
    """Column titles, and for each figure that exists in some row its label and one text a column.

    Args:
        report: of `build_report`.
        only: rows whose spreads are told; None: all.
    """
    rows = report["rows"]
    titles = [TITLES.get(name, name) for name in rows]
    lines = []
    for key, figure in FIGURES.items():
        if any(row.get(key) is not None for row in rows.values()):
            texts = [_text(key, row, only is None or name in only) for name, row in rows.items()]
            lines.append((_label(figure), texts))
    return titles, lines


def _label(figure: Figure) -> str:
    return f"{figure.label} {figure.better}".strip()


def _text(key: str, row: Mapping[str, Any], with_spread: bool) -> str:
    """The figure as it is shown: "12.34 ± 0.05", to one digit of the spread or two, where the figure has so many."""
    value, noise, layout = row.get(key), row.get("spread", {}).get(key), FIGURES[key].format
    if value is None:
        return "-"
    if noise is None or not with_spread or noise < ROUNDING * abs(value):
        return format(value, layout)
    if noise > 0 and layout.endswith("f"):
        first = max(0, -math.floor(math.log10(noise)))
        decimals = min(9, max(first, min(int(layout[-2]), first + 1)))
        layout = f"{layout[:-2]}{decimals}f"
    return f"{value:{layout}} ± {noise:{layout}}"


def winners(report: Mapping[str, Any]) -> dict[str, str]:
    """Label of a figure -> the prior that is better in it than every other one, by more than the noise of both.

    A figure where the best two differ by less than two standard deviations of their difference has no winner. Costs of
    images are paired: both priors were asked about the same images with the same draws, and what the images differ by
    says nothing about the priors.
    """
    rows = {name: row for name, row in report["rows"].items() if name not in FLOORS}
    best = {_label(figure): _winner(key, figure, rows, report["baseline"]) for key, figure in FIGURES.items()}
    return {label: name for label, name in best.items() if name is not None}


def differ(a: float, b: float, spread_a: float | None, spread_b: float | None) -> bool:
    """Whether a and b are two standard deviations of their difference apart; never where a spread is unknown."""
    if spread_a is None or spread_b is None:
        return False
    return abs(a - b) > 2 * math.hypot(spread_a, spread_b)


def _winner(key: str, figure: Figure, rows: Mapping[str, Mapping[str, Any]], baseline: str) -> str | None:
    values = {name: row[key] for name, row in rows.items() if row.get(key) is not None}
    if not figure.better or len(values) < 2:
        return None
    ranked = sorted(values, key=lambda name: values[name], reverse=figure.better == "↑")
    gain = next((gain for name in ranked[:2] if (gain := rows[name].get("gain", {}).get(key))), None)
    if gain is not None and baseline in ranked[:2]:
        return ranked[0] if differ(gain["value"], 0.0, gain["standard_error"], 0.0) else None
    noise = [rows[name].get("spread", {}).get(key) for name in ranked[:2]]
    return ranked[0] if differ(values[ranked[0]], values[ranked[1]], *noise) else None


def conditions(report: Mapping[str, Any]) -> str:
    """What every distance depends on: number of samples, reference split, feature net."""
    counts = {row["num_samples"] for row in report["rows"].values() if row.get("num_samples") is not None}
    samples = " or ".join(f"{count:,}" for count in sorted(counts))
    reference = report.get("reference") or "the test split"
    if not samples:
        return f"No distances ({report['features']})."
    return f"Distances: {samples} samples against {reference}, on {report['features']}."


def legend(report: Mapping[str, Any]) -> str:
    """`conditions`, and what ± and bold mean in the views of one run; a comparison has words of its own."""
    has_spread = any(row.get("spread") for row in report["rows"].values())
    return f"{conditions(report)} {SPREADS}" if has_spread else conditions(report)


def notes(report: Mapping[str, Any]) -> list[str]:
    """Notes of the report and of its rows, each row's under its name; one that several rows share is told once."""
    told: dict[str, list[str]] = {}
    for name, row in report["rows"].items():
        for note in row.get("notes", []):
            told.setdefault(note, []).append(TITLES.get(name, name).replace("-\n", "").replace("\n", " "))
    return [*report.get("notes", []), *(f"{', '.join(names)}: {note}" for note, names in told.items())]


def terminal_table(report: Mapping[str, Any], width: int = 80) -> Group:
    """The closing table, figures down, rows across, in as many tables as `width` asks for; on a narrow terminal only
    the baseline and the learned prior have their spreads."""
    learned = learned_priors(report)
    alone = f"{TITLES[report['baseline']]} alone"
    title = f"{report['data']}: {'what the learned prior bought' if learned else alone}"
    tables = laid_out(columns(report, None if width >= WIDE else [report["baseline"], *learned]), width)
    caption = [printable(line) for line in (legend(report), *notes(report))]
    parts = [part for table in tables for part in (Text(""), table)]
    return Group(Text(printable(title), "italic"), *parts, Text(""), Text("\n".join(caption), "dim"))


def columns(report: Mapping[str, Any], only: Collection[str] | None = None) -> list[Column]:
    """The labels of the figures, and a column for each row of the report; arguments as of `cells`."""
    titles, lines = cells(report, only)
    best = winners(report)
    shown = [Column("", [label for label, _ in lines], is_label=True)]
    for n, (title, name) in enumerate(zip(titles, report["rows"], strict=True)):
        style = "green" if name in learned_priors(report) else "dim" if name in FLOORS else ""
        bold = frozenset(row for row, (label, _) in enumerate(lines) if best.get(label) == name)
        shown.append(Column(title, [texts[n] for _, texts in lines], style, bold))
    return shown
