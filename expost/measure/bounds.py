"""The glue between two trained stages and the bounds on log p(x) of test images, under every prior.

By importance sampling, from the same proposals for all priors; and by annealed importance sampling, the tightest bounds
that there are here, with how far they may be off. Chains start at q(z|x). How far off they may be is measured on images
simulated from the model itself, one set for each prior, by bidirectional Monte Carlo. It costs minutes, so it is off
unless asked for: `evaluation=tight`.

A source that draws its images from a density that it can evaluate says so in `ImageData.density`. Its mean -log p(x) on
test images is the entropy of the data, but for chance: what no model can beat, and what every bound must stay above.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from expost.config.limits import affordable_draws
from expost.config.schema import Annealing as Settings
from expost.evaluation.annealing.gaps import normal_start
from expost.evaluation.annealing.path import Annealing, Start, annealed_bounds, bidirectional, proposals
from expost.evaluation.bounds import Bounds, Draw, LogLikelihood, importance_bounds, rows_at_once
from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.surgery import mean_of
from expost.evaluation.oracle import Compared
from expost.evaluation.sections import AnnealedRow, TightBounds
from expost.job import Job
from expost.measure.subject import ImageSubject
from expost.parts.assembly import ImageParts
from expost.parts.decoding import block_size
from expost.training.progress import bar, clock
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.base_priors import FairBits, StandardNormal, UniformBox, UniformSphere
from stage1_vae.data.images import ImageSet, subset
from stage1_vae.posteriors import DiagonalNormal
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE
from stage2_prior.prior import Exactness, Prior

MAX_ANNEALED_PIXELS = 2**22
"""Decoded at once, with what the gradient needs: about 400 MB of float32 through a small net."""
WITH_DENSITY = ("diagonal_normal", "draws")
"""Families of the posteriors of real latents from whose density chains can begin."""
REFUSALS = {
    Exactness.NONE: "has no density: no bound on log p(x)",
    Exactness.ESTIMATE: "only estimates its density, and annealing needs the same number each time",
    Exactness.LOWER_BOUND: "only bounds its density: its samples are not of the density that would be used",
}
"""Why a prior gets no annealed bounds."""


def measure_bounds(subject: ImageSubject, job: Job) -> dict[str, Bounds]:
    """Bounds on the test images under the baseline, the floors and the learned prior, from the same proposals."""
    settings = job.config.evaluation
    vae, images = subject.vae, subset(subject.parts.data.test, settings.num_bound_images)
    block = block_size(subject.parts.data.shape)
    max_rows = rows_at_once(subject.parts.data.shape)
    batches = subject.parts.batches(images, min(settings.batch_size, block))
    x_batches = (x for x, _ in bar("bounds", job.shows_progress, batches))

    def propose(x: Tensor) -> Draw:
        posterior = vae.encode(x).posterior

        def draw(n: int) -> tuple[Tensor, Tensor | None]:
            z = posterior.rsample(torch.Size([n]))  # [n, B, *latent]
            return z, None if subject.test.is_point_mass else posterior.log_prob(z)

        return draw

    def closed_form(x: Tensor) -> Tensor:
        posterior = vae.encode(x).posterior
        return rate_nats(posterior, vae.trained_against, posterior.mean)

    priors = {"baseline": subject.baseline, **{row: floor.prior for row, floor in subject.floors.items()}}
    densities = {
        key: prior.log_prob if prior.log_prob_is is not Exactness.NONE else None
        for key, prior in (priors | {"learned": subject.prior}).items()
    }
    # then stage 1 was trained against the baseline itself
    known = type(vae.base_prior) in (StandardNormal, FairBits, UniformSphere, UniformBox)
    rates = {"baseline": closed_form} if known and subject.test.has_density else {}
    num = 1 if subject.test.is_certain else settings.importance_samples
    fewer = {"learned": affordable_draws(settings, subject.prior.passes)}
    return importance_bounds(x_batches, propose, likelihood(vae), densities, num, rates, max_rows, fewer)


def check_tight_bounds(job: Job, parts: ImageParts) -> None:
    """Refuse, before any work, bounds that cannot be had.

    Raises:
        EvaluationError: the posteriors are point masses, which have no density to start from.
    """
    if job.config.evaluation.annealing is not None and parts.vae.family not in WITH_DENSITY:
        raise EvaluationError(
            "annealing moves through real latents from a normal q(z|x), and this autoencoder has none; "
            "set evaluation.annealing=null or train one that has (vae=gaussian)"
        )


def tight_bounds(subject: ImageSubject, job: Job, name: str) -> TightBounds | None:
    """What annealing says of the baseline and of the learned prior, called `name`; None where it is off.

    Raises:
        EvaluationError: as for `check_tight_bounds`.
    """
    settings = job.config.evaluation.annealing
    if settings is None:
        return None
    check_tight_bounds(job, subject.parts)
    with clock("annealing", job.shows_progress):
        rows = {key: _row(subject, job, prior, settings) for key, prior in subject.priors(name).items()}
    return TightBounds(
        num_images=min(settings.num_images, len(subject.parts.data.test)),
        bdmc_images=settings.bdmc_images,
        num_chains=settings.num_chains,
        num_steps=settings.num_steps,
        leapfrog_steps=settings.leapfrog_steps,
        importance_samples=job.config.evaluation.importance_samples,
        is_density=subject.parts.kind.is_density,
        rows=rows,
    )


def _row(subject: ImageSubject, job: Job, prior: Prior, settings: Settings) -> AnnealedRow:
    """One prior; the same seed for all, so that they are compared from the same starts."""
    kind, seed, shape = subject.parts.kind, job.config.seeds.sample, subject.parts.data.shape
    notes = [] if kind.is_density else [f"{kind.note}: these bounds rank priors and are no log-likelihoods"]
    if refusal := REFUSALS.get(prior.log_prob_is):
        return AnnealedRow(notes=(*notes, f"{type(prior).__name__} {refusal}"))
    work = Annealing(settings.num_chains, settings.num_steps, settings.leapfrog_steps)
    start, log_likelihood = starts(subject.vae), likelihood(subject.vae)
    max_rows = max(1, min(8192, MAX_ANNEALED_PIXELS // math.prod(shape)))

    def images() -> Iterator[Tensor]:
        shown = subset(subject.parts.data.test, settings.num_images)
        return (x for x, _ in subject.parts.batches(shown, block_size(shape)))

    with job.seeded(seed):
        annealed = annealed_bounds(images(), start, log_likelihood, prior.log_prob, work, max_rows)
    num, densities = job.config.evaluation.importance_samples, {"p": prior.log_prob}
    with job.seeded(seed):
        weighted = importance_bounds(images(), proposals(start), log_likelihood, densities, num, max_rows=max_rows)["p"]
    row = AnnealedRow(
        ais_nats=annealed.mean_nats(),
        ais_std_error_nats=_mean(annealed.nll_nats)[1],
        iwae_nats=_mean(weighted.iwae_nats)[0],
        acceptance=None if annealed.acceptance is None else annealed.acceptance.mean().item(),
        acceptance_range=annealed.acceptance_range,
        ess_share=annealed.ess_share.mean().item(),
        diverged_share=annealed.diverged.mean().item(),
        trusted_images=int(annealed.trusted.sum()),
        notes=(*notes, *annealed.notes()),
    )
    if not settings.bdmc_images:
        return row
    with job.seeded(seed):
        pairs = simulate(subject, prior, settings.bdmc_images)
        both = bidirectional(pairs, start, log_likelihood, prior.log_prob, work, max_rows)
    gap, error = _mean(both.gap_nats)
    notes = [f"simulated images: {note}" for note in both.upper.notes()]
    return replace(row, bdmc_gap_nats=gap, bdmc_gap_std_error_nats=error, notes=(*row.notes, *notes))


def starts(vae: Autoencoder) -> Callable[[Tensor], Start]:
    """Chains begin at q(z|x) and measure their steps by its standard deviations.

    Where it is no diagonal normal, they begin at the one with its moments: a density that costs a pass and not one for
    each dimension.
    """

    def start(x: Tensor) -> Start:
        posterior = vae.encode(x).posterior
        if not isinstance(posterior, DiagonalNormal):
            return normal_start(posterior.mean, posterior.variance)
        return Start(
            sample=lambda n: posterior.sample(torch.Size([n])),
            log_prob=posterior.log_prob,
            scale=posterior.variance.sqrt(),
        )

    return start


def likelihood(vae: Autoencoder) -> LogLikelihood:
    """x [B, C, H, W], z [n, B, *latent] -> log p(x|z) [n, B] nats."""

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return vae.decode(z.flatten(0, 1)).log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:2])

    return log_likelihood


@torch.no_grad()
def simulate(subject: ImageSubject, prior: Prior, num: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of x ~ p(x|z) [B, C, H, W] and the z ~ p(z) [B, *latent] that each was drawn from, on the device."""
    for z in subject.draw(prior, num).to(subject.device).split(block_size(subject.parts.data.shape)):
        yield subject.vae.decode(z).sample(), z


def _mean(per_image: Tensor | None) -> tuple[float | None, float | None]:
    """Over images, with its standard error; None where a figure is missing."""
    if per_image is None or not bool(torch.isfinite(per_image).all()):
        return None, None
    mean = mean_of(per_image)
    return mean.value, mean.standard_error


def carries_unchanged(vae: Autoencoder) -> bool:
    """Whether z is x: nothing between the images and stage 2 has a parameter."""
    return isinstance(vae, VAE) and next(vae.parameters(), None) is None


def true_nll_nats(parts: ImageParts, images: ImageSet) -> Tensor | None:
    """-log p(x) of `images` under the density that they were drawn from, float64 [N]; None where nobody knows."""
    if parts.data.density is None or parts.preprocess.is_random:
        return None
    index = torch.arange(len(images))
    return torch.cat([-parts.data.density.log_prob(images.batch(rows)).cpu() for rows in index.split(4096)])


def compare_with_truth(
    parts: ImageParts, images: ImageSet, bounded: Mapping[str, Bounds], name: str
) -> tuple[float | None, list[str]]:
    """The mean true -log p(x) of the images that were `bounded`, in nats, and how far from it the figure of the prior
    `name` is, in words; None and nothing where it is not known."""
    truth = true_nll_nats(parts, images)
    if truth is None:
        return None, []
    mean = truth.mean().item()
    note = f"the true density: -log p(x) is {mean:.3f} nats on {len(truth):,} test images"
    learned = bounded["learned"]
    if carries_unchanged(parts.vae):
        what, figure = "-log p(z), z = x,", learned.latent_nll_nats
    else:
        what, figure = "-IWAE bound", learned.iwae_nats if parts.kind.is_density else None
    compared = None if figure is None else Compared.of(name, truth, figure)
    if compared is not None and compared.is_finite and compared.standard_error_nats is not None:
        off = f"{compared.error_nats:+.3f} ± {compared.standard_error_nats:.3f} nats from it"
        note += f"; the {what} of {name} is {off} (std. error over images)"
    return mean, [note]
