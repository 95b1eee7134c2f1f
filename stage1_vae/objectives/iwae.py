"""The importance-weighted bound as a training objective.

With z_1..z_K ~ q(z|x) and w_k = p(x|z_k) p(z_k) / q(z_k|x), what is minimised is -log 1/K sum_k w_k, an upper bound on
-log p(x) that falls as K rises and is the -ELBO at K = 1 (Burda, Grosse & Salakhutdinov, "Importance Weighted
Autoencoders", 2016, eq. 8). Its gradient through reparameterised draws is sum_k w~_k grad log w_k with the normalised
weights w~ (eq. 14), which is what automatic differentiation of a log-sum-exp gives.

All K draws of a batch are decoded as one batch of K B rows. log w is in float32: sums over pixels have already been
taken in the likelihood, and the log-sum-exp subtracts the largest weight first.
"""

import math

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import Objective, Terms
from stage1_vae.vae import VAE


class IWAE(Objective):
    """-log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) an image, nats; distortion and rate are means over the K draws.

    Args:
        num_samples: K, draws of an image; 1 is the ELBO without a closed-form rate.
    """

    needs_prior = True

    def __init__(self, num_samples: int = 5) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"vae.objective.num_samples must be at least 1, got {num_samples}")
        self.num_samples = num_samples

    def check(self, spec: LatentSpec) -> str | None:
        if spec.support is Support.CODES:
            return "codes carry no gradient through several draws of an image; use the ELBO, as vae=fsq does"
        return None

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding = vae.encode(x)
        num, batch = self.num_samples, len(x)
        z = encoding.posterior.rsample(torch.Size([num]))  # [K, B, *latent]
        flat = z.flatten(0, 1)  # [K B, *latent]
        images = x.expand(num, *x.shape).flatten(0, 1)  # [K B, C, H, W]
        log_likelihood = vae.decode(flat).log_prob(images).view(num, batch)  # [K, B] nats
        log_ratio = encoding.posterior.log_prob(z) - self.prior_of(vae).log_prob(flat).view(num, batch)  # [K, B] nats
        bound = math.log(num) - torch.logsumexp(log_likelihood - log_ratio, dim=0)  # [B] nats
        loss = bound if encoding.penalty is None else bound + encoding.penalty
        return Terms(loss=loss.mean(), distortion=-log_likelihood.mean(0), rate=log_ratio.mean(0))
