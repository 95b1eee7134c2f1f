"""What an evaluation found out: the content of `figures.json` and, with where it comes from, of `report.json`.

Every presentation (terminal, page, card, comparison) is a pure function of a `Report`. A figure that does not exist is
None, never 0 and never NaN: JSON has no NaN, and a reader could not tell why it is there, so a figure that came out
infinite or not a number becomes None and a note in words.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from expost.evaluation.nouns import JUDGED, Nouns
from expost.evaluation.records import OMITTED, Record
from expost.evaluation.row_names import FLOORS
from expost.evaluation.sections import (
    Classes,
    Clusters,
    Dataset,
    Estimate,
    Fitting,
    InferenceGaps,
    Provenance,
    Surgery,
    TightBounds,
)


@dataclass(frozen=True)
class Figure:
    """How one figure is shown: its label, its format, and the better direction."""

    label: str
    format: str
    better: str = ""

    @property
    def title(self) -> str:
        """The label with an arrow in the better direction."""
        return f"{self.label} {self.better}".strip()


def _figure(label: str, layout: str, better: str = "") -> Any:
    return field(default=None, metadata={"figure": Figure(label, layout, better)})


@dataclass(frozen=True)
class Row(Record):
    """The figures of one set of images, or of the prior that made it; None where a figure does not apply.

    Attributes:
        distortion_nats to ais_nats: bounds on -log p(x) and what they are made of, means over test images.
        approximation_gap_nats, amortisation_gap_nats: what -ELBO has beyond -log p(x), by q's family and by encoder.
        bits_per_dim: of the tightest bound, where it is one on a density or mass of images.
        latent_nll_nats, marginal_kl_nats: what a held-out latent costs, and KL(q(z) || p(z)) of test images.
        two_sample_accuracy: of a classifier of prior samples against q(z), a share.
        latent_mmd: squared maximum mean discrepancy of the same.
        frechet_distance to coverage: distances of the samples against the reference split.
        memorisation: share of samples nearer to the training set than a test image is.
        class_accuracy: share of conditional samples that are taken for their class, mean over classes.
        cluster_accuracy, cluster_purity: of a mixture, share of test images in the component of their class, components
            matched to classes one to one, and many to one.
        cluster_nmi: normalised mutual information of component and class.
        gap_closed: share of the Frechet distance between baseline and reconstructions that a learned prior removes; of
            latents, between baseline and training latents.
        samples_per_second: drawn and decoded.
        fit_seconds: wall time of fitting the prior.
        spread: figure -> its standard deviation: over halves for samples, over images for bounds.
        notes: what the reader should know about this row, in words.
        memorises: the prior stands on every training latent, and is never called best.
        gain: figure -> what the learned prior costs more than the baseline, paired image by image.
        over: the same against each prior by counting.
    """

    distortion_nats: float | None = _figure("distortion, nats", ".2f", "↓")
    rate_nats: float | None = _figure("rate, nats", ".2f", "↓")
    elbo_nats: float | None = _figure("-ELBO, nats", ".2f", "↓")
    iwae_nats: float | None = _figure("-IWAE, nats", ".2f", "↓")
    ais_nats: float | None = _figure("-AIS, nats", ".2f", "↓")
    approximation_gap_nats: float | None = _figure("approximation gap, nats", ".2f")
    amortisation_gap_nats: float | None = _figure("amortisation gap, nats", ".2f")
    bits_per_dim: float | None = _figure("bits/dim", ".4f", "↓")
    latent_nll_nats: float | None = _figure("-log p(z), nats", ".2f", "↓")
    marginal_kl_nats: float | None = _figure("KL(q(z)|p), nats", ".2f", "↓")
    two_sample_accuracy: float | None = _figure("told from q(z)", ".1%", "↓")
    latent_mmd: float | None = _figure("MMD to q(z)", ".4f", "↓")
    frechet_distance: float | None = _figure("Frechet distance", ".3f", "↓")
    kernel_distance: float | None = _figure("kernel distance", ".4f", "↓")
    precision: float | None = _figure("precision", ".3f", "↑")
    recall: float | None = _figure("recall", ".3f", "↑")
    density: float | None = _figure("density", ".3f", "↑")
    coverage: float | None = _figure("coverage", ".3f", "↑")
    memorisation: float | None = _figure("memorisation", ".1%")
    class_accuracy: float | None = _figure("class accuracy", ".1%", "↑")
    cluster_accuracy: float | None = _figure("cluster accuracy", ".1%", "↑")
    cluster_purity: float | None = _figure("cluster purity", ".1%", "↑")
    cluster_nmi: float | None = _figure("cluster NMI", ".3f", "↑")
    gap_closed: float | None = _figure("gap closed", ".1%", "↑")
    num_samples: int | None = _figure("samples", ",d")
    samples_per_second: float | None = _figure("samples a second", ",.0f")
    fit_seconds: float | None = _figure("fit, seconds", ".1f")
    num_parameters: int | None = _figure("parameters", ",d")
    spread: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    memorises: bool = field(default=False, metadata=OMITTED)
    gain: Mapping[str, Estimate] | None = field(default=None, metadata=OMITTED)
    over: Mapping[str, Mapping[str, Estimate]] | None = field(default=None, metadata=OMITTED)

    @property
    def figures(self) -> dict[str, float | None]:
        """Every figure by its name, in the order of the table."""
        return {key: getattr(self, key) for key in FIGURES}

    def with_figure(self, key: str, value: float | None, spread: float | None = None) -> "Row":
        """The row with another figure, and the spread of it, where there is one."""
        changes: dict[str, Any] = {key: value}
        if spread is not None:
            changes["spread"] = {**self.spread, key: spread}
        return replace(self, **changes)

    def with_estimate(self, key: str, estimate: Estimate | None) -> "Row":
        """The same with an estimate; as it is where there is none."""
        return self if estimate is None else self.with_figure(key, estimate.value, estimate.standard_error)

    def finite(self) -> "Row":
        """The row with None for every infinite number or NaN, and a note that says so."""
        row = replace(self, spread={key: value for key, value in self.spread.items() if math.isfinite(value)})
        for key, value in self.figures.items():
            if value is not None and not math.isfinite(value):
                note = f"{key} is missing: it came out as {value}"
                row = replace(row.with_figure(key, None), notes=(*row.notes, note))
        return row


FIGURES: dict[str, Figure] = {f.name: f.metadata["figure"] for f in fields(Row) if "figure" in f.metadata}
"""Every figure of a row, in the order of the table."""


@dataclass(frozen=True)
class Report(Record):
    """Attributes:
    data: name of the data set.
    features: what the distances are measured on, in words.
    baseline: name of the row of the prior that nobody learns.
    rows: row name -> figures; learned priors under their config name, and the `FLOORS`.
    reference: the reference split of the distances, in words.
    num_samples, num_bound_images, importance_samples, neighbours: what the figures were measured with.
    annealing_settings: of `evaluation.annealing`; None: off.
    num_repeats: row, or "reference" -> images that repeat an earlier one.
    notes: in words.
    true_nll_nats: entropy of the data where their density is known.
    counted: rows of priors by counting, which discrete latents are measured with besides.
    classes: of a conditional prior.
    clusters: of a mixture, on labelled images.
    fitting: learned prior -> how it was fitted.
    if_empty: what to change where the code carries next to nothing, in words that follow a colon.
    annealing: None: off.
    gaps: None: not asked for.
    carries_unchanged: z is x, nothing decodes.
    seconds: part of the evaluation -> wall time.
    verdict, verdict_lines: of `expost.evaluation.verdict`, as one paragraph and a sentence a line.
    dataset, provenance: in `report.json` alone.
    judged: "images", or "latents" where there is neither a decoder nor an image.
    missing: what the user's files do not hold, and what that costs, in words.
    """

    data: str
    features: str
    baseline: str = "standard_normal"
    rows: Mapping[str, Row] = field(default_factory=dict)
    reference: str | None = None
    num_samples: int | None = None
    num_bound_images: int | None = None
    importance_samples: int | None = None
    neighbours: int | None = None
    annealing_settings: Mapping[str, int] | None = None
    num_repeats: Mapping[str, int] = field(default_factory=dict)
    num_training_images: int | None = None
    notes: tuple[str, ...] = ()
    true_nll_nats: float | None = None
    counted: tuple[str, ...] = ()
    surgery: Surgery = field(default_factory=Surgery)
    classes: Classes | None = None
    clusters: Clusters | None = field(default=None, metadata=OMITTED)
    fitting: Mapping[str, Fitting] = field(default_factory=dict)
    annealing: TightBounds | None = None
    carries_unchanged: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
    verdict_lines: tuple[str, ...] = ()
    dataset: Dataset | None = field(default=None, metadata=OMITTED)
    provenance: Provenance | None = field(default=None, metadata=OMITTED)
    judged: str = field(default="images", metadata=OMITTED)
    missing: tuple[str, ...] = field(default=(), metadata=OMITTED)
    gaps: InferenceGaps | None = field(default=None, metadata=OMITTED)
    if_empty: str = field(default="", metadata=OMITTED)

    @property
    def nouns(self) -> Nouns:
        """The words for what was judged; of another version's, those of images."""
        return JUDGED.get(self.judged, JUDGED["images"])

    def named_figures(self) -> dict[str, float | None]:
        """`ROW/FIGURE` -> figure, of every row."""
        return {f"{name}/{key}": value for name, row in self.rows.items() for key, value in row.figures.items()}

    def text(self) -> str:
        """The content of the file; strict JSON."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict, a sentence a line; older reports hold it as one paragraph alone."""
        return self.verdict_lines or (self.verdict,)

    @property
    def learned(self) -> list[str]:
        """Rows of the priors that the run is about: neither the baseline nor counted besides nor one of `FLOORS`."""
        others = {self.baseline, *FLOORS, *self.counted}
        return [name for name in self.rows if name not in others]

    def row(self, name: str) -> Row:
        """The row `name`; without any figure where there is none."""
        return self.rows.get(name) or Row()

    def gap_closed(self, name: str, baseline: str | None = None) -> float | None:
        """`closed_share` of the gap by the prior `name`; None where a distance is missing."""
        rows = (self.row(baseline or self.baseline), self.row(name), self.row(self.nouns.ceiling))
        before, after, best = (row.frechet_distance for row in rows)
        return None if before is None or after is None or best is None else closed_share(before, after, best)


def closed_share(baseline: float, prior: float, best: float) -> float | None:
    """Share of the Frechet distance between baseline and the `best` that is possible which a learned prior removes.

    1: samples are as good as reconstructions, the best that this decoder can do, or as training latents; 0: no better
    than the baseline; None where the baseline is already no worse than the best.
    """
    gap = baseline - best
    return (baseline - prior) / gap if gap > 0 else None
