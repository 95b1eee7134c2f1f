"""The rows of the report, put together from everything that was measured."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expost.evaluation.bounds import Bounds, bits_per_dim
from expost.evaluation.distances import FIGURES, Distances
from expost.evaluation.images import halves
from expost.evaluation.latents.surgery import mean_of
from expost.evaluation.nouns import Nouns
from expost.evaluation.report import Row, closed_share
from expost.evaluation.row_names import AGGREGATE, FLOORS, RECONSTRUCTIONS, TRAINING_AGGREGATE
from expost.evaluation.sections import AnnealedRow, Estimate, Surgery, TightBounds
from expost.measure.image_sets import Copies, FeaturedSet, describe_repeats
from expost.measure.subject import Subject
from stage2_prior.fitting import FitReport
from stage2_prior.prior import Prior


def build_rows(
    name: str,
    subject: Subject,
    sets: Mapping[str, FeaturedSet],
    measured: Mapping[str, Distances],
    copies: Copies,
    bounded: Mapping[str, Bounds],
    fit: FitReport,
) -> dict[str, Row]:
    """The rows of the report, priors first; the learned prior's under its config name."""
    kind, nouns = subject.kind, subject.nouns
    priors: dict[str, tuple[str, float | None, int]] = {subject.baseline_name: ("baseline", 0.0, 0)}
    for floor, counted in subject.floors.items():
        priors[floor] = (floor, counted.seconds, counted.prior.num_parameters)
    if name != subject.baseline_name:
        priors[name] = ("learned", None if math.isnan(fit.seconds) else fit.seconds, subject.prior.num_parameters)
    rows = {}
    for row, (key, seconds, num_parameters) in priors.items():
        means, images = bounded[key].means(), sampled_row(key, sets, measured, copies, nouns)
        iwae = means["iwae_nats"] if kind is not None and kind.is_density else None
        figures: dict[str, Any] = {**means, "iwae_nats": iwae, "bits_per_dim": bits_of(iwae, subject)}
        rows[row] = replace(
            images,
            **figures,
            fit_seconds=seconds,
            num_parameters=num_parameters,
            spread={**images.spread, **_standard_errors(bounded[key], subject)},
            notes=((kind.note,) if kind is not None and kind.note else ()) + images.notes + few_draws(bounded, key),
        )
    if name != subject.baseline_name:
        gain = gains(bounded["learned"], bounded["baseline"], subject)
        over = {row: gains(bounded["learned"], bounded[row], subject) for row in subject.floors}
        rows[name] = replace(rows[name], gain=gain, over=over or None)
    for row in FLOORS:
        if row in sets:
            rows[row] = sampled_row(row, sets, measured, copies, nouns)
    if RECONSTRUCTIONS in rows:
        distortion = bounded["baseline"].means()["distortion_nats"]
        rows[RECONSTRUCTIONS] = replace(rows[RECONSTRUCTIONS], distortion_nats=distortion)
    return rows


def few_draws(bounded: Mapping[str, Bounds], key: str) -> tuple[str, ...]:
    """What to say of a row whose density was taken of fewer draws than that of the baseline."""
    num, most = bounded[key].num_samples, bounded["baseline"].num_samples
    if num == most:
        return ()
    return (f"log p(z) is of {num} of {most} draws an image, for it is dear; so there is no -IWAE to compare",)


def sampled_row(
    key: str, sets: Mapping[str, FeaturedSet], measured: Mapping[str, Distances], copies: Copies, nouns: Nouns
) -> Row:
    """What is known of one set of images or latents, whatever made them."""
    distances, memorised, speed = measured.get(key), copies.shares.get(key), None
    if sets[key].seconds > 0:
        speed = len(sets[key].features) / sets[key].seconds
    spread = {} if distances is None else dict(distances.spread)
    if (gap := gap_spread(key, measured, nouns.ceiling)) is not None:
        spread["gap_closed"] = gap
    if memorised is not None and memorised.spread is not None:
        spread["memorisation"] = memorised.spread
    share, notes = None if memorised is None else memorised.share, copies.notes.get(key, ())
    row = Row(memorisation=share, samples_per_second=speed, spread=spread, notes=notes)
    if distances is None:
        return row
    repeats, figures = distances.num_repeats, {key: getattr(distances, key) for key in FIGURES}
    if repeats:
        notes = (describe_repeats(repeats, distances.num_samples, nouns.many, nouns), *notes)
    return replace(row, num_samples=distances.num_samples, notes=notes, **figures)


def repeats_of(measured: Mapping[str, Distances], subject: Subject, name: str) -> dict[str, int]:
    """Row, or "reference" -> images that repeat an earlier one of their set; the learned prior's under its name."""
    titles = {"learned": name, "baseline": subject.baseline_name}
    repeats = {}
    for key, distances in measured.items():
        repeats["reference"] = distances.num_reference_repeats
        repeats.setdefault(titles.get(key, key), distances.num_repeats)  # of a chosen baseline, the baseline's row
    return repeats


def gap_spread(key: str, measured: Mapping[str, Distances], ceiling: str) -> float | None:
    """Spread of the share of the gap that the learned prior closes, from the Frechet distances on the same halves."""
    rows = ("baseline", key, ceiling)
    if key != "learned" or not measured.keys() >= set(rows):
        return None
    if closed_share(*(measured[row].frechet_distance for row in rows)) is None:
        return None
    base, learned, best = (measured[row].halves["frechet_distance"] for row in rows)  # [H] each
    return halves.spread((base - learned) / (base - best))


def gains(learned: Bounds, baseline: Bounds, subject: Subject) -> dict[str, Estimate]:
    """What the learned prior costs an image more than another one, negative where less: mean and standard error.

    The images and the draws are the same, so the error is that of the differences and not of the images.
    """
    gain = {}
    for key in learned.means():
        costs, before = getattr(learned, key), getattr(baseline, key)
        if costs is not None and before is not None and len(costs) > 1:
            gain[key] = mean_of(costs - before)
    if subject.kind is not None and subject.kind.is_density and "iwae_nats" in gain:
        bits = num_pixels(subject) * math.log(2)
        nats = gain["iwae_nats"]
        gain["bits_per_dim"] = Estimate(nats.value / bits, (nats.standard_error or 0.0) / bits)
    return gain


def num_pixels(subject: Subject) -> int:
    """Pixels and channels of an image."""
    return subject.parts.of_images.num_pixels


def _standard_errors(bound: Bounds, subject: Subject) -> dict[str, float]:
    """Of the means over images."""
    means = {key: mean_of(values) for key in bound.means() if (values := getattr(bound, key)) is not None}
    errors = {key: mean.standard_error for key, mean in means.items() if mean.standard_error is not None}
    if subject.kind is not None and subject.kind.is_density and "iwae_nats" in errors:
        errors["bits_per_dim"] = errors["iwae_nats"] / (num_pixels(subject) * math.log(2))
    return errors


MEMORISES = "it stands on every training latent and draws them again, at most blurred: no prior to choose"
SHARED_ERRORS = ("latent_nll_nats", "rate_nats", "elbo_nats", "iwae_nats", "marginal_kl_nats")
"""Figures that move by a nat where log p(z) does."""


def add_caveats(rows: dict[str, Row], name: str, prior: Prior) -> None:
    """Say of the learned prior's row what its densities are, and widen the errors of its nats by the one that all of
    them share, in quadrature."""
    if name not in rows:
        return
    row, shared = rows[name], prior.log_prob_error_nats
    notes = (*prior.caveats, *([MEMORISES] if prior.memorises else []), *row.notes)
    row = replace(row, notes=notes, memorises=prior.memorises)
    if shared > 0:
        widened = {key: math.hypot(row.spread[key], shared) for key in SHARED_ERRORS if key in row.spread}
        row = replace(row, spread={**row.spread, **widened}, gain=_widen(row.gain, shared))
        row = replace(row, over=row.over and {floor: _widen(gain, shared) or {} for floor, gain in row.over.items()})
    rows[name] = row


def _widen(gain: Mapping[str, Estimate] | None, shared: float) -> Mapping[str, Estimate] | None:
    return gain and {
        key: replace(paired, standard_error=math.hypot(paired.standard_error or 0.0, shared))
        if key in SHARED_ERRORS
        else paired
        for key, paired in gain.items()
    }


def add_surgery(rows: dict[str, Row], surgery: Surgery) -> None:
    """Copy what the surgery says of held-out latents into the rows of the priors, with its standard errors.

    The row of draws from the training aggregate gets its exact costs; a mixture of as many components as images, it is
    a prior like any other, and over-fits.
    """
    priors = {} if surgery.test is None else surgery.test.priors
    for name in rows.keys() - FLOORS:
        if (under := priors.get(name)) is not None:
            rows[name] = rows[name].with_estimate("marginal_kl_nats", under.marginal_kl_nats)
        if (two := surgery.two_sample.get(name)) is not None:
            accuracy = Estimate(two.accuracy_percent / 100, two.standard_error_percent / 100)
            rows[name] = rows[name].with_estimate("two_sample_accuracy", accuracy)
            discrepancy = Estimate(two.mmd_squared, two.mmd_standard_error)
            rows[name] = rows[name].with_estimate("latent_mmd", discrepancy)
    if (under := priors.get(TRAINING_AGGREGATE)) is not None:
        row = rows[AGGREGATE].with_estimate("latent_nll_nats", under.cross_entropy_nats)
        row = row.with_estimate("rate_nats", under.rate_nats)
        rows[AGGREGATE] = row.with_estimate("marginal_kl_nats", under.marginal_kl_nats)


def add_tight_bounds(rows: dict[str, Row], tight: TightBounds | None) -> None:
    """Copy the annealed bounds into the rows, with their standard errors and notes."""
    for name, figures in ({} if tight is None else tight.rows).items():
        row, notes = rows[name], figures.notes
        if tight is not None and tight.is_density and figures.ais_nats is not None:
            row = row.with_estimate("ais_nats", Estimate(figures.ais_nats, figures.ais_std_error_nats))
            notes = (annealing_note(tight, figures), *notes)
        rows[name] = replace(row, notes=(*row.notes, *(note for note in notes if note not in row.notes)))


def annealing_note(tight: TightBounds, figures: AnnealedRow) -> str:
    """What -AIS is of, and what to compare it with: it is measured on fewer images than the other bounds."""
    note = f"-AIS is of {tight.num_images:,} test images"
    if figures.iwae_nats is not None:
        note += f", on which -IWAE with {tight.importance_samples:,} samples is {figures.iwae_nats:.2f} nats"
    if figures.acceptance is not None:
        note += f"; acceptance {figures.acceptance:.2f}"
    if figures.bdmc_gap_nats is not None:
        error = figures.bdmc_gap_std_error_nats
        noise = "" if error is None else f" ± {error:.2f}"
        note += f"; upper and lower bound of {tight.bdmc_images:,} simulated images are "
        note += f"{figures.bdmc_gap_nats:.2f}{noise} nats apart"
    return note


def bits_of(nll_nats: float | None, subject: Subject) -> float | None:
    """Bits per dimension of a bound on a density or mass of images; None where there is none."""
    if nll_nats is None or subject.kind is None or not subject.kind.is_density:
        return None
    return bits_per_dim(nll_nats, num_pixels(subject), subject.kind.dequantized_levels or 1)
