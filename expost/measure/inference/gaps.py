"""The glue between two trained stages and their inference gaps: for each prior, what of -ELBO is the family's, what the
encoder's. Off unless asked for, `evaluation.gaps=N`: it takes some ten thousand gradients an image and prior.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from expost.evaluation.annealing.gaps import Effort, Family, Gaps, inference_gaps
from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.surgery import mean_of
from expost.evaluation.report import Row
from expost.evaluation.sections import Estimate, GapsRow, InferenceGaps
from expost.job import Job
from expost.measure.bounds import MAX_ANNEALED_PIXELS, REFUSALS, WITH_DENSITY, likelihood
from expost.measure.subject import ImageSubject
from expost.parts.assembly import ImageParts
from expost.parts.decoding import block_size
from expost.training.progress import clock
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.bottlenecks.iaf import InverseAutoregressive
from stage1_vae.data.images import subset
from stage1_vae.posteriors import DiagonalNormal
from stage2_prior.prior import Prior

GAPS_VERSION = 1
"""Part of the key of an evaluation that measures them; raised whenever they change."""
EFFORT = Effort()


def check_gaps(job: Job, parts: ImageParts) -> None:
    """Refuse, before any work, gaps that do not exist.

    Raises:
        EvaluationError: nobody has said what a better posterior would be.
    """
    if job.config.evaluation.gaps and parts.vae.family not in WITH_DENSITY:
        raise EvaluationError(
            "evaluation.gaps looks for better posteriors among normals and flows, and those of this autoencoder are "
            "neither; set evaluation.gaps=0 or train with noise (vae=gaussian)"
        )


def measure_gaps(subject: ImageSubject, job: Job, name: str, effort: Effort = EFFORT) -> InferenceGaps | None:
    """Of the baseline and of the learned prior, called `name`; None where they are not asked for.

    Raises:
        EvaluationError: as for `check_gaps`.
    """
    num = min(job.config.evaluation.gaps, len(subject.parts.data.test))
    if not num:
        return None
    check_gaps(job, subject.parts)
    with clock("gaps", job.shows_progress):
        rows = {key: _row(subject, job, prior, num, effort) for key, prior in subject.priors(name).items()}
    return InferenceGaps(num, effort.num_draws, rows)


def _row(subject: ImageSubject, job: Job, prior: Prior, num: int, effort: Effort) -> GapsRow:
    """One prior; the same seed for all."""
    if refusal := REFUSALS.get(prior.log_prob_is):
        return GapsRow(notes=(f"no inference gaps: {type(prior).__name__} {refusal}",))
    shape = subject.parts.data.shape
    max_rows = max(1, min(8192, MAX_ANNEALED_PIXELS // math.prod(shape)))

    def images() -> Iterator[Tensor]:
        return (x for x, _ in subject.parts.batches(subset(subject.parts.data.test, num), block_size(shape)))

    try:
        with job.seeded(job.config.seeds.sample):
            found = inference_gaps(
                images(), families(subject.vae), likelihood(subject.vae), prior.log_prob, effort, max_rows
            )
    except EvaluationError as error:
        return GapsRow(notes=(f"no inference gaps: {error}",))
    return described(found, num, effort)


def described(found: Gaps, num: int, effort: Effort) -> GapsRow:
    """Means and standard errors over images, and what they are."""

    def mean(per_image: Tensor) -> Estimate | None:
        return mean_of(per_image) if bool(per_image.isfinite().all()) else None

    ends = mean(found.nll_nats)
    by = "importance sampling from HMC's draws" if found.by_hmc else "annealed importance sampling"
    notes = [
        f"inference gaps are estimates on {num:,} test images: log p(x) by {by}, a lower bound in the mean, whose lack "
        f"makes the approximation gap too small; the best posterior of the family by {effort.num_steps} steps of Adam, "
        "and what that search misses counts as approximation instead of amortisation"
    ]
    if ends is None or mean(found.local_elbo_nats) is None:
        notes = ["no inference gaps: some images have no finite bound"]
    if not found.by_hmc:
        notes += [f"gaps: {note}" for note in found.annealed.notes()]
    return GapsRow(
        approximation_gap_nats=mean(found.approximation_gap_nats),
        amortisation_gap_nats=mean(found.amortisation_gap_nats),
        elbo_nats=mean(found.elbo_nats),
        local_elbo_nats=mean(found.local_elbo_nats),
        ais_nats=mean(found.ais_nats),
        hmc_nats=None if found.hmc_nats is None else mean(found.hmc_nats),
        joint_nats=mean(found.joint_nats),
        moved_joint_nats=mean(found.moved_joint_nats),
        acceptance=found.acceptance.mean().item(),
        notes=tuple(notes),
    )


def families(vae: Autoencoder) -> Callable[[Tensor], Family]:
    """The posteriors of images, and what may be changed of each: of a normal all of its numbers; of an inverse
    autoregressive one its first normal and the context, with the networks as they are."""

    def family(x: Tensor) -> Family:
        q = vae.encode(x).posterior
        if isinstance(q, DiagonalNormal):
            return _family((q.loc, q.log_std), lambda values: DiagonalNormal(values[0], values[1]))
        if isinstance(q, InverseAutoregressive):
            steps = q.steps
            return _family((q.loc, q.log_std, q.context), lambda z: InverseAutoregressive(z[0], z[1], z[2], steps))
        raise EvaluationError(f"nobody has said what of {type(q).__name__} may be changed for one image")

    return family


def _family(values: Sequence[Tensor], at: Callable[[Sequence[Tensor]], Distribution]) -> Family:
    """Of `values` the first are means, and the second logarithms of the deviations, in units of which means move."""
    units = [values[1].exp(), *(torch.ones_like(value) for value in values[1:])]
    return Family(values, units, at)


def add_gaps(rows: dict[str, Row], gaps: InferenceGaps | None) -> None:
    """Copy the gaps into the rows, with their standard errors and notes."""
    for name, found in ({} if gaps is None else gaps.rows).items():
        row = rows[name].with_estimate("approximation_gap_nats", found.approximation_gap_nats)
        row = row.with_estimate("amortisation_gap_nats", found.amortisation_gap_nats)
        rows[name] = replace(row, notes=(*row.notes, *found.notes))
