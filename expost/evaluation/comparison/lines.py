"""From stored reports to the lines of a comparison: one a prior, one a VAE for what all its priors share.

Runs that differ in their seeds alone become one line, mean and standard deviation over n seeds (ddof = 1). A seed is a
trained VAE with a fitted prior: the same two measured again are no further seed, and the newest measurement of a figure
counts.

Two sources of noise add up in the mean of n seeds: the seeds, whose standard deviation s shrinks as they become more,
and the images that all seeds are measured on, whose share t does not. Its standard error is sqrt(s^2 / n + t^2).
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from expost.evaluation.comparison.sources import Source
from expost.evaluation.report import FIGURES, Row
from expost.evaluation.row_names import BASELINES, FLOORS, MOMENT_MATCHED, TRAIN_AGAINST_TEST
from expost.evaluation.views import title

SHARED = frozenset({*BASELINES, *FLOORS, MOMENT_MATCHED})
"""Rows that belong to a VAE and not to a prior."""


@dataclass(frozen=True)
class Value:
    """One figure of one line.

    Attributes:
        mean: over seeds.
        seed_std: standard deviation over seeds, ddof 1; None for a single one.
        spread: standard deviation over resampled images of one run, mean over seeds; None where a run has none.
        by_vae: key of the VAE -> the figures on it, one a seed of the prior: pairs the lines of several priors.
        leads: best learned prior, by more than the noise.
    """

    mean: float
    seed_std: float | None
    spread: float | None
    num: int
    by_vae: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    leads: bool = False

    @property
    def noise(self) -> float | None:
        """Standard error of the mean; None where nothing is known of it."""
        if self.seed_std is None and self.spread is None:
            return None
        return math.hypot((self.seed_std or 0.0) / math.sqrt(self.num), self.spread or 0.0)


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
        memorises: it stands on every training latent, and is never called best.
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
    memorises: bool = False

    @property
    def is_learned(self) -> bool:
        return self.row not in SHARED

    @property
    def is_prior(self) -> bool:
        """A prior, and not a floor or a ceiling."""
        return self.is_learned or self.row in (*BASELINES, MOMENT_MATCHED)


class Seed(NamedTuple):
    """One seed of a line: its newest run; each figure with its spread from the newest run that has it, and the notes of
    the runs that gave one; the names of those."""

    source: Source
    row: Row
    runs: tuple[str, ...]


def available(sources: Sequence[Source]) -> tuple[str, ...]:
    """Figures that some row of some run has, in the order of the report."""
    rows = [row.figures for source in sources for row in source.report.rows.values()]
    return tuple(key for key in FIGURES if any(row[key] is not None for row in rows))


def lines_of(sources: Sequence[Source], columns: Sequence[str]) -> Iterator[Line]:
    """One line a prior and VAE, and one a VAE for each row that its priors share; seeds of a recipe together."""
    gathered: dict[tuple[str, str, str], dict[tuple[str, str], list[tuple[Source, Row]]]] = {}
    for source in sources:
        for name, row in source.report.rows.items():
            if name == TRAIN_AGAINST_TEST:  # the data's own: no seed and no VAE moves it
                key, unit = (name, source.likelihood, ""), ("", "")
            elif name in SHARED:
                key, unit = (name, source.vae_recipe, ""), (source.vae, "")
            else:
                key, unit = (name, source.vae_recipe, source.prior_recipe), (source.vae, source.prior)
            gathered.setdefault(key, {}).setdefault(unit, []).append((source, row))  # unit: what tells seeds apart
    labels = _distinct({s.vae_recipe: s.vae_label for s in sources})
    priors: dict[str, str] = {}
    for vae in labels:
        priors |= _distinct({s.prior_recipe: s.prior_label for s in sources if s.vae_recipe == vae})
    for (name, *_), units in gathered.items():
        seeds = [_seed(measured) for measured in units.values()]
        first = seeds[0].source
        values = {key: value for key in columns if (value := _value(seeds, key)) is not None}
        short = [k for k, v in values.items() if v.num < len(seeds)]
        yield Line(
            row=name,
            label=_label(name, priors.get(first.prior_recipe, name)),
            vae=first.vae_recipe,
            vae_label="" if name == TRAIN_AGAINST_TEST else labels[first.vae_recipe],
            likelihood=first.likelihood,
            runs=tuple(dict.fromkeys(run for seed in seeds for run in seed.runs)),
            num=len(seeds),
            values=values,
            notes=(
                *dict.fromkeys(note for seed in seeds for note in seed.row.notes),
                *(f"{FIGURES[key].label} exists for {values[key].num} of {len(seeds)} seeds only" for key in short),
            ),
            memorises=any(seed.row.memorises for seed in seeds),
        )


def _seed(measured: Sequence[tuple[Source, Row]]) -> Seed:
    """One seed from all that was measured of it."""
    newest_first = sorted(measured, key=lambda pair: pair[0].age, reverse=True)
    merged, givers = Row(), {0}
    for key in FIGURES:
        place = next((i for i, (_, row) in enumerate(newest_first) if row.figures[key] is not None), None)
        if place is not None:
            row = newest_first[place][1]
            merged = merged.with_figure(key, row.figures[key], row.spread.get(key))
            givers.add(place)
    giving = [newest_first[place] for place in sorted(givers)]
    notes = tuple(dict.fromkeys(note for _, row in giving for note in row.notes))
    memorises = any(row.memorises for _, row in giving)
    merged = replace(merged, notes=notes, memorises=memorises)
    return Seed(newest_first[0][0], merged, tuple(source.name for source, _ in giving))


def _label(name: str, prior: str) -> str:
    if name not in SHARED:
        return prior if prior.split(" ")[0] == name else name
    return title(name)


def _distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, with the start of the key behind those that two keys share."""
    taken = list(labels.values())
    return {key: f"{label} #{key[:6]}" if taken.count(label) > 1 else label for key, label in labels.items()}


def _value(seeds: Sequence[Seed], key: str) -> Value | None:
    having = [(seed, float(number)) for seed in seeds if (number := seed.row.figures[key]) is not None]
    if not having:
        return None
    numbers = [number for _, number in having]
    on_vae: dict[str, list[float]] = {}
    for seed, number in having:
        on_vae.setdefault(seed.source.vae, []).append(number)
    known = [float(seed.row.spread[key]) for seed, _ in having if key in seed.row.spread]
    return Value(
        mean=statistics.fmean(numbers),
        seed_std=statistics.stdev(numbers) if len(numbers) > 1 else None,
        spread=statistics.fmean(known) if len(known) == len(having) else None,
        num=len(numbers),
        by_vae={vae: tuple(figures) for vae, figures in on_vae.items()},
    )
