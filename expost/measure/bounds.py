"""Bounds on log p(x) of test images under both priors, from the same proposals."""

import math

import torch
from torch import Tensor

from expost.evaluation import bounds
from expost.job import Run
from expost.measure.subject import Trained
from expost.parts.decoding import block_size
from expost.training.progress import bar
from stage1_vae.base_priors import FairBits, StandardNormal
from stage1_vae.data.images import subset
from stage1_vae.rate import rate_nats
from stage2_prior.prior import Exactness

MAX_BOUND_PIXELS = 2**23
"""Decoded at once for the bounds: a dozen float32 copies of so many pixels are about 400 MB."""


def measured_bounds(trained: Trained, run: Run) -> dict[str, bounds.Bounds]:
    """Bounds on the test images under the baseline, the floors and the learned prior, from the same proposals."""
    settings = run.config.evaluation
    vae, images = trained.vae, subset(trained.parts.data.test, settings.num_bound_images)
    block = block_size(trained.parts.data.shape)
    max_rows = max(1, min(8192, MAX_BOUND_PIXELS // math.prod(trained.parts.data.shape)))
    batches = trained.parts.batches(images, min(settings.batch_size, block))
    x_batches = (x for x, _ in bar("bounds", run.shows_progress, batches))

    def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
        posterior = vae.encode(x).posterior
        z = posterior.rsample(torch.Size([n]))  # [n, B, *latent]
        return z, None if trained.test.is_point_mass else posterior.log_prob(z)

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        image = vae.decode(z.flatten(0, 1))
        return image.log_prob(x.repeat(len(z), 1, 1, 1)).view(z.shape[:2])

    def closed_form(x: Tensor) -> Tensor:
        posterior = vae.encode(x).posterior
        return rate_nats(posterior, vae.base_prior, posterior.mean)

    priors = {"baseline": trained.baseline, **{row: floor.prior for row, floor in trained.floors.items()}}
    densities = {
        key: prior.log_prob if prior.log_prob_is is not Exactness.NONE else None
        for key, prior in (priors | {"learned": trained.prior}).items()
    }
    # then stage 1 was trained against the baseline itself
    exact = type(vae.bottleneck.base_prior) in (StandardNormal, FairBits)
    rates = {"baseline": closed_form} if exact and not trained.test.is_point_mass else {}
    num = 1 if trained.test.is_certain else settings.importance_samples
    return bounds.importance_bounds(x_batches, propose, log_likelihood, densities, num, rates, max_rows)
