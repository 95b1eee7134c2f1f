"""What an evaluation is expected to take; see `expost.costs.foresight`."""

import torch

from expost.costs.foresight import DRAWN_AT_ONCE, Part, drawn, expected_seconds, lower
from expost.job import Run
from expost.measure.image_sets import SCATTERED, num_compared
from expost.parts.assembly import Parts
from expost.parts.decoding import block_size
from stage1_vae.latents import LatentDataset, Support
from stage1_vae.vae import VAE
from stage2_prior.held_out import affordable
from stage2_prior.prior import Exactness, Prior

SETS = 4
"""Of decoded images: baseline, aggregate, reconstructions, learned."""
KNOWN = 5_000


def evaluation_parts(run: Run, parts: Parts, vae: VAE, prior: Prior, train: LatentDataset) -> list[Part]:
    """Samples, bounds and annealing; all else is little beside them, but for training images by the million."""
    settings, data = run.config.evaluation, parts.data
    num, bounded = num_compared(data, settings.num_samples), min(settings.num_bound_images, len(data.test))
    draws = 1 if train.is_certain else settings.importance_samples
    block = block_size(data.shape)

    def decode(num: int) -> None:
        vae.decode(drawn(train, num, run)).mean.cpu()

    with torch.no_grad():
        an_image = expected_seconds(decode, block, bounded * draws + SETS * num) / (bounded * draws + SETS * num)
        samples = expected_seconds(prior.sample, DRAWN_AT_ONCE, num_drawn(run, parts, prior, train))
        density = 0.0
        taken_apart = 2 * affordable(min(len(data.test), settings.num_samples), prior)
        if prior.log_prob_is is not Exactness.NONE:
            rows = bounded * draws + taken_apart
            density = expected_seconds(lambda num: prior.log_prob(drawn(train, num, run)), DRAWN_AT_ONCE, rows) / rows
    found = [
        Part(
            samples + SETS * num * an_image + taken_apart * density,
            lower("evaluation.num_samples", settings.num_samples),
        ),
        Part(bounded * draws * (an_image + density), lower("evaluation.num_bound_images", settings.num_bound_images)),
    ]
    if (asked := settings.annealing) is not None:
        images = asked.num_images + 2 * asked.bdmc_images
        gradients = images * asked.num_chains * asked.num_steps * asked.leapfrog_steps
        of_one = 3 * (an_image + density)
        found.append(Part(2 * gradients * of_one, lower("evaluation.annealing.num_images", asked.num_images)))
    return found


def num_drawn(run: Run, parts: Parts, prior: Prior, train: LatentDataset) -> int:
    """Samples of the learned prior."""
    limit = run.config.evaluation.num_samples
    num = num_compared(parts.data, limit)
    total = max(num, min(SCATTERED, limit, len(train)))
    total += num if prior.num_classes else 0
    if train.spec.support is not Support.CODES:  # against those of test images
        held_out = min(limit, len(parts.data.test))
        total += held_out + (0 if train.is_certain else 3 * min(held_out, KNOWN))
    return total
