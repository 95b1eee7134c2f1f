"""The glue between two trained stages and the surgery: what the latents are made of, and how well priors fit them.

Everything is measured on one fresh z ~ q(z|x) an image: of training images under the aggregate of all training images,
of test images under the aggregate of all test images. Which draws a prior is judged on matters: the marginal KL on
training images rewards memory too, so what generalises (classifier, discrepancy, marginals) is measured against draws
of test images.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.marginals import units, wasserstein_1, wasserstein_1_floor
from expost.evaluation.latents.surgery import LogDensity, decompose, under_prior
from expost.evaluation.latents.two_sample import classifier_of_known, classifier_two_sample, maximum_mean_discrepancy
from expost.evaluation.row_names import TRAINING_AGGREGATE
from expost.evaluation.sections import (
    Codebook,
    Codes,
    Decomposition,
    Dimensions,
    Surgery,
    TwoSample,
    UnderPrior,
    Wasserstein,
)
from expost.job import Job
from expost.measure.subject import Subject
from expost.parts.assembly import LatentParts
from expost.training.progress import clock
from stage1_vae.latents import DiagonalNormal, LatentDataset, Support
from stage1_vae.latents.spec import NUM_DRAWS
from stage1_vae.rows import spread_rows
from stage2_prior.held_out import affordable
from stage2_prior.prior import Exactness, Prior

MAX_DRAWS = 10_000
FEWEST_DRAWS, MOST_TERMS = 500, 2**39
"""Draws whose density under the aggregate of millions of posteriors is computed: a minute of a core."""
MAX_KNOWN, MAX_KERNEL = 5_000, 5_000
"""Images whose very mixture the classifier is asked about, and samples of each set in the kernel discrepancy."""
MAX_LISTED_DIMS = 512
"""Latents of more dimensions get their counts and extremes, and no figure a dimension."""
BLOCK_ROWS = 4096


def dissect(subject: Subject, job: Job, name: str) -> Surgery:
    """Everything about the latents for the report; None with a note for what does not exist.

    `evaluation.num_samples` bounds the number of draws, `seeds.sample` decides them; `name`: of the learned prior.
    """
    priors = subject.priors(name)
    limit, pairs = min(MAX_DRAWS, job.config.evaluation.num_samples), len(subject.train) * subject.train.spec.num_dims
    if isinstance(subject.parts, LatentParts):  # such sets may hold millions
        limit = min(limit, max(FEWEST_DRAWS, MOST_TERMS // pairs))
    exactness = {key: prior.log_prob_is.value for key, prior in priors.items()}
    with job.seeded(job.config.seeds.sample), clock("surgery", job.shows_progress):
        splits, notes = decompose_rates(subject, priors, affordable(limit, subject.prior))
        dimensions, codes, two_sample = None, None, dict[str, TwoSample | None].fromkeys(priors)
        if subject.train.spec.support is Support.CODES:
            codes = count_codes(subject)  # their numbers have no distances: no moments, nothing for a classifier
        else:
            dimensions, two_sample = compare_samples(subject, priors, limit, notes)
    train, test = splits.get("train"), splits.get("test")
    return Surgery(train, test, dimensions, two_sample, codes, exactness, tuple(notes))


def decompose_rates(
    subject: Subject, priors: Mapping[str, Prior], limit: int
) -> tuple[dict[str, Decomposition], list[str]]:
    """Split -> its rate under every prior, and notes on what is missing."""
    if subject.train.is_point_mass:
        return {}, ["posteriors are point masses: they have no rate, no mutual information and no marginal KL"]
    if not subject.train.has_density:
        return {}, [
            f"posteriors are stored as {NUM_DRAWS} draws each, without their density: no mutual information and no "
            "marginal KL; rates and bounds are of the encoder's own posteriors"
        ]
    densities = {key: prior.log_prob for key, prior in priors.items() if prior.log_prob_is is not Exactness.NONE}
    silent = [key for key in priors if key not in densities]
    notes = [f"{key} has no density: no rate and no marginal KL under it" for key in silent]
    splits = {}
    for split, latents in (("train", subject.train), ("test", subject.test)):
        try:
            z, log_posterior, rate = decompose_split(latents, densities, limit, subject.device)
        except EvaluationError as error:
            notes.append(f"{split}: {error}")
            continue
        under: dict[str, UnderPrior | None] = {**dict.fromkeys(priors), **rate.priors}
        if split == "test" and subject.train.spec.support is not Support.CODES:  # of codes it says what was seen
            aggregate = latents.log_aggregate(z.double())
            under[TRAINING_AGGREGATE] = under_prior(z, log_posterior, aggregate, subject.train.log_aggregate)
        splits[split] = replace(rate, priors=under)
        notes += [f"{split}, {key}: {one.note}" for key, one in under.items() if one is not None and one.note]
    return splits, notes


def decompose_split(
    latents: LatentDataset, densities: Mapping[str, LogDensity], limit: int, device: torch.device
) -> tuple[Tensor, Tensor, Decomposition]:
    """Draws z [B, *shape] of at most `limit` images, their log q(z|x) [B] nats, and the surgery under their aggregate.

    Raises:
        EvaluationError: the latents are not finite.
    """
    rows = spread_rows(len(latents), limit)
    posterior = latents.posterior(rows)
    z = posterior.sample()
    log_posterior = posterior.log_prob(z.double()).to(device)  # float64: of large maps it is thousands of nats
    z = z.to(device)
    return z, log_posterior, decompose(z, log_posterior, latents.log_aggregate(z.double()), len(latents), densities)


def compare_samples(
    subject: Subject, priors: Mapping[str, Prior], limit: int, notes: list[str]
) -> tuple[Dimensions, dict[str, TwoSample | None]]:
    """What needs no density; `notes` takes what is missing, in words."""
    train, test = subject.train, subject.test
    z = test.draw(spread_rows(len(test), limit)).to(subject.device)
    used = units(blocks_of(train), in_own_units=isinstance(subject.parts, LatentParts))
    listed = train.spec.num_dims <= MAX_LISTED_DIMS
    distances: dict[str, Wasserstein | None] = dict.fromkeys(priors)
    two_sample: dict[str, TwoSample | None] = dict.fromkeys(priors)
    for key, prior in priors.items():
        samples = subject.draw(prior, len(z)).to(subject.device)
        if not torch.isfinite(samples).all():
            notes.append(f"{key}: some of its samples are NaN or infinite, so they were not compared with q(z)")
            continue
        per_dim, floor = wasserstein_1(samples, z), wasserstein_1_floor(samples, z)
        by_dim = tuple(per_dim.tolist()) if listed else None
        distances[key] = Wasserstein(per_dim.mean().item(), per_dim.max().item(), floor.mean().item(), by_dim)
        try:
            two_sample[key] = two = tell_apart(samples, z)
            if test.has_density:  # of few draws some would come twice
                two_sample[key] = add_known(two, subject, prior, min(limit, MAX_KNOWN))
        except EvaluationError as error:
            notes.append(f"{key}: {error}")
    dimensions = Dimensions(
        num_dims=train.spec.num_dims,
        num_active=int(used.active.sum()),
        num_collapsed=None if used.collapsed is None else int(used.collapsed.sum()),
        active=tuple(used.active.tolist()) if listed else None,
        collapsed=tuple(used.collapsed.tolist()) if listed and used.collapsed is not None else None,
        mean_variance=tuple(used.mean_variance.tolist()) if listed else None,
        wasserstein_1=distances,
    )
    return dimensions, two_sample


def tell_apart(samples: Tensor, z: Tensor) -> TwoSample:
    """Prior samples [n, *shape] against q(z) of held-out images, z [n, *shape]."""
    accuracy = classifier_two_sample(samples, z)
    discrepancy = maximum_mean_discrepancy(samples[:MAX_KERNEL], z[torch.randperm(len(z))[:MAX_KERNEL]])
    return TwoSample(
        accuracy_percent=accuracy.percent,
        standard_error_percent=accuracy.standard_error_percent,
        num_held_out=accuracy.num_held_out,
        known_accuracy_percent=None,
        known_standard_error_percent=None,
        known_num_images=None,
        mmd_squared=discrepancy.squared,
        mmd_standard_error=discrepancy.standard_error,
        mmd_num_samples=discrepancy.num_samples,
    )


def add_known(two: TwoSample, subject: Subject, prior: Prior, num: int) -> TwoSample:
    """Prior samples against the aggregate of `num` test images at most besides, trained and judged on draws of them."""
    rows = spread_rows(len(subject.test), num)

    def pair() -> tuple[Tensor, Tensor]:
        return subject.draw(prior, len(rows)).to(subject.device), subject.test.draw(rows).to(subject.device)

    accuracy = classifier_of_known(train=pair(), judge=pair(), reference=pair())
    return replace(
        two,
        known_accuracy_percent=accuracy.percent,
        known_standard_error_percent=accuracy.standard_error_percent,
        known_num_images=len(rows),
    )


def blocks_of(latents: LatentDataset) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Posterior means and log standard deviations, some rows at a time."""
    for start in range(0, len(latents), BLOCK_ROWS):
        posterior = latents.posterior(slice(start, start + BLOCK_ROWS))
        yield posterior.mean, posterior.log_std if isinstance(posterior, DiagonalNormal) else None


def count_codes(subject: Subject) -> Codes:
    """How many codes are used, how often, and which sequences come again."""
    counts = code_counts(subject.train)
    z = subject.test.draw(torch.arange(len(subject.test)))
    is_seen = torch.isfinite(subject.train.log_aggregate(z))
    books = tuple(_book(*book) for book in zip(counts, subject.train.spec.grids, strict=True))
    return Codes(books, is_seen.double().mean().item())


def code_counts(latents: LatentDataset) -> list[Tensor]:
    """How often each code occurs in each map, int64 [K] each."""
    counts = [torch.zeros(size, dtype=torch.int64) for size in latents.spec.num_codes]
    for posterior in latents.blocks():
        maps = posterior.sample().split([math.prod(grid) for grid in latents.spec.grids], dim=1)  # [B, h w] each
        for total, codes in zip(counts, maps, strict=True):
            total += torch.bincount(codes.flatten(), minlength=len(total))
    return counts


def _book(counts: Tensor, grid: tuple[int, int]) -> Codebook:
    share = counts.double() / counts.sum()
    return Codebook(
        grid=grid,
        num_codes=len(counts),
        used_share=(counts > 0).double().mean().item(),
        perplexity=(-torch.xlogy(share, share).sum()).exp().item(),
        counts=tuple(counts.sort(descending=True).values.tolist()),
    )
