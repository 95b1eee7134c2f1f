"""An evaluation is a list of parts that fill one result, whatever is judged; `stage=plan` times them by name."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expost.config.schema import Evaluation
from expost.evaluation.bounds import Bounds
from expost.evaluation.distances import Distances
from expost.evaluation.exploration.content import Exploration
from expost.evaluation.page import PICTURES
from expost.evaluation.report import FIGURES, Report
from expost.evaluation.sections import Surgery
from expost.job import Job
from expost.measure.image_sets import Copies, FeaturedSet
from expost.measure.labelled.classes import ConditionalSamples, class_table
from expost.measure.subject import Subject
from expost.parts.weights import Histories
from expost.training.progress import clock
from expost.training.tracking import Tracker


@dataclass
class Findings:
    """One evaluation: what it is about, and what its parts have found so far.

    Attributes:
        job: whose `evaluation` section says how much is measured.
        trained: what is judged.
        histories: what training and fitting recorded.
        folder: where the pictures go.
        notes: in words, what is missing and why, but for that of the surgery.
        seconds: wall time of each part.
        others: each is filled in by a part.
    """

    job: Job
    trained: Subject
    histories: Histories
    folder: Path
    notes: list[str] = field(init=False, default_factory=list)
    seconds: dict[str, float] = field(init=False, default_factory=dict)
    images: Mapping[str, FeaturedSet] = field(init=False)
    distances: Mapping[str, Distances] = field(init=False)
    copies: Copies = field(init=False)
    classes: ConditionalSamples | None = field(init=False, default=None)
    bounds: Mapping[str, Bounds] = field(init=False)
    surgery: Surgery = field(init=False)
    exploration: Exploration | None = field(init=False, default=None)
    pictures: dict[str, Path] = field(init=False)

    @property
    def name(self) -> str:
        """Of the learned prior's row."""
        return self.job.prior_name

    @property
    def settings(self) -> Evaluation:
        return self.job.config.evaluation

    def drawn(self) -> dict[str, Path]:
        """The pictures that are in the folder, by their names."""
        return {stem: path for stem in PICTURES if (path := self.folder / f"{stem}.png").is_file()}


@dataclass(frozen=True)
class Part:
    """Of an evaluation.

    Attributes:
        name: in the seconds of `figures.json`.
        fills: the attribute of `Findings` that it is there for.
        find: the value of that attribute.
        shows_bar: by itself; any other part has a clock on the terminal.
    """

    name: str
    fills: str
    find: Callable[[Any], Any]
    shows_bar: bool = False

    def carry_out(self, findings: Findings) -> None:
        """Fill in what is found, and how long it took.

        Each part has the same noise whatever ran before it: two priors on one VAE are asked about the same draws.
        """
        job, started = findings.job, time.perf_counter()
        with clock(self.name, job.shows_progress and not self.shows_bar), job.seeded(job.config.seeds.sample):
            setattr(findings, self.fills, self.find(findings))
        findings.seconds[self.name] = time.perf_counter() - started


def carry_out(parts: Iterable[Part], findings: Findings, build: Callable[[Any], Report], tracker: Tracker) -> Report:
    """All `parts`, then `figures.json` in the findings' folder, of the report that `build` makes of them, and what the
    tracker shows."""
    for part in parts:
        part.carry_out(findings)
    report = build(findings)
    (findings.folder / "figures.json").write_text(report.text(), encoding="utf-8", errors="backslashreplace")
    tracker.pictures(findings.pictures)
    tracker.table("report", ["row", *FIGURES], [[name, *row.figures.values()] for name, row in report.rows.items()])
    if findings.classes is not None:
        tracker.table("classes", *class_table(findings.classes.facts))
    return report
