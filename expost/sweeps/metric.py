"""`sweep.metric`: what a job of a sweep returns, by the names of report.json.

`FIGURE` is of the learned prior's row, `ROW.FIGURE` of another one, for example `reconstructions.frechet_distance`.
`seconds` is what the model cost: wall time of training the VAE and of fitting the prior, as the store recorded them, so
that a job that found both there tells what they took when they were made; of one that was stopped and continued, over
all attempts, without what was done twice.
"""

import json
import math
from typing import Any, Literal

from expost.base.command import Command
from expost.base.errors import UserError, nearest
from expost.config.schema import Config
from expost.evaluation.report import FIGURES
from expost.evaluation.row_names import BASELINES, FLOORS
from expost.store import manifest

LEARNED = "learned"
SECONDS = "seconds"
COSTS = ("num_parameters", "fit_seconds")
"""Figures that are not better one way or the other, and that one would have small."""
WITH_A_REPORT = ("all", "evaluate", "report")
DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"↓": "minimize", "↑": "maximize"}


def check_metric(config: Config) -> None:
    """
    Raises:
        UserError: `sweep.metric` names something that a run will not have.
    """
    for name in config.sweep.metric:
        direction(name)
    if config.sweep.metric and config.stage not in WITH_A_REPORT:
        choices = ", ".join(WITH_A_REPORT)
        raise UserError(f"sweep.metric is read from a report, and stage={config.stage} writes none; choices: {choices}")


def direction(name: str) -> Literal["minimize", "maximize"]:
    """Which way a metric is better, in Optuna's word.

    Raises:
        UserError: there is no such metric.
    """
    row, figure = _split(name)
    if name == SECONDS or figure in COSTS:
        return "minimize"
    rows = [LEARNED, *BASELINES, *FLOORS]
    if row not in rows:
        raise UserError(f"sweep.metric={name}: no row {row}; {nearest(row, rows)}")
    if figure not in FIGURES or not FIGURES[figure].better:
        known = [SECONDS, *COSTS, *(name for name, shown in FIGURES.items() if shown.better)]
        raise UserError(f"sweep.metric={name}: {nearest(figure, known)}")
    return DIRECTIONS[FIGURES[figure].better]


def _split(name: str) -> tuple[str, str]:
    row, dot, figure = name.rpartition(".")
    return (row, figure) if dot else (LEARNED, name)


def read_metric(config: Config, command: Command) -> float | tuple[float, ...] | None:
    """What a job of a sweep returns when it is done: one number, several, or None where none was asked for.

    Raises:
        UserError: the report has no such figure.
    """
    if not config.sweep.metric or command.sweep_dir is None:
        return None
    report = json.loads((command.sweep_dir / str(command.job_number) / "report.json").read_text(encoding="utf-8"))
    learned = command.choices.get("prior", LEARNED)
    values = tuple(_value(config, report, name, learned) for name in config.sweep.metric)
    return values[0] if len(values) == 1 else values


def _value(config: Config, report: dict[str, Any], name: str, learned: str) -> float:
    if name == SECONDS:
        return sum(_seconds(config, report, stage) for stage in ("vae", "prior"))
    row, figure = _split(name)
    figures = report["rows"].get(learned if row == LEARNED else row, {})
    value = figures.get(figure)
    if value is None or not math.isfinite(value):
        notes = "; ".join(figures.get("notes", []))
        raise UserError(f"sweep.metric={name}: the report has no such figure{notes and f'; it notes: {notes}'}")
    return float(value)


def _seconds(config: Config, report: dict[str, Any], stage: str) -> float:
    key = report["provenance"][stage]
    facts = manifest.read(config.paths.root / "store" / stage / key)
    if facts is None:
        raise UserError(f"sweep.metric={SECONDS}: the {stage} {key} is no longer in the store, nor what it took")
    return manifest.seconds(facts)
