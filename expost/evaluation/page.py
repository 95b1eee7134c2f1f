"""`report.html`: one page that needs nothing beside it, for a phone, a screen and paper.

What is on it comes from the report alone. The rate of a split is shown as the sum that it is (see
`expost.evaluation.latents.surgery`): mutual information + KL(q(z) || p(z)), under each prior.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from expost.evaluation import views
from expost.evaluation.nouns import IMAGES, LATENTS, Nouns
from expost.evaluation.report import Report
from expost.evaluation.row_names import FLOORS, TRAINING_AGGREGATE
from expost.evaluation.sections import (
    AnnealedRow,
    Classes,
    Decomposition,
    Estimate,
    InferenceGaps,
    Surgery,
    TightBounds,
)
from expost.evaluation.tables import one_line

NONE = "-"
PICTURES = {
    "maps": "Real latents beside draws of the baseline and of the learned prior: the first channels as colours, each "
    "scaled by what most of the real ones lie within.",
    "marginals": "The dimensions that the priors fit worst: how often each value occurs in q(z) of held-out latents, "
    "and in draws of the priors; behind each name the Wasserstein distances of these to q(z), in units of its standard "
    "deviation, in the order of the legend.",
    "profiles": "The middle and the inner nine tenths of every number of a vector, by its place: of test vectors and "
    "of draws of p(x|z), z from each prior.",
    "columns": "The numbers that fit worst: how often each value occurs in test vectors, and in draws of p(x|z), z "
    "from each prior; behind each name the Wasserstein distances to the former, in units of its standard deviation.",
    "samples": "Decoded draws of the baseline beside decoded draws of the learned prior.",
    "classes": "Samples of each class that the learned prior was fitted to, one row a class, beside test images of it; "
    "the share is that of all its samples which the classifier takes for it.",
    "neighbours": "Samples, each with its nearest training image on its right (nearest in the features).",
    "latents": "Draws of q(z) of the training set on their first two principal axes, against both priors.",
    "reconstructions": "Test images and their reconstructions, the mean of p(x|z) at z ~ q(z|x).",
    "interpolations": "From one test image to another, through latent space.",
    "traversals": "What active dimensions are for, the twelve whose posterior means vary most: one test image decoded "
    "while that number of its latent alone goes from the 0.5 % to the 99.5 % quantile of q(z) in it.",
    "curves": "Training: what each epoch or iteration cost.",
    "codes": "How evenly codes are used.",
}
"""File stem -> caption, in the order of the page; `codes` exists of codes alone, `classes` of conditional priors,
`maps` and `marginals` of latents without images, `profiles` and `columns` of vectors, `traversals` of images whose
latents have active dimensions."""

MOST_SWATCHES = 20
"""Classes whose colours are listed; of more, eyes tell none apart."""
EXPLAINED = {
    IMAGES: "ELBO and IWAE are bounds on log p(x), shown negated: upper bounds on the cost of a test image.",
    LATENTS: "-log p(z) is the cost of a test latent in nats, in the units of the files: latents that are scaled by s "
    "cost log s nats a dimension more under every prior, and the same against each other.",
}
"""What the costs of the table are."""


@dataclass(frozen=True)
class Cells:
    """A table of the page: what it shows, the titles of its columns, and lines of a title and one text a column.

    A text "1.20 ± 0.05" is set with its spread in smaller type.
    """

    caption: str
    head: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str]]]


def render(template: str, **values: Any) -> str:
    """The text of a template beside this file: everything escaped, and what is missing is an error, not a gap.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def embed(picture: Path) -> str:
    """A PNG file as it stands within a page."""
    return base64.b64encode(picture.read_bytes()).decode("ascii")


def script_of_page(exploration: Mapping[str, Any] | None) -> tuple[Markup, str]:
    """All that a page runs, and its SHA-256 as a policy names it: a browser runs nothing else, and asks nobody."""
    names = ["tables.js.j2", *["points.js.j2"] * (exploration is not None)]
    names += ["traversals.js.j2"] * (exploration is not None and exploration["traversals"] is not None)
    script = "\n".join(render(name) for name in names)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return Markup(script), f"sha256-{digest}"  # our own text: no value is in it


def render_html(
    report: Report,
    pictures: Mapping[str, Path],
    config_yaml: str,
    dataset: Mapping[str, str] | None = None,
    exploration: Mapping[str, Any] | None = None,
) -> str:
    """One self-contained page: no file beside it, no network. Its script makes it something to explore; without one
    the tables and pictures are all there.

    Args:
        report: with its verdict.
        pictures: caption -> PNG file, in the order of the page.
        config_yaml: the resolved config.
        dataset: what was taken of the user's files: what is said -> how.
        exploration: `expost.evaluation.exploration.content.page_data`; None: the tables alone can be explored.
    """
    script, script_hash = script_of_page(exploration)
    surgery, nouns = report.surgery, report.nouns
    annealed = {} if report.annealing is None else report.annealing.rows
    return render(
        "report.html.j2",
        report=report,
        kinds=["learned" if n in report.learned else "floor" if n in FLOORS else "baseline" for n in report.rows],
        titles=[views.title(name) for name in report.rows],
        lines=views.lines(report),
        conditions=views.legend(report),
        notes=views.notes(report),
        explained=EXPLAINED[nouns],
        nouns=nouns,
        surgery=[table for table in (rates(surgery, nouns), samples(surgery, nouns)) if table.lines],
        ceilings=ceilings(surgery, nouns),
        dimensions=dimensions(surgery),
        counts=counts(surgery),
        bounds=tight_bounds(report.annealing),
        bounds_notes=[f"{title(name)}: {note}" for name, row in annealed.items() for note in row.notes],
        gaps=inference_gaps(report.gaps),
        classes=class_shares(report.classes, nouns),
        ladders=[Cells(caption, [*map(one_line, head)], rungs) for caption, head, rungs in views.ladders(report)],
        looks=[Cells(*look) for look in views.looks(report)],
        pictures=[(caption, embed(path)) for caption, path in pictures.items()],
        config_yaml=config_yaml,
        dataset=dataset or {},
        exploration=exploration,
        MOST_SWATCHES=MOST_SWATCHES,
        script=script,
        script_hash=script_hash,
        provenance={} if report.provenance is None else flatten(report.provenance.to_json()),
    )


def _splits(surgery: Surgery) -> Iterator[tuple[str, Decomposition]]:
    for split, rate in (("train", surgery.train), ("test", surgery.test)):
        if rate is not None:
            yield split, rate


def rates(surgery: Surgery, nouns: Nouns = IMAGES) -> Cells:
    """Of each split and prior: mutual information, marginal KL, and the rate that they add up to."""
    lines = [
        (
            f"{split} {nouns.many}, {title(name)}",
            [_nats(rate.mutual_information_nats), _nats(under.marginal_kl_nats), _nats(under.rate_nats)],
        )
        for split, rate in _splits(surgery)
        for name, under in rate.priors.items()
        if under is not None
    ]
    return Cells(f"Rate, nats {nouns.an}", ["mutual information", "+ KL(q(z) || p(z))", "= rate"], lines)


def ceilings(surgery: Surgery, nouns: Nouns) -> list[str]:
    """What bounds the mutual information of each split, in words."""
    return [
        f"The mutual information of {rate.num_components:,} {split} {nouns.many} is at most log N = "
        f"{rate.ceiling_nats:.2f} nats"
        + (": the estimate reaches this ceiling, so it is a lower bound." if rate.at_ceiling else ".")
        for split, rate in _splits(surgery)
    ]


def samples(surgery: Surgery, nouns: Nouns) -> Cells:
    """Prior samples against draws of q(z) of test images: figures that need no density."""
    distances = {} if surgery.dimensions is None else surgery.dimensions.wasserstein_1
    lines = []
    for name, two in surgery.two_sample.items():
        line = [NONE, NONE, NONE]
        if two is not None:
            line[0] = _spread(two.accuracy_percent, two.standard_error_percent, ".1f")
            line[1] = _spread(two.mmd_squared, two.mmd_standard_error, ".5f")
        if (distance := distances.get(name)) is not None:
            line[2] = f"{distance.mean:.3f} (noise alone: {distance.floor:.3f})"
        if line != [NONE] * 3:
            lines.append((title(name), line))
    head = ["told from q(z), % (50: not at all)", "squared MMD to q(z)", "mean Wasserstein distance of a dimension"]
    return Cells(f"Samples of each prior against q(z) of test {nouns.many}", head, lines)


def counts(surgery: Surgery) -> str:
    """Active and collapsed dimensions in one line; empty where they were not counted."""
    if surgery.dimensions is None:
        return ""
    num = surgery.dimensions.num_collapsed
    collapsed = "" if num is None else f", {num} collapsed to the prior"
    active = f"{surgery.dimensions.num_active} of {surgery.dimensions.num_dims} dimensions are active{collapsed}"
    if surgery.train is None:
        return active
    carried, most = surgery.train.mutual_information_nats.value, surgery.train.ceiling_nats
    return f"{active}; the whole code carries {carried:.2f} nats of at most log N = {most:.2f}"


def dimensions(surgery: Surgery) -> Cells:
    """A line a latent dimension; none where they were not listed."""
    caption, head = "Latent dimensions", ["state", "variance of posterior means"]
    listed = surgery.dimensions
    if listed is None or listed.mean_variance is None or listed.active is None:
        return Cells(caption, head, [])
    distances = {name: d.per_dim for name, d in listed.wasserstein_1.items() if d is not None and d.per_dim}
    collapsed = listed.collapsed or [False] * len(listed.mean_variance)
    lines = []
    for dim, variance in enumerate(listed.mean_variance):
        state = "collapsed" if collapsed[dim] else "active" if listed.active[dim] else "inactive"
        lines.append((str(dim), [state, f"{variance:.4f}", *(f"{per_dim[dim]:.3f}" for per_dim in distances.values())]))
    return Cells(caption, [*head, *(f"Wasserstein distance to {title(name)}" for name in distances)], lines)


def class_shares(classes: Classes | None, nouns: Nouns) -> Cells:
    """Of each class, what share of its samples, reconstructions and test images is taken for it; empty without any.
    Latents have no reconstructions."""
    if classes is None:
        return Cells("", [], [])
    kinds = {
        "samples": "samples",
        "reconstructions": f"reconstructions of test {nouns.many}",
        "test_images": f"test {nouns.many}",
    }
    if nouns is LATENTS:
        del kinds["reconstructions"]
    means = (getattr(classes, kind) for kind in kinds)
    overall = [NONE if mean is None else _spread(mean.value, mean.standard_error, ".1%") for mean in means]
    lines = [("mean of the classes", overall)]
    lines += [(one.name, [_spread(getattr(one, kind), None, ".1%") for kind in kinds]) for one in classes.by_class]
    caption = f"Taken for their own class by {classes.judge}; {classes.num_a_class:,} samples a class"
    return Cells(caption, list(kinds.values()), lines)


def tight_bounds(annealing: TightBounds | None) -> Cells:
    """Bounds on -log p(x) from annealed importance sampling; empty where it was not asked for."""
    columns: dict[str, Callable[[AnnealedRow], str]] = {
        "-AIS bound, nats": lambda row: _spread(row.ais_nats, row.ais_std_error_nats, ".2f"),
        "-IWAE bound on the same images, nats": lambda row: _spread(row.iwae_nats, None, ".2f"),
        "own error on simulated images (BDMC gap), nats": lambda row: _spread(
            row.bdmc_gap_nats, row.bdmc_gap_std_error_nats, ".3f"
        ),
        "moves accepted": lambda row: _spread(row.acceptance, None, ".1%"),
        "chains diverged": lambda row: _spread(row.diverged_share, None, ".1%"),
    }
    if annealing is None:
        return Cells("", list(columns), [])
    caption = (
        f"{annealing.num_images:,} test images, {annealing.num_chains} chains of {annealing.num_steps:,} "
        f"steps; IWAE of {annealing.importance_samples:,}; {annealing.bdmc_images:,} simulated images"
    )
    lines = [(title(name), [show(row) for show in columns.values()]) for name, row in annealing.rows.items()]
    return Cells(caption, list(columns), lines)


def inference_gaps(gaps: InferenceGaps | None) -> Cells:
    """What of -ELBO is not -log p(x), and what HMC makes of draws of q; empty where it was not asked for."""
    columns = {
        "-ELBO of the encoder's q, nats": "elbo_nats",
        "amortisation gap": "amortisation_gap_nats",
        "-ELBO of the best q found": "local_elbo_nats",
        "approximation gap": "approximation_gap_nats",
        "-log p(x) by annealing": "ais_nats",
        "-log p(x) from HMC's draws": "hmc_nats",
        "-log p(x, z), z of q": "joint_nats",
        "after HMC": "moved_joint_nats",
    }
    if gaps is None:
        return Cells("", list(columns), [])
    lines = [(title(name), [_nats(getattr(row, key)) for key in columns.values()]) for name, row in gaps.rows.items()]
    return Cells(f"{gaps.num_images:,} test images, {gaps.num_draws:,} draws of each q", list(columns), lines)


def flatten(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as words, those of a mapping one after another."""
    return {
        key: ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        for key, value in facts.items()
    }


def title(name: str) -> str:
    """What a row or prior is called on the page."""
    return "the training aggregate" if name == TRAINING_AGGREGATE else views.title(name)


def _nats(estimate: Estimate | None) -> str:
    return NONE if estimate is None else _spread(estimate.value, estimate.standard_error, ".2f")


def _spread(value: float | None, spread: float | None, layout: str) -> str:
    if value is None:
        return NONE
    return f"{value:{layout}}" if spread is None else f"{value:{layout}} ± {spread:{layout}}"
