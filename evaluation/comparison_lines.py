"""From stored reports to the lines of a comparison: one a prior, one a VAE for what all its priors share.

Runs that differ in their seeds alone become one line, mean and standard deviation over n seeds (ddof = 1). The noise of
a line is the standard error of its mean: the larger of the standard deviations over seeds and over resampled images,
divided by sqrt(n).
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.comparison_source import Source
from evaluation.report import BASELINE, FIGURES, FLOORS, TITLES, TRAIN_AGAINST_TEST, Figure

SHARED = frozenset({BASELINE, *FLOORS})
"""Rows that belong to a VAE and not to a prior."""


@dataclass(frozen=True)
class Value:
    """One figure of one line.

    Attributes:
        mean: over seeds.
        seed_std: standard deviation over seeds, ddof 1; None for a single one.
        spread: standard deviation over resampled images of one run, mean over seeds; None where a run has none.
        by_vae: key of the VAE -> the figure on it, mean over further seeds: pairs the lines of several priors.
        leads: best learned prior, by more than the noise.
    """

    mean: float
    seed_std: float | None
    spread: float | None
    num: int
    by_vae: Mapping[str, float] = field(default_factory=dict)
    leads: bool = False

    @property
    def noise(self) -> float | None:
        """Standard error of the mean; None where nothing is known of it."""
        known = [std for std in (self.seed_std, self.spread) if std is not None]
        return max(known) / math.sqrt(self.num) if known else None


@dataclass(frozen=True)
class Line:
    """One row of the table: a prior on a VAE, over its seeds.

    Attributes:
        row: its name in the reports.
        label, vae_label, likelihood: in words.
        vae: identity of the VAE up to its seed.
        runs: names of the runs that it comes from.
        num: seeds.
        values: figure -> value, for those that exist.
        notes: in words.
    """

    row: str
    label: str
    vae: str
    vae_label: str
    likelihood: str
    runs: tuple[str, ...]
    num: int
    values: Mapping[str, Value]
    notes: tuple[str, ...]

    @property
    def is_learned(self) -> bool:
        return self.row not in SHARED

    @property
    def is_prior(self) -> bool:
        """A prior, and not a floor or a ceiling."""
        return self.is_learned or self.row == BASELINE


def figure(key: str) -> Figure:
    """How the figure `key` is shown."""
    return FIGURES[key]


def available(sources: Sequence[Source]) -> tuple[str, ...]:
    """Figures that some row of some run has, in the order of the report."""
    rows = [row for source in sources for row in source.report["rows"].values()]
    return tuple(key for key in FIGURES if any(row.get(key) is not None for row in rows))


def lines_of(sources: Sequence[Source], columns: Sequence[str]) -> Iterator[Line]:
    """One line a prior and VAE, and one a VAE for each row that its priors share; seeds of a recipe together."""
    gathered: dict[tuple[str, str, str], dict[str, tuple[Source, Mapping[str, Any]]]] = {}
    for source in sources:
        for name, row in source.report["rows"].items():
            if name == TRAIN_AGAINST_TEST:  # the data's own: no seed and no VAE moves it
                key, unit = (name, source.likelihood, ""), ""
            elif name in SHARED:
                key, unit = (name, source.vae_recipe, ""), source.vae
            else:
                key, unit = (name, source.vae_recipe, source.prior_recipe), source.evaluation
            gathered.setdefault(key, {}).setdefault(unit, (source, row))  # what tells seeds apart -> run and row
    labels = _distinct({s.vae_recipe: s.vae_label for s in sources})
    priors: dict[str, str] = {}
    for vae in labels:
        priors |= _distinct({s.prior_recipe: s.prior_label for s in sources if s.vae_recipe == vae})
    for (name, *_), found in gathered.items():
        runs, rows = zip(*found.values(), strict=True)
        values = {key: value for key in columns if (value := _value(runs, rows, key)) is not None}
        short = [k for k, v in values.items() if v.num < len(rows)]
        yield Line(
            row=name,
            label=_label(name, priors.get(runs[0].prior_recipe, name)),
            vae=runs[0].vae_recipe,
            vae_label="" if name == TRAIN_AGAINST_TEST else labels[runs[0].vae_recipe],
            likelihood=runs[0].likelihood,
            runs=tuple(run.name for run in runs),
            num=len(rows),
            values=values,
            notes=(
                *dict.fromkeys(note for row in rows for note in row.get("notes", [])),
                *(f"{figure(key).label} exists for {values[key].num} of {len(rows)} seeds only" for key in short),
            ),
        )


def _label(name: str, prior: str) -> str:
    if name not in SHARED:
        return prior if prior.split(" ")[0] == name else name
    return TITLES.get(name, name.replace("_", " ")).replace("-\n", "").replace("\n", " ")


def _distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, with the start of the key behind those that two keys share."""
    taken = list(labels.values())
    return {key: f"{label} #{key[:6]}" if taken.count(label) > 1 else label for key, label in labels.items()}


def _value(runs: Sequence[Source], rows: Sequence[Mapping[str, Any]], key: str) -> Value | None:
    having = [row for row in rows if row.get(key) is not None]
    if not having:
        return None
    numbers = [float(row[key]) for row in having]
    on_vae: dict[str, list[float]] = {}
    for run, row in zip(runs, rows, strict=True):
        if row.get(key) is not None:
            on_vae.setdefault(run.vae, []).append(float(row[key]))
    spreads = [(row.get("spread") or {}).get(key) for row in having]
    known = [float(spread) for spread in spreads if spread is not None]
    return Value(
        mean=statistics.fmean(numbers),
        seed_std=statistics.stdev(numbers) if len(numbers) > 1 else None,
        spread=statistics.fmean(known) if len(known) == len(having) else None,
        num=len(numbers),
        by_vae={vae: statistics.fmean(found) for vae, found in on_vae.items()},
    )
