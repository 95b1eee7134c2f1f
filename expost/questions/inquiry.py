"""What a question about VAEs is: runs that differ in one thing, what is read off each, and what follows from all."""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from scipy import stats

from expost.base.errors import UserError
from expost.config.schema import Config
from expost.evaluation.report import Report, Row
from expost.evaluation.sections import Estimate
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.parts.weights import Histories, fitted_prior, histories, trained_vae
from expost.stages.report import stored_report
from expost.store.artifacts import Artifact
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.latents import LatentDataset, Support
from stage2_prior.prior import Prior


@dataclass(frozen=True)
class Variant:
    """One of the runs that are compared: its name, and the words of the command line that set it apart."""

    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A run that came to its end: what it was asked, what was built for it, and its artifacts by stage."""

    job: Job
    parts: ImageParts
    artifacts: Mapping[str, Artifact]

    @cached_property
    def vae(self) -> Autoencoder:
        """Trained, in evaluation mode, on the job's device."""
        return trained_vae(self.parts, self.artifacts["vae"], self.job.device)

    @cached_property
    def prior(self) -> Prior:
        """Fitted, in evaluation mode, on the job's device."""
        return fitted_prior(self.parts, self.artifacts["prior"], self.job.device)

    @cached_property
    def report(self) -> Report:
        return stored_report(self.artifacts["evaluation"])

    @cached_property
    def recorded(self) -> Histories:
        """What stage 1 recorded, a mapping an epoch, and what the fit reported."""
        return histories(self.artifacts["vae"], self.artifacts["prior"])

    def latents(self, split: str) -> LatentDataset:
        return LatentDataset.load(self.artifacts["latents"].path / split)


@dataclass(frozen=True)
class Outcome:
    """What one run gave: figures by name, and what a picture needs of it and no file keeps."""

    variant: str
    seed: int
    figures: Mapping[str, float]
    material: Any = None


@dataclass(frozen=True)
class Outcomes:
    """Those of all runs, variant by variant, each with the same seeds in the same order."""

    all: Sequence[Outcome]

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(outcome.variant for outcome in self.all))

    def of(self, variant: str) -> list[Outcome]:
        return [outcome for outcome in self.all if outcome.variant == variant]

    def values(self, variant: str, figure: str) -> list[float]:
        """Of each seed."""
        return [outcome.figures[figure] for outcome in self.of(variant)]

    def estimate(self, variant: str, figure: str) -> Estimate:
        """Mean over seeds and its standard error, from their spread; None for one seed."""
        return estimate_of(self.values(variant, figure))

    def difference(self, variant: str, other: str, figure: str) -> Estimate:
        """How much larger `figure` is of `variant` than of `other`, paired by seed."""
        pairs = zip(self.values(variant, figure), self.values(other, figure), strict=True)
        return estimate_of([own - others for own, others in pairs])

    def differ(self, variant: str, other: str, figure: str, among: int = 1) -> bool | None:
        """Whether that difference is more than noise, by a paired t-test at 5 % of one that was picked `among` so many;
        None: of one seed nobody knows."""
        return is_beyond_noise(self.difference(variant, other, figure), len(self.of(variant)), among)

    def noise(self, variant: str, other: str, figure: str, among: int = 1) -> str:
        """Words to put behind a difference: nothing where it is more than noise."""
        return NOISE_WORDS[self.differ(variant, other, figure, among)]

    def as_good_as(self, best: str, variants: Sequence[str], figure: str) -> str:
        """Words to put behind the best of `variants`: those that noise does not tell from it; nothing of one seed."""
        others = [name for name in variants if name != best]
        alike = [name for name in others if self.differ(name, best, figure, len(others)) is False]
        return f" (inside the noise as good: {', '.join(alike)})" if alike else ""


SIGNIFICANT = 0.05
"""How often noise may be taken for more, of all that is compared together."""
NOISE_WORDS = {True: "", False: " (inside the noise)", None: " (one seed: its noise is not known)"}
"""By what a test over seeds says of a difference."""


def is_beyond_noise(found: Estimate, num: int, among: int = 1) -> bool | None:
    """Whether the mean of `num` values is other than 0 by a t-test at 5 %, of one that was picked `among` so many
    comparisons (Bonferroni); None: of one value nobody knows."""
    if found.standard_error is None:
        return None
    return abs(found.value) > float(stats.t.ppf(1 - SIGNIFICANT / among / 2, num - 1)) * found.standard_error > 0


def figure_of(row: Row, name: str) -> float:
    """A figure of a row of the report.

    Raises:
        UserError: it has none, as where there are too few samples.
    """
    value: float | None = row.figures[name]
    if value is None:
        raise UserError(f"this question needs the figure {name}, which has no value here; raise evaluation.num_samples")
    return value


def estimate_of(values: Sequence[float]) -> Estimate:
    """The mean of `values`, and its standard error from their spread; None for one."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), error)


def spelled(estimate: Estimate, decimals: int = 2, sign: bool = False) -> str:
    """A figure with its standard error, in words."""
    value = f"{estimate.value:{'+' * sign},.{decimals}f}"
    return value if estimate.standard_error is None else f"{value} ± {estimate.standard_error:.{decimals}f}"


@dataclass(frozen=True)
class Column:
    """A figure of the answer's table: its title, with the unit, its decimals, and whether it is a setting, which seeds
    do not change."""

    title: str
    decimals: int = 2
    is_setting: bool = False


@dataclass
class Inquiry(ABC):
    """A question that runs answer. The fields of a class of its kind are keys of `question:`.

    Attributes:
        num_seeds: runs of each variant, of the seeds from `seed` on.

    Raises:
        UserError: no seed.
    """

    asks: ClassVar[str]
    """The question, in words."""
    columns: ClassVar[Mapping[str, Column]]
    """What `measure` returns, by name."""
    goal: ClassVar[str] = "evaluation"
    """The last stage that each run needs."""
    support: ClassVar[Support] = Support.REAL
    """Of the latents that the question is about."""
    needs_normal: ClassVar[bool] = False
    """Whether its formulas are of a VAE trained against N(0, I)."""
    needs_elbo: ClassVar[bool] = False
    """Whether its words are of a loss that is the ELBO."""

    num_seeds: int = field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise UserError(f"question.num_seeds={self.num_seeds}: give at least 1")

    @abstractmethod
    def variants(self) -> Sequence[Variant]:
        """The runs that are compared, each of which is made of every seed."""

    def check(self, config: Config) -> str | None:
        """Why the question cannot be asked of these settings, with the remedy; None: it can."""
        return None

    def check_run(self, job: Job, parts: ImageParts) -> None:
        """Refuse a run that the question cannot be asked of, before it is made; most can be of any. The VAE is in
        evaluation mode.

        Raises:
            UserError: why it cannot be, however that is trained, with the remedy.
        """
        return

    @abstractmethod
    def measure(self, run: Finished) -> tuple[Mapping[str, float], Any]:
        """Figures of one run, all of `columns`, and what a picture needs beside them."""

    def estimate(self, outcomes: Outcomes, variant: str, name: str) -> Estimate:
        """A figure of the table: the mean over seeds, and a standard error from their spread unless more is known."""
        found = outcomes.estimate(variant, name)
        return Estimate(found.value, None) if self.columns[name].is_setting else found

    @abstractmethod
    def conclude(self, outcomes: Outcomes) -> Sequence[str]:
        """Two sentences or so: what came out, whatever the common answer is."""

    @abstractmethod
    def draw(self, outcomes: Outcomes, path: Path) -> None:
        """The picture, a PNG file."""
