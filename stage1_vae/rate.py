"""What a posterior costs under a prior.

The rate of an image is KL(q(z|x) || p(z)) in nats: in closed form where the pair of families has one registered
(Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, appendix B), else log q(z|x) - log p(z) at the given z,
which is an unbiased estimate of it.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.base_priors import FairBits, StandardNormal, UniformBox, UniformCodes, UniformSphere
from stage1_vae.latents.spec import LatentDensity
from stage1_vae.posteriors import Bits, CategoricalCodes, DiagonalNormal
from stage1_vae.spaces.box import TruncatedNormal
from stage1_vae.spaces.sphere import PowerSpherical, log_area


def _kl_to_standard_normal(posterior: DiagonalNormal, prior: StandardNormal) -> Tensor:
    return 0.5 * (posterior.loc.square() + torch.exp(2 * posterior.log_std) - 1) - posterior.log_std


def _kl_to_fair_bits(posterior: Bits, prior: FairBits) -> Tensor:
    probability = posterior.logits.sigmoid()
    return probability * posterior.logits - F.softplus(posterior.logits) + math.log(2)


def _kl_to_uniform_codes(posterior: CategoricalCodes, prior: UniformCodes) -> Tensor:
    negative_entropy = (posterior.log_probs.exp() * posterior.log_probs).sum(-1)  # [B, T]
    return negative_entropy + prior.sizes.log()


def _kl_to_uniform_sphere(posterior: PowerSpherical, prior: UniformSphere) -> Tensor:
    nats = log_area(prior.num_dims) - posterior.entropy()
    return nats.to(posterior.loc.dtype)[:, None]


def _kl_to_uniform_box(posterior: TruncatedNormal, prior: UniformBox) -> Tensor:
    return (math.log(2) - posterior.entropy_per_dim()).to(posterior.loc.dtype)


CLOSED_FORM_KL: dict[tuple[type, type], Callable[..., Tensor]] = {
    (DiagonalNormal, StandardNormal): _kl_to_standard_normal,
    (Bits, FairBits): _kl_to_fair_bits,
    (CategoricalCodes, UniformCodes): _kl_to_uniform_codes,
    (PowerSpherical, UniformSphere): _kl_to_uniform_sphere,
    (TruncatedNormal, UniformBox): _kl_to_uniform_box,
}
"""Pairs whose KL is known per latent dimension, [B, *event] nats; on the sphere, of all of them together, [B, 1]."""


def rate_per_dim_nats(posterior: Distribution, prior: LatentDensity) -> Tensor | None:
    """KL(q(z|x) || p(z)) per latent dimension, [B, *event] nats, or None where the pair has no closed form."""
    closed_form = CLOSED_FORM_KL.get((type(posterior), type(prior)))
    return None if closed_form is None else closed_form(posterior, prior)


def rate_nats(posterior: Distribution, prior: LatentDensity, z: Tensor) -> Tensor:
    """KL(q(z|x) || p(z)) of each image, [B] nats: exact where closed, else a one-sample estimate at `z` [B, *event]."""
    per_dim = rate_per_dim_nats(posterior, prior)
    if per_dim is not None:
        return per_dim.flatten(1).sum(1)
    return posterior.log_prob(z) - prior.log_prob(z)
