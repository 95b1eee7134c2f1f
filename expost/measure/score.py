"""The glue between both trained stages and the scores of single images or latents that somebody has.

Every image is scored from the same noise, that of the seed: its figures depend neither on what else is scored nor on
where it stands, and the noise cancels where two images are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from expost.evaluation.bounds import Bounds, Draw, LogLikelihood, Propose, importance_bounds, rows_at_once
from expost.evaluation.errors import EvaluationError
from expost.evaluation.images.memorisation import Nearest, nearest, nearest_sequence, num_looked_up
from expost.evaluation.latents.features import MOST_DIMS, LatentFeatures
from expost.evaluation.scores.table import Scores
from expost.job import Job
from expost.measure.bounds import carries_unchanged, likelihood
from expost.measure.feature_nets import Extractor
from expost.measure.image_sets import extract_features
from expost.measure.latent_evaluation import MOST_DRAWS, MOST_NUMBERS, ROWS_AT_ONCE, no_decoder
from expost.measure.latent_sets import FEWEST_LOOKED_UP, MOST_PAIRS, STANDARDISED_BY, draw_blocks
from expost.measure.subject import clean_images
from expost.parts.assembly import ImageParts, Parts
from expost.parts.decoding import block_size
from expost.training.progress import bar
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import ImageSet
from stage1_vae.data.preprocess import SameNoise
from stage1_vae.latents import LatentDataset, Support
from stage1_vae.posteriors import Unchecked
from stage1_vae.rows import spread_rows
from stage2_prior.prior import Exactness, Prior

VERSION = 1
"""Part of the keys of scores; raised whenever they change."""
SEARCHED_NUMBERS = 2**26
"""Of vectors that are looked up together among all training latents: 256 MiB."""
CERTAIN = ("delta", "codes")
"""Families whose draws are all the same."""


def num_draws(job: Job, parts: Parts, family: str) -> int:
    """Draws of q(z|x) for each image or latent."""
    num = job.config.score.importance_samples or job.config.evaluation.importance_samples
    if family in CERTAIN:
        return 1
    return num if isinstance(parts, ImageParts) else min(MOST_DRAWS, num)


def image_costs(job: Job, parts: ImageParts, vae: Autoencoder, prior: Prior, images: ImageSet) -> Bounds:
    """Costs of each of `images` under `prior`."""
    seed, num = job.config.seeds.sample, num_draws(job, parts, vae.family)
    given = parts.preprocess
    same = SameNoise(given.levels, given.domain, given.binarize, given.dequantize, seed)
    most = rows_at_once((parts.num_pixels,))
    batches = replace(parts, preprocess=same).batches(
        images, max(1, min(job.config.evaluation.batch_size, block_size(parts.data.shape), most // num))
    )
    x_batches = (x for x, _ in bar("scores", job.shows_progress, batches))

    def propose(x: Tensor) -> Draw:
        posterior: Any = vae.encode(x).posterior
        alike = isinstance(posterior, Unchecked)  # a bottleneck of the user's may have any distribution

        def draw(n: int) -> tuple[Tensor, Tensor | None]:
            z = posterior.sample_alike(n) if alike else posterior.sample(torch.Size([n]))  # [n, B, *latent]
            return z, None if vae.family == "delta" else posterior.log_prob(z)

        return draw

    return _costs(_reseeded(x_batches, seed), propose, likelihood(vae), prior, num, most)


def latent_costs(job: Job, parts: Parts, prior: Prior, latents: LatentDataset, rows: Tensor) -> Bounds:
    """Costs of the rows [n] of `latents` under `prior`; there is no distortion."""
    seed, num = job.config.seeds.sample, num_draws(job, parts, latents.family)
    most = max(1, MOST_NUMBERS // latents.spec.num_dims)

    def propose(index: Tensor) -> Draw:
        posterior = latents.posterior(index.cpu())

        def draw(n: int) -> tuple[Tensor, Tensor | None]:
            z = posterior.sample_alike(n)
            log_q = None if latents.is_point_mass else posterior.log_prob(z.double() if z.is_floating_point() else z)
            return z.to(job.device), None if log_q is None else log_q.to(job.device)

        return draw

    index = [part.to(job.device) for part in rows.split(max(1, min(ROWS_AT_ONCE, most // num)))]
    batches = bar("scores", job.shows_progress, index)
    bounds = _costs(_reseeded(batches, seed), propose, no_decoder, prior, num, most)
    return replace(bounds, distortion_nats=None, elbo_nats=None, iwae_nats=None, ess_share=None)


def _reseeded(batches: Iterator[Tensor], seed: int) -> Iterator[Tensor]:
    """The same batches; torch's generator begins anew before each."""
    for batch in batches:
        torch.manual_seed(seed)
        yield batch


def _costs(
    batches: Iterator[Tensor],
    propose: Propose,
    log_likelihood: LogLikelihood,
    prior: Prior,
    num: int,
    most: int,
) -> Bounds:
    """Batches hold so few images that all draws of them are made at once, or are one image: equal noise for all."""
    density = None if prior.log_prob_is is Exactness.NONE else prior.log_prob
    return importance_bounds(batches, propose, log_likelihood, {"prior": density}, num, max_rows=most)["prior"]


def image_scores(bounds: Bounds, parts: ImageParts, found: Nearest | None) -> Scores:
    """What there is to say of images: a bound only where -log p(x|z) is a density or a mass."""
    log_prob_z = None if bounds.latent_nll_nats is None else -bounds.latent_nll_nats
    bound = None if bounds.iwae_nats is None else -bounds.iwae_nats
    unchanged = carries_unchanged(parts.vae)
    if unchanged:  # z is x
        bound = None if log_prob_z is None else log_prob_z.clone()  # safetensors keeps no tensor under two names
    return Scores(
        log_prob_bound_nats=bound if parts.kind.is_density else None,
        rate_nats=bounds.rate_nats,
        distortion_nats=None if unchanged else bounds.distortion_nats,
        log_prob_z_nats=log_prob_z,
        nearest=None if found is None else found.index,
        nearest_distance=None if found is None else found.distance,
    )


def latent_scores(bounds: Bounds, found: Nearest | None) -> Scores:
    """What there is to say of latents, of whose images nobody knows."""
    return Scores(
        rate_nats=bounds.rate_nats,
        log_prob_z_nats=None if bounds.latent_nll_nats is None else -bounds.latent_nll_nats,
        nearest=None if found is None else found.index,
        nearest_distance=None if found is None else found.distance,
    )


def bound_refusal(parts: Parts, scores: Scores) -> str | None:
    """Why there is no bound on log p(x), in words; None where there is one."""
    if scores.log_prob_bound_nats is not None:
        return None
    if not isinstance(parts, ImageParts):
        return "no bound on log p(x): there are no images"
    if not parts.kind.is_density:
        return f"no bound on log p(x): {parts.kind.note}"
    if scores.log_prob_z_nats is None:
        return "no bound on log p(x): the prior has no density"
    return "no bound on log p(x): q(z|x) are point masses"


def features_of(parts: ImageParts, net: Extractor, images: ImageSet) -> Tensor:
    """Of `images` without noise, [N, F], on the CPU."""
    return extract_features(net, clean_images(parts, images)).features.cpu()


def nearest_images(job: Job, features: Tensor, training: Tensor) -> Nearest | None:
    """The nearest training images; None where features are broken."""
    try:
        return nearest(*(one.to(job.device) if job.device.type == "cuda" else one for one in (features, training)))
    except EvaluationError:
        return None


def few_enough(train: LatentDataset, rows: Tensor) -> Tensor:
    """Of the rows [n] of test latents those that are looked up among the training latents, evenly spread."""
    if train.spec.support is Support.CODES:
        return rows[spread_rows(len(rows), num_looked_up(len(rows), len(train), train.spec.num_dims))]
    return rows[spread_rows(len(rows), max(FEWEST_LOOKED_UP, MOST_PAIRS // len(train)))]


def nearest_latents(job: Job, train: LatentDataset, latents: LatentDataset, rows: Tensor) -> Nearest | None:
    """The nearest training latents of the rows [n] of `latents`: by posterior means in units of the training latents'
    standard deviations, of codes by the share of places that differ; None where no dimension varies."""
    pieces = rows.split(max(1, SEARCHED_NUMBERS // min(train.spec.num_dims, MOST_DIMS)))
    if train.spec.support is Support.CODES:
        found = [
            Nearest(*nearest_sequence(latents.draw(piece), (posterior.sample() for posterior in train.blocks())))
            for piece in pieces
        ]
        return _end_to_end(found)
    try:
        with job.seeded(job.config.seeds.sample):
            vectors = LatentFeatures.of(draw_blocks(train, spread_rows(len(train), STANDARDISED_BY)))
        return _end_to_end([_nearest_vectors(job, train, latents, piece, vectors) for piece in pieces])
    except EvaluationError:
        return None


def _nearest_vectors(
    job: Job, train: LatentDataset, latents: LatentDataset, rows: Tensor, vectors: LatentFeatures
) -> Nearest:
    blocks = rows.split(max(1, MOST_NUMBERS // train.spec.num_dims))
    own = torch.cat([vectors.extract(latents.posterior(block).mean) for block in blocks]).to(job.device)
    least = torch.full((len(own),), torch.inf, dtype=torch.float64)
    index, start = torch.zeros(len(own), dtype=torch.int64), 0
    for posterior in train.blocks():
        found = nearest(own, vectors.extract(posterior.mean).to(job.device))
        index = torch.where(found.distance < least, start + found.index, index)
        least = torch.minimum(least, found.distance)
        start += len(posterior.mean)
    return Nearest(index, least)


def _end_to_end(found: Sequence[Nearest]) -> Nearest:
    return Nearest(torch.cat([piece.index for piece in found]), torch.cat([piece.distance for piece in found]))
