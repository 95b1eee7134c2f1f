"""The evidence lower bound, with the three knobs that people turn.

-ELBO = E_q[-log p(x|z)] + KL(q(z|x) || p(z)) (Kingma & Welling 2014, eq. 3), with a weight beta on the rate
(Higgins et al., "beta-VAE", 2017), a linear warm-up of that weight (Sonderby et al., "Ladder VAE", 2016) and free bits,
a floor under each latent dimension's batch-mean rate (Kingma et al., "Improved Variational Inference with Inverse
Autoregressive Flow", 2016, eq. 15).
"""

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import Objective, Terms
from stage1_vae.rate import rate_nats, rate_per_dim_nats
from stage1_vae.vae import VAE


class ELBO(Objective):
    """Negative beta-ELBO, one posterior sample per image: distortion + beta * rate.

    Args:
        beta: weight of the rate; 1 is the bound.
        warmup_steps: optimiser steps over which the weight rises from 0 to beta; 0: none.
        free_nats: floor under each dimension's rate, averaged over the batch, in nats; 0: none. Needs a closed form.
    """

    needs_prior = True

    def __init__(self, beta: float = 1.0, warmup_steps: int = 0, free_nats: float = 0.0) -> None:
        super().__init__()
        for name, value in {"beta": beta, "warmup_steps": warmup_steps, "free_nats": free_nats}.items():
            if value < 0:
                raise ValueError(f"vae.objective.{name} must not be negative, got {value}")
        self.beta, self.warmup_steps, self.free_nats = beta, warmup_steps, free_nats

    def check(self, spec: LatentSpec) -> str | None:
        if self.free_nats and spec.support is Support.CODES:
            return "codes have no rate a dimension to keep above a floor; set vae.objective.free_nats=0"
        return None

    def check_learned(self, spec: LatentSpec) -> str | None:
        if self.free_nats:
            return "a prior that is learned with the VAE has no rate a dimension; set vae.objective.free_nats=0"
        return None

    def weight(self, step: int | Tensor) -> float | Tensor:
        """The rate's weight at an optimiser step."""
        if not self.warmup_steps:
            return self.beta
        share = (step + 1) / self.warmup_steps
        return self.beta * (share.clamp(max=1.0) if isinstance(share, Tensor) else min(1.0, share))

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        rate = rate_nats(encoding.posterior, self.prior_of(vae), z)  # [B] nats, closed form where there is one
        paid = self._with_free_nats(encoding.posterior, vae) if self.free_nats else rate.mean()
        loss = distortion.mean() + self.weight(step) * paid
        if encoding.penalty is not None:
            loss = loss + encoding.penalty.mean()
        return Terms(loss=loss, distortion=distortion, rate=rate)

    def _with_free_nats(self, posterior: torch.distributions.Distribution, vae: VAE) -> Tensor:
        per_dim = rate_per_dim_nats(posterior, self.prior_of(vae))
        if per_dim is None:
            raise ValueError("vae.objective.free_nats needs a closed-form rate; set vae.objective.free_nats=0")
        return per_dim.flatten(1).mean(0).clamp_min(self.free_nats).sum()
