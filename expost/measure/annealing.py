"""The glue between two trained stages and annealed importance sampling: the tightest bounds on -log p(x) that there are
here, under the learned prior and under N(0, I), and how far they may be off.

Chains start at q(z|x). How far off they may be is measured on images simulated from the model itself, one set for each
prior, by bidirectional Monte Carlo. It costs minutes, so it is off unless asked for: `evaluation=tight`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from expost.config.schema import Annealing as Asked
from expost.evaluation import bounds
from expost.evaluation.annealing.path import Annealing, Start, annealed_bounds, bidirectional
from expost.evaluation.annealing.results import Annealed, Bidirectional
from expost.evaluation.errors import EvaluationError
from expost.job import Run
from expost.measure.subject import Trained
from expost.parts.assembly import Parts
from expost.parts.decoding import block_size
from expost.training.progress import clock
from stage1_vae.data.images import subset
from stage1_vae.vae import VAE
from stage2_prior.prior import Exactness, Prior

MAX_ANNEALED_PIXELS = 2**22
"""Decoded at once, with what the gradient needs: about 400 MB of float32 through a small net."""


def check_tight_bounds(run: Run, parts: Parts) -> None:
    """Refuse, before any work, bounds that cannot be had.

    Raises:
        EvaluationError: the posteriors are point masses, which have no density to start from.
    """
    if run.config.evaluation.annealing is not None and parts.vae.bottleneck.family != "diagonal_normal":
        raise EvaluationError(
            "annealing moves through real latents from the density q(z|x), and this autoencoder has none; "
            "set evaluation.annealing=null or train with noise (vae=gaussian)"
        )


def tight_bounds(trained: Trained, run: Run, name: str) -> dict[str, Any]:
    """What annealing says of the baseline and of the learned prior, as plain JSON; empty where it is off.

    `rows` holds one mapping a prior: `ais_nats`, the mean upper bound on -log p(x) over the test images, and its
    standard error over images; `iwae_nats` of the same images, to compare; `bdmc_gap_nats`, the mean over simulated
    images of what upper and lower bound differ by; acceptance, effective sample size, diverged chains, images that can
    be trusted, and notes in words. What does not exist is None.

    Args:
        trained: both stages.
        run: its `evaluation.annealing` says how much work.
        name: of the learned prior in the report.

    Raises:
        EvaluationError: as for `check_tight_bounds`.
    """
    asked = run.config.evaluation.annealing
    if asked is None:
        return {}
    check_tight_bounds(run, trained.parts)
    priors = trained.priors(name)
    with clock("annealing", run.shows_progress):
        rows = {key: _row(trained, run, prior, asked) for key, prior in priors.items()}
    return {
        "num_images": min(asked.num_images, len(trained.parts.data.test)),
        "bdmc_images": asked.bdmc_images,
        "num_chains": asked.num_chains,
        "num_steps": asked.num_steps,
        "leapfrog_steps": asked.leapfrog_steps,
        "importance_samples": run.config.evaluation.importance_samples,
        "is_density": trained.parts.kind.is_density,
        "rows": rows,
    }


def _row(trained: Trained, run: Run, prior: Prior, asked: Asked) -> dict[str, Any]:
    """One prior; the same seed for all, so that they are compared from the same starts."""
    kind, seed = trained.parts.kind, run.config.seeds.sample
    notes = [] if kind.is_density else [f"{kind.note}: these bounds rank priors and are no log-likelihoods"]
    if refusal := _refusal(prior):
        return _as_json(None, None, None, [*notes, refusal])
    settings = Annealing(asked.num_chains, asked.num_steps, asked.leapfrog_steps)
    start, log_likelihood = starts(trained.vae), likelihood(trained.vae)
    max_rows = max(1, min(8192, MAX_ANNEALED_PIXELS // math.prod(trained.parts.data.shape)))
    with run.seeded(seed):
        annealed = annealed_bounds(
            _images(trained, run, asked.num_images), start, log_likelihood, prior.log_prob, settings, max_rows
        )
    with run.seeded(seed):
        weighted = bounds.importance_bounds(
            _images(trained, run, asked.num_images),
            _proposals(start),
            log_likelihood,
            {"p": prior.log_prob},
            run.config.evaluation.importance_samples,
            max_rows=max_rows,
        )["p"]
    both = None
    if asked.bdmc_images:
        with run.seeded(seed):
            both = bidirectional(
                simulated(trained, prior, asked.bdmc_images), start, log_likelihood, prior.log_prob, settings, max_rows
            )
    return _as_json(annealed, weighted, both, notes)


def _refusal(prior: Prior) -> str | None:
    """Why this prior gets no figure, in words."""
    if prior.log_prob_is is Exactness.NONE:
        return f"{type(prior).__name__} has no density: no bound on log p(x)"
    if prior.log_prob_is is Exactness.ESTIMATE:
        return f"{type(prior).__name__} only estimates its density, and annealing needs the same number each time"
    if prior.log_prob_is is Exactness.LOWER_BOUND:
        return f"{type(prior).__name__} only bounds its density: its samples are not of the density that would be used"
    return None


def starts(vae: VAE) -> Callable[[Tensor], Start]:
    """Chains begin at q(z|x) and measure their steps by its standard deviations."""

    def start(x: Tensor) -> Start:
        posterior = vae.encode(x).posterior
        return Start(
            sample=lambda n: posterior.sample(torch.Size([n])),
            log_prob=posterior.log_prob,
            scale=posterior.variance.sqrt(),
        )

    return start


def likelihood(vae: VAE) -> bounds.LogLikelihood:
    """x [B, C, H, W], z [n, B, *latent] -> log p(x|z) [n, B] nats."""

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return vae.decode(z.flatten(0, 1)).log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:2])

    return log_likelihood


def _proposals(start: Callable[[Tensor], Start]) -> bounds.Propose:
    def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        begin = start(x)
        z = begin.sample(n)
        return z, begin.log_prob(z)

    return propose


def _images(trained: Trained, run: Run, num: int) -> Iterator[Tensor]:
    """`num` test images, evenly spread over the split, in batches [B, C, H, W] on the device."""
    images = subset(trained.parts.data.test, num)
    for x, _ in trained.parts.batches(images, block_size(trained.parts.data.shape)):
        yield x


@torch.no_grad()
def simulated(trained: Trained, prior: Prior, num: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of x ~ p(x|z) [B, C, H, W] and the z ~ p(z) [B, *latent] that each was drawn from, on the device."""
    for z in trained.draw(prior, num).to(trained.device).split(block_size(trained.parts.data.shape)):
        yield trained.vae.decode(z).sample(), z


def _as_json(
    annealed: Annealed | None, weighted: bounds.Bounds | None, both: Bidirectional | None, notes: list[str]
) -> dict[str, Any]:
    simulated_notes = [] if both is None else [f"simulated images: {note}" for note in both.upper.notes()]
    figures: dict[str, Any] = {"ais_nats": None, "ais_std_error_nats": None, "iwae_nats": None}
    figures |= {"acceptance": None, "acceptance_range": None, "ess_share": None, "diverged_share": None}
    figures |= {"trusted_images": None, "bdmc_gap_nats": None, "bdmc_gap_std_error_nats": None}
    if annealed is not None and weighted is not None:
        figures |= {
            "ais_nats": annealed.mean_nats(),
            "ais_std_error_nats": _std_error(annealed.nll_nats),
            "iwae_nats": _finite_mean(weighted.iwae_nats),
            "ess_share": annealed.ess_share.mean().item(),
            "diverged_share": annealed.diverged.mean().item(),
            "trusted_images": int(annealed.trusted.sum()),
        }
        notes = [*notes, *annealed.notes()]
        if annealed.acceptance is not None and annealed.acceptance_range is not None:
            figures |= {
                "acceptance": annealed.acceptance.mean().item(),
                "acceptance_range": list(annealed.acceptance_range),
            }
    if both is not None:
        figures |= {
            "bdmc_gap_nats": both.mean_gap_nats(),
            "bdmc_gap_std_error_nats": _std_error(both.gap_nats),
        }
    return figures | {"notes": [*notes, *simulated_notes]}


def _finite_mean(per_image: Tensor | None) -> float | None:
    if per_image is None or not bool(torch.isfinite(per_image).all()):
        return None
    return per_image.mean().item()


def _std_error(per_image: Tensor) -> float | None:
    """Of the mean over images; None for a single one, or where a figure is missing."""
    if len(per_image) < 2 or not bool(torch.isfinite(per_image).all()):
        return None
    return per_image.std().item() / math.sqrt(len(per_image))
