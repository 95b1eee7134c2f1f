"""`report.html`: one page that needs nothing beside it, for a phone, a screen and paper.

What is on it comes from the report alone. The rate of a split is shown as the sum that it is (see
`expost.evaluation.latents.surgery`): mutual information + KL(q(z) || p(z)), under each prior.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expost.evaluation.report import FLOORS, TITLES, cells, learned_priors, legend, notes, winners
from expost.evaluation.templates import render

NONE = "-"
PRIORS = {"training_aggregate": "the training aggregate"}


@dataclass(frozen=True)
class Cells:
    """A table of the page: what it shows, the titles of its columns, and lines of a title and one text a column.

    A text "1.20 ± 0.05" is set with its spread in smaller type.
    """

    caption: str
    head: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str]]]


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """The verdict, a sentence a line."""
    return list(report.get("verdict_lines") or [report["verdict"]])


def render_html(
    report: Mapping[str, Any], pictures: Mapping[str, Path], config_yaml: str, dataset: Mapping[str, str] | None = None
) -> str:
    """One self-contained page: no file beside it, no network, no script.

    Args:
        report: of `build_report`.
        pictures: caption -> PNG file, in the order of the page.
        config_yaml: the resolved config.
        dataset: what was taken of the user's files: what is said -> how.
    """
    titles, lines = cells(report)
    names = list(report["rows"])
    embedded = [(caption, base64.b64encode(path.read_bytes()).decode("ascii")) for caption, path in pictures.items()]
    surgery = report.get("surgery") or {}
    return render(
        "report.html.j2",
        report=report,
        verdict=verdict_lines(report),
        learned=learned_priors(report),
        kinds=["learned" if n in learned_priors(report) else "floor" if n in FLOORS else "baseline" for n in names],
        figures=Cells("Figures", [_one_line(title) for title in titles], lines),
        best={label: names.index(name) for label, name in winners(report).items()},
        conditions=legend(report),
        notes=notes(report),
        surgery=[table for table in (rates(surgery), samples(surgery)) if table.lines],
        ceilings=ceilings(surgery),
        dimensions=dimensions(surgery),
        counts=counts(surgery),
        bounds=tight_bounds(report.get("annealing") or {}),
        bounds_notes=_bounds_notes(report.get("annealing") or {}),
        classes=of_classes(report.get("classes") or {}),
        pictures=embedded,
        config_yaml=config_yaml,
        dataset=dataset or {},
        provenance=flat(report.get("provenance") or {}),
    )


def rates(surgery: Mapping[str, Any]) -> Cells:
    """Of each split and prior: mutual information, marginal KL, and the rate that they add up to."""
    lines = [
        (
            f"{split} images, {title(name)}",
            [
                _estimate(found["mutual_information_nats"]),
                *(_estimate(under[key]) for key in ("marginal_kl_nats", "rate_nats")),
            ],
        )
        for split in ("train", "test")
        if (found := surgery.get(split))
        for name, under in found["priors"].items()
        if under is not None
    ]
    return Cells("Rate, nats an image", ["mutual information", "+ KL(q(z) || p(z))", "= rate"], lines)


def ceilings(surgery: Mapping[str, Any]) -> list[str]:
    """What bounds the mutual information of each split, in words."""
    return [
        f"The mutual information of {found['num_components']:,} {split} images is at most log N = "
        f"{found['ceiling_nats']:.2f} nats"
        + (": the estimate reaches this ceiling, so it is a lower bound." if found["at_ceiling"] else ".")
        for split in ("train", "test")
        if (found := surgery.get(split))
    ]


def samples(surgery: Mapping[str, Any]) -> Cells:
    """Prior samples against draws of q(z) of test images: figures that need no density."""
    distances = (surgery.get("dimensions") or {}).get("wasserstein_1") or {}
    lines = []
    for name, told in (surgery.get("two_sample") or {}).items():
        apart, line = distances.get(name), [NONE, NONE, NONE]
        if told is not None:
            line[0] = _spread(told["accuracy_percent"], told["standard_error_percent"], ".1f")
            line[1] = _spread(told["mmd_squared"], told["mmd_standard_error"], ".5f")
        if apart is not None:
            line[2] = f"{apart['mean']:.3f} (noise alone: {apart['floor']:.3f})"
        if line != [NONE] * 3:
            lines.append((title(name), line))
    head = ["told from q(z), % (50: not at all)", "squared MMD to q(z)", "mean Wasserstein distance of a dimension"]
    return Cells("Samples of each prior against q(z) of test images", head, lines)


def counts(surgery: Mapping[str, Any]) -> str:
    """Active and collapsed dimensions in one line; empty where they were not counted."""
    found = surgery.get("dimensions")
    if not found:
        return ""
    collapsed = "" if found["num_collapsed"] is None else f", {found['num_collapsed']} collapsed to the prior"
    return f"{found['num_active']} of {found['num_dims']} dimensions are active{collapsed}"


def dimensions(surgery: Mapping[str, Any]) -> Cells:
    """A line a latent dimension; none where they were not listed."""
    found = surgery.get("dimensions") or {}
    variances = found.get("mean_variance") or []
    distances = {k: d["per_dim"] for k, d in (found.get("wasserstein_1") or {}).items() if d and d["per_dim"]}
    collapsed = found.get("collapsed") or [False] * len(variances)
    lines = [
        (
            str(dim),
            [
                "collapsed" if collapsed[dim] else "active" if found["active"][dim] else "inactive",
                f"{variance:.4f}",
                *(f"{per_dim[dim]:.3f}" for per_dim in distances.values()),
            ],
        )
        for dim, variance in enumerate(variances)
    ]
    head = ["state", "variance of posterior means", *(f"Wasserstein distance to {title(name)}" for name in distances)]
    return Cells("Latent dimensions", head, lines)


def of_classes(classes: Mapping[str, Any]) -> Cells:
    """Of each class, what share of its samples, reconstructions and test images is taken for it; empty without any."""
    columns = {"samples": "samples", "reconstructions": "reconstructions of test images", "test_images": "test images"}
    if not classes:
        return Cells("", [], [])
    overall = [
        NONE if (found := classes[key]) is None else _spread(found["value"], found["standard_error"], ".1%")
        for key in columns
    ]
    lines = [("mean of the classes", overall)]
    for found in classes["by_class"]:
        lines.append((found["name"], [_spread(found[key], None, ".1%") for key in columns]))
    caption = f"Taken for their own class by {classes['judge']}; {classes['num_a_class']:,} samples a class"
    return Cells(caption, list(columns.values()), lines)


def tight_bounds(annealing: Mapping[str, Any]) -> Cells:
    """Bounds on -log p(x) from annealed importance sampling; empty where it was not asked for."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "-AIS bound, nats": lambda row: _spread(row["ais_nats"], row["ais_std_error_nats"], ".2f"),
        "-IWAE bound on the same images, nats": lambda row: _spread(row["iwae_nats"], None, ".2f"),
        "own error on simulated images (BDMC gap), nats": lambda row: _spread(
            row["bdmc_gap_nats"], row["bdmc_gap_std_error_nats"], ".3f"
        ),
        "moves accepted": lambda row: _spread(row["acceptance"], None, ".1%"),
        "chains diverged": lambda row: _spread(row["diverged_share"], None, ".1%"),
    }
    rows = annealing.get("rows") or {}
    lines = [(title(name), [show(row) for show in columns.values()]) for name, row in rows.items()]
    caption = ""
    if rows:
        caption = (
            f"{annealing['num_images']:,} test images, {annealing['num_chains']} chains of {annealing['num_steps']:,} "
            f"steps; IWAE of {annealing['importance_samples']:,}; {annealing['bdmc_images']:,} simulated images"
        )
    return Cells(caption, list(columns), lines)


def _bounds_notes(annealing: Mapping[str, Any]) -> list[str]:
    rows = annealing.get("rows") or {}
    return [f"{title(name)}: {note}" for name, row in rows.items() for note in row["notes"]]


def flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as words, those of a mapping one after another."""
    return {
        key: ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        for key, value in facts.items()
    }


def title(name: str) -> str:
    """What a row or prior is called on the page."""
    return PRIORS.get(name) or _one_line(TITLES.get(name, name))


def _one_line(text: str) -> str:
    return text.replace("-\n", "").replace("\n", " ")


def _estimate(found: Mapping[str, float | None] | None) -> str:
    return NONE if found is None else _spread(found["value"], found["standard_error"], ".2f")


def _spread(value: float | None, spread: float | None, layout: str) -> str:
    if value is None:
        return NONE
    return f"{value:{layout}}" if spread is None else f"{value:{layout}} ± {spread:{layout}}"
