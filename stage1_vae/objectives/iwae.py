"""The importance-weighted bound as a training objective.

With z_1..z_K ~ q(z|x) and w_k = p(x|z_k) p(z_k) / q(z_k|x), what is minimised is -log 1/K sum_k w_k, an upper bound on
-log p(x) that falls as K rises and is the -ELBO at K = 1 (Burda, Grosse & Salakhutdinov, "Importance Weighted
Autoencoders", 2016, eq. 8). Its gradient through reparameterised draws is sum_k w~_k grad log w_k with the normalised
weights w~ (eq. 14), which is what automatic differentiation of a log-sum-exp gives.

The more draws, the less of that gradient reaches the encoder above its noise (Rainforth et al., "Tighter Variational
Bounds are Not Necessarily Better", 2018). Two ways out, which leave the decoder's gradient as it is or trade it off:

- doubly reparameterised (Tucker, Lawson, Gu & Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo
  Objectives", 2019, equation 8): the encoder's is sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi), unbiased too. Here
  the densities q(z_k|x) are computed with the encoder held still, so that it is reached through z_k alone, and what
  comes back there is multiplied by w~_k once more.
- MIWAE (Rainforth et al., 2018, equation 8): the mean of M bounds of K draws each, looser than one of M K.

All draws of a batch are decoded as one batch of M K B rows. log w is in float32: sums over pixels have already been
taken in the likelihood, and the log-sum-exp subtracts the largest weight first.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import Objective, Terms
from stage1_vae.posteriors import DiagonalNormal
from stage1_vae.vae import VAE


class IWAE(Objective):
    """-log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) an image, nats; distortion and rate are means over the draws.

    Args:
        num_samples: K, draws of a bound; 1 is the ELBO without a closed-form rate.
        num_bounds: M, bounds of an image, whose mean is taken.
        doubly_reparameterised: how the encoder's gradient is taken.
    """

    needs_prior = True
    came_later: ClassVar[Mapping[str, Any]] = {"num_bounds": 1, "doubly_reparameterised": False}

    def __init__(self, num_samples: int = 5, num_bounds: int = 1, doubly_reparameterised: bool = False) -> None:
        super().__init__()
        for name, num in {"num_samples": num_samples, "num_bounds": num_bounds}.items():
            if num < 1:
                raise ValueError(f"vae.objective.{name} must be at least 1, got {num}")
        self.num_samples, self.num_bounds, self.doubly_reparameterised = num_samples, num_bounds, doubly_reparameterised

    def check(self, spec: LatentSpec) -> str | None:
        if spec.support is Support.CODES:
            return "codes carry no gradient through several draws of an image; use the ELBO, as vae=fsq does"
        if self.doubly_reparameterised and spec.support is not Support.REAL:
            return "bits have no gradient of their own; set vae.objective.doubly_reparameterised=false"
        return None

    def check_family(self, family: str) -> str | None:
        if self.doubly_reparameterised and family != "diagonal_normal":
            return (
                "the doubly reparameterised gradient is that of Gaussian posteriors; set "
                "vae.objective.doubly_reparameterised=false"
            )
        return None

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding = vae.encode(x)
        num, batch = self.num_bounds * self.num_samples, len(x)
        posterior, z = encoding.posterior, encoding.posterior.rsample(torch.Size([num]))  # [M K, B, *latent]
        flat = z.flatten(0, 1)  # [M K B, *latent]
        images = x.expand(num, *x.shape).flatten(0, 1)  # [M K B, C, H, W]
        if self.doubly_reparameterised:
            assert isinstance(posterior, DiagonalNormal)
            posterior = DiagonalNormal(posterior.loc.detach(), posterior.log_std.detach())
        log_likelihood = vae.decode(flat).log_prob(images).view(num, batch)  # [M K, B] nats
        log_ratio = posterior.log_prob(z) - self.prior_of(vae).log_prob(flat).view(num, batch)  # [M K, B] nats
        log_weight = (log_likelihood - log_ratio).view(self.num_bounds, self.num_samples, batch)
        if self.doubly_reparameterised and z.requires_grad:
            share = log_weight.detach().softmax(1).view(num, batch, *[1] * (z.ndim - 2))
            z.register_hook(lambda gradient: gradient * share)
        bound = (math.log(self.num_samples) - torch.logsumexp(log_weight, dim=1)).mean(0)  # [B] nats
        loss = bound if encoding.penalty is None else bound + encoding.penalty
        return Terms(loss=loss.mean(), distortion=-log_likelihood.mean(0), rate=log_ratio.mean(0))
