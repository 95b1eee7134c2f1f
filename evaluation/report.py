"""From figures to `report.json`, the closing table and `report.html`.

The report is a plain mapping, so that every presentation (terminal, page, comparison) is a pure function of what is on
disk. A figure that does not exist is None, never 0 and never NaN: JSON has no NaN, and a reader could not tell why it
is there, so a figure that came out infinite or not a number becomes None and a note in words.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.table import Table
from rich.text import Text

from evaluation.distances import Distances, gap_closed

BASELINE = "standard_normal"
RECONSTRUCTIONS = "reconstructions"
TRAIN_AGAINST_TEST = "train_against_test"
FLOORS = (RECONSTRUCTIONS, TRAIN_AGAINST_TEST)
"""Rows that no prior can beat with this decoder, and that no model can beat on this data."""

TITLES = {BASELINE: "N(0, I)", RECONSTRUCTIONS: "recon-\nstructions", TRAIN_AGAINST_TEST: "train\nvs test"}


@dataclass(frozen=True)
class Figure:
    """How one figure is shown: its label, the better direction, and its format."""

    label: str
    format: str
    better: str = ""


FIGURES = {
    "distortion_nats": Figure("distortion, nats", ".2f", "↓"),
    "rate_nats": Figure("rate, nats", ".2f", "↓"),
    "elbo_nats": Figure("-ELBO, nats", ".2f", "↓"),
    "iwae_nats": Figure("-IWAE bound, nats", ".2f", "↓"),
    "bits_per_dim": Figure("bits/dim", ".4f", "↓"),
    "latent_nll_nats": Figure("-log p(z), nats", ".2f", "↓"),
    "frechet_distance": Figure("Frechet distance", ".3f", "↓"),
    "kernel_distance": Figure("kernel distance", ".4f", "↓"),
    "precision": Figure("precision", ".3f", "↑"),
    "recall": Figure("recall", ".3f", "↑"),
    "density": Figure("density", ".3f", "↑"),
    "coverage": Figure("coverage", ".3f", "↑"),
    "gap_closed": Figure("gap closed", ".1%", "↑"),
    "num_samples": Figure("samples", ",d"),
    "fit_seconds": Figure("fit, seconds", ".1f"),
    "num_parameters": Figure("parameters", ",d"),
}
"""Every figure of a row, in the order of the table."""


def build_row(
    bounds: Mapping[str, float | None] | None = None,
    distances: Distances | None = None,
    bits_per_dim: float | None = None,
    fit_seconds: float | None = None,
    num_parameters: int | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One row with every key of `FIGURES`, None where a figure does not apply, and `notes` in words.

    Args:
        bounds: `distortion_nats`, `rate_nats`, `elbo_nats`, `iwae_nats`, `latent_nll_nats`, as of `Bounds.means()`.
        distances: of the samples against the reference split.
        bits_per_dim: of the tightest bound, where it is one on a density or mass of images.
        fit_seconds: wall time of fitting the prior.
        num_parameters: of the prior.
        notes: what the reader should know about this row.
    """
    row: dict[str, Any] = dict.fromkeys(FIGURES)
    row.update(bounds or {})
    if distances is not None:
        names = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "num_samples")
        row.update({name: getattr(distances, name) for name in names})
    row.update(bits_per_dim=bits_per_dim, fit_seconds=fit_seconds, num_parameters=num_parameters)
    unknown = set(row) - set(FIGURES)
    if unknown:
        raise ValueError(f"unknown figures: {', '.join(sorted(unknown))}")
    row["notes"] = list(notes)
    return row


def build_report(data: str, features: str, rows: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """The content of `report.json`: `gap_closed` and the verdict filled in, nothing infinite or NaN left.

    Args:
        data: name of the data set.
        features: what the distances are measured on, in words.
        rows: row name -> row of `build_row`; learned priors under their config name, and the two `FLOORS`.
        more: further top-level keys, for instance `reference`, `num_samples`, `notes`, `provenance`.
    """
    finished = {name: _finite(row) for name, row in rows.items()}
    for name, row in finished.items():
        if name != BASELINE and name not in FLOORS:
            row["gap_closed"] = _gap_closed(finished, row)
    report = {"data": data, "features": features, "baseline": BASELINE, "rows": finished, **_plain(more)}
    return {**report, "verdict": verdict(report)}


def _gap_closed(rows: Mapping[str, Mapping[str, Any]], row: Mapping[str, Any]) -> float | None:
    baseline, best = (rows.get(name, {}).get("frechet_distance") for name in (BASELINE, RECONSTRUCTIONS))
    mine = row["frechet_distance"]
    return None if mine is None or baseline is None or best is None else gap_closed(baseline, mine, best)


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None for every number that is infinite or NaN, and a note that says so."""
    broken = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    notes = [f"{name} is missing: it came out as {row[name]}" for name in broken]
    return {**row, **dict.fromkeys(broken), "notes": [*row.get("notes", []), *notes]}


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
    """Names of the rows that are neither the baseline nor a floor."""
    return [name for name in report["rows"] if name != report["baseline"] and name not in FLOORS]


def verdict(report: Mapping[str, Any]) -> str:
    """What the learned prior bought, in one sentence a prior."""
    rows = report["rows"]
    base = rows.get(report["baseline"], {})
    sentences = [_bought(name, rows[name], base, rows.get(RECONSTRUCTIONS, {})) for name in learned_priors(report)]
    return " ".join(sentences) or "Only the baseline N(0, I) was evaluated; choose a learned prior to compare it with."


def _bought(name: str, row: Mapping[str, Any], base: Mapping[str, Any], floor: Mapping[str, Any]) -> str:
    parts = []
    for key, what in [("rate_nats", "the rate"), ("latent_nll_nats", "the cost -log p(z) of a held-out latent")]:
        before, after = base.get(key), row.get(key)
        if before is not None and after is not None:
            verb = "lowers" if after <= before else "raises"
            parts.append(f"{verb} {what} by {abs(before - after):.2f} nats an image ({before:.2f} to {after:.2f})")
            break  # both say the same where both exist: the entropy of q(z|x) is shared
    closed, distance = row.get("gap_closed"), row.get("frechet_distance")
    if closed is not None:
        spell = f"Frechet distance {base['frechet_distance']:.3f} to {distance:.3f}"
        best = f"reconstructions reach {floor['frechet_distance']:.3f}"
        doing = f"closes {closed:.1%}" if closed >= 0 else f"widens by {-closed:.1%}"
        parts.append(f"{doing} of the gap between decoded N(0, I) samples and reconstructions ({spell}; {best})")
    elif distance is not None and base.get("frechet_distance") is not None:
        parts.append(f"moves the Frechet distance from {base['frechet_distance']:.3f} to {distance:.3f}")
    if not parts:
        return f"There is no figure that compares the prior {name} with N(0, I)."
    return f"Against N(0, I), the prior {name} {' and '.join(parts)}."


def cells(report: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Column titles, and for each figure that exists in some row its label and one text a column."""
    rows = report["rows"]
    titles = [TITLES.get(name, name) for name in rows]
    lines = []
    for key, figure in FIGURES.items():
        values = [row.get(key) for row in rows.values()]
        if any(value is not None for value in values):
            texts = ["-" if value is None else format(value, figure.format) for value in values]
            lines.append((f"{figure.label} {figure.better}".strip(), texts))
    return titles, lines


def conditions(report: Mapping[str, Any]) -> str:
    """What every distance depends on: number of samples, reference split, feature net."""
    counts = {row["num_samples"] for row in report["rows"].values() if row.get("num_samples") is not None}
    samples = " or ".join(f"{count:,}" for count in sorted(counts)) or "no"
    reference = report.get("reference") or "the test split"
    return f"Distances: {samples} samples against {reference}, on {report['features']}."


def notes(report: Mapping[str, Any]) -> list[str]:
    """Notes of the report and of its rows, each row's under its name; one that several rows share is told once."""
    told: dict[str, list[str]] = {}
    for name, row in report["rows"].items():
        for note in row.get("notes", []):
            told.setdefault(note, []).append(TITLES.get(name, name).replace("-\n", "").replace("\n", " "))
    return [*report.get("notes", []), *(f"{', '.join(names)}: {note}" for note, names in told.items())]


def terminal_table(report: Mapping[str, Any]) -> Table:
    """The closing table, figures down and rows across, for 80 columns."""
    titles, lines = cells(report)
    caption = "\n".join([conditions(report), *notes(report)])
    table = Table(
        title=f"{report['data']}: what the learned prior bought",
        caption=Text(caption, style="dim", justify="left"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for title, name in zip(titles, report["rows"], strict=True):
        style = "green" if name in learned_priors(report) else "dim" if name in FLOORS else ""
        table.add_column(title, justify="right", style=style, vertical="bottom", overflow="fold")
    for label, texts in lines:
        table.add_row(label, *texts)
    return table


def render_html(report: Mapping[str, Any], pictures: Mapping[str, Path], config_yaml: str) -> str:
    """One self-contained page: no file beside it, no network, no script.

    Args:
        report: of `build_report`.
        pictures: caption -> PNG file, in the order of the page.
        config_yaml: the resolved config.
    """
    titles, lines = cells(report)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    embedded = [(caption, base64.b64encode(path.read_bytes()).decode("ascii")) for caption, path in pictures.items()]
    return environment.get_template("report.html.j2").render(
        report=report,
        learned=learned_priors(report),
        floors=FLOORS,
        names=list(report["rows"]),
        titles=[title.replace("-\n", "").replace("\n", " ") for title in titles],
        lines=lines,
        conditions=conditions(report),
        notes=notes(report),
        pictures=embedded,
        config_yaml=config_yaml,
    )
