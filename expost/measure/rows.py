"""The rows of the report, put together from everything that was measured."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from expost.evaluation import bounds, distances, report
from expost.evaluation.images import halves, memorisation
from expost.evaluation.row_names import TRAINING_AGGREGATE
from expost.measure.image_sets import Seen, repeated
from expost.measure.subject import Trained

OF_AGGREGATE = {
    "latent_nll_nats": "cross_entropy_nats",
    "rate_nats": "rate_nats",
    "marginal_kl_nats": "marginal_kl_nats",
}
"""Figure of the row -> what the surgery calls it."""


def assembled_rows(
    name: str,
    trained: Trained,
    seen: Mapping[str, Seen],
    measured: Mapping[str, distances.Distances],
    memorised: Mapping[str, memorisation.Memorisation],
    bounded: Mapping[str, bounds.Bounds],
    fit: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The rows of the report, priors first; the learned prior's under its config name."""
    kind = trained.parts.kind
    priors = {trained.baseline_name: ("baseline", 0.0, 0)}
    for floor, counted in trained.floors.items():
        priors[floor] = (floor, counted.seconds, counted.prior.num_parameters)
    if name != trained.baseline_name:
        priors[name] = ("learned", fit["seconds"], fit["num_parameters"])
    table = {}
    for row, (key, seconds, num_parameters) in priors.items():
        means = bounded[key].means()
        copied, noise = of_samples(key, measured, memorised)
        if not kind.is_density:
            means["iwae_nats"] = None
        table[row] = report.build_row(
            means,
            measured.get(key),
            bits_of(means["iwae_nats"], trained),
            seconds,
            num_parameters,
            [kind.note] if kind.note else [],
            spread=noise | _standard_errors(bounded[key], trained),
            memorisation=copied,
            samples_per_second=_rate_of(seen[key]),
        )
        table[row]["notes"] += of_repeats(measured.get(key))
    if name != trained.baseline_name:
        table[name]["gain"] = gains(bounded["learned"], bounded["baseline"], trained)
        if trained.floors:
            table[name]["over"] = {row: gains(bounded["learned"], bounded[row], trained) for row in trained.floors}
    for row in report.FLOORS:
        copied, noise = of_samples(row, measured, memorised)
        speed = _rate_of(seen[row])
        table[row] = report.build_row(
            distances=measured.get(row), spread=noise, memorisation=copied, samples_per_second=speed
        )
        table[row]["notes"] += of_repeats(measured.get(row))
    table[report.RECONSTRUCTIONS]["distortion_nats"] = bounded["baseline"].means()["distortion_nats"]
    return table


def of_repeats(found: distances.Distances | None) -> list[str]:
    """A note where samples repeat each other."""
    if found is None or not found.num_repeats:
        return []
    return [repeated(found.num_repeats, found.num_samples, "images")]


def repeats_of(measured: Mapping[str, distances.Distances], trained: Trained, name: str) -> dict[str, int]:
    """Row, or "reference" -> images that repeat an earlier one of their set; the learned prior's under its name."""
    titles = {"learned": name, "baseline": trained.baseline_name}
    found = {}
    for key, each in measured.items():
        found["reference"] = each.num_reference_repeats
        found.setdefault(titles.get(key, key), each.num_repeats)  # of a baseline that was chosen, the baseline's row
    return found


def of_samples(
    key: str, measured: Mapping[str, distances.Distances], memorised: Mapping[str, memorisation.Memorisation]
) -> tuple[float | None, dict[str, float]]:
    """The memorisation of one set of samples, and the spreads of its figures."""
    noise = dict(measured[key].spread) if key in measured else {}
    gap = gap_spread(key, measured)
    if gap is not None:
        noise["gap_closed"] = gap
    copied = memorised.get(key)
    if copied is not None and copied.spread is not None:
        noise["memorisation"] = copied.spread
    return None if copied is None else copied.share, noise


def gap_spread(key: str, measured: Mapping[str, distances.Distances]) -> float | None:
    """Spread of the share of the gap that the learned prior closes, from the Frechet distances on the same halves."""
    rows = ("baseline", key, report.RECONSTRUCTIONS)
    if key != "learned" or not measured.keys() >= set(rows):
        return None
    if distances.gap_closed(*(measured[row].frechet_distance for row in rows)) is None:
        return None
    base, mine, best = (measured[row].halves["frechet_distance"] for row in rows)  # [H] each
    return halves.spread((base - mine) / (base - best))


def gains(learned: bounds.Bounds, baseline: bounds.Bounds, trained: Trained) -> dict[str, dict[str, float]]:
    """What the learned prior costs an image more than another one, negative where less: mean and standard error.

    The images and the draws are the same, so the error is that of the differences and not of the images.
    """
    found = {}
    for key in learned.means():
        mine, before = getattr(learned, key), getattr(baseline, key)
        if mine is not None and before is not None and len(mine) > 1:
            difference = mine - before
            found[key] = {"value": difference.mean().item(), "standard_error": _standard_error(difference)}
    if trained.parts.kind.is_density and "iwae_nats" in found:
        bits = math.prod(trained.parts.data.shape) * math.log(2)
        found["bits_per_dim"] = {what: value / bits for what, value in found["iwae_nats"].items()}
    return found


def _standard_errors(bound: bounds.Bounds, trained: Trained) -> dict[str, float]:
    """Of the means over images."""
    values = {key: getattr(bound, key) for key in bound.means()}
    errors = {key: _standard_error(value) for key, value in values.items() if value is not None and len(value) > 1}
    if trained.parts.kind.is_density and "iwae_nats" in errors:
        errors["bits_per_dim"] = errors["iwae_nats"] / (math.prod(trained.parts.data.shape) * math.log(2))
    return errors


def _standard_error(per_image: Tensor) -> float:
    return (per_image.double().std() / math.sqrt(len(per_image))).item()


def _rate_of(seen: Seen) -> float | None:
    return len(seen.features) / seen.seconds if seen.seconds > 0 else None


def add_surgery(rows: dict[str, dict[str, Any]], surgery: Mapping[str, Any]) -> None:
    """Copy what the surgery says of held-out latents into the rows of the priors, with its standard errors.

    The row of draws from the training aggregate gets its exact costs; a mixture of as many components as images, it is
    a prior like any other, and over-fits.
    """
    under = (surgery.get("test") or {}).get("priors") or {}
    told = surgery.get("two_sample") or {}
    for name in rows.keys() - report.FLOORS:
        put(rows[name], "marginal_kl_nats", (under.get(name) or {}).get("marginal_kl_nats"))
        two = told.get(name) or {}
        if two:
            accuracy, error = two["accuracy_percent"] / 100, two["standard_error_percent"] / 100
            put(rows[name], "two_sample_accuracy", {"value": accuracy, "standard_error": error})
            put(rows[name], "latent_mmd", {"value": two["mmd_squared"], "standard_error": two["mmd_standard_error"]})
    of_aggregate = under.get(TRAINING_AGGREGATE) or {}
    for key, source in OF_AGGREGATE.items():
        put(rows[report.AGGREGATE], key, of_aggregate.get(source))


def put(row: dict[str, Any], key: str, estimate: Mapping[str, float | None] | None) -> None:
    """A value into the row, and its standard error beside it; nothing where there is none."""
    if estimate is None:
        return
    row[key] = estimate["value"]
    if estimate["standard_error"] is not None:
        row["spread"][key] = estimate["standard_error"]


def add_tight_bounds(rows: dict[str, dict[str, Any]], tight: Mapping[str, Any]) -> None:
    """Copy the annealed bounds into the rows, with their standard errors and notes."""
    for row, figures in tight.get("rows", {}).items():
        rows[row]["ais_nats"] = figures["ais_nats"] if tight["is_density"] else None
        if rows[row]["ais_nats"] is not None and figures.get("ais_std_error_nats") is not None:
            rows[row]["spread"]["ais_nats"] = figures["ais_std_error_nats"]
        told = [annealing_note(tight, figures)] if rows[row]["ais_nats"] is not None else []
        rows[row]["notes"] += [note for note in [*told, *figures["notes"]] if note not in rows[row]["notes"]]


def annealing_note(tight: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """What -AIS is of, and what to compare it with: it is measured on fewer images than the other bounds."""
    note = f"-AIS is of {tight['num_images']:,} test images"
    if figures["iwae_nats"] is not None:
        note += f", on which -IWAE with {tight['importance_samples']:,} samples is {figures['iwae_nats']:.2f} nats"
    if figures["acceptance"] is not None:
        note += f"; acceptance {figures['acceptance']:.2f}"
    if figures["bdmc_gap_nats"] is not None:
        error = figures["bdmc_gap_std_error_nats"]
        told = "" if error is None else f" ± {error:.2f}"
        note += f"; upper and lower bound of {tight['bdmc_images']:,} simulated images are "
        note += f"{figures['bdmc_gap_nats']:.2f}{told} nats apart"
    return note


def bits_of(nll_nats: float | None, trained: Trained) -> float | None:
    """Bits per dimension of a bound on a density or mass of images; None where there is none."""
    kind = trained.parts.kind
    if nll_nats is None or not kind.is_density:
        return None
    return bounds.bits_per_dim(nll_nats, math.prod(trained.parts.data.shape), kind.dequantized_levels or 1)
