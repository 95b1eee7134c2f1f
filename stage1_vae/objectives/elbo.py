"""The evidence lower bound, with the knobs that people turn.

-ELBO = E_q[-log p(x|z)] + KL(q(z|x) || p(z)) (Kingma & Welling 2014, eq. 3), with a weight beta on the rate
(Higgins et al., "beta-VAE", 2017), a linear warm-up of that weight (Sonderby et al., "Ladder VAE", 2016), which may
come again and again (Fu et al., "Cyclical Annealing Schedule", 2019, eq. 6), and free bits, a floor under each latent
dimension's batch-mean rate (Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016,
eq. 15).

What weight collapses a code depends on how many pixels stand against how many dimensions. Where losses are means over
pixels and over dimensions, their weight is beta_norm = beta M / N, of M latent dimensions and N numbers of an image
(Higgins et al., 2017, section 4.2); so beta = beta_norm N / M, where the sums are what they are here.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import SCHEDULES_DONE, Objective, Terms
from stage1_vae.rate import rate_nats, rate_per_dim_nats
from stage1_vae.vae import VAE


class ELBO(Objective):
    """Negative beta-ELBO, one posterior sample per image: distortion + beta * rate.

    Args:
        beta: weight of the rate; 1 is the bound.
        beta_norm: the same where both terms are means over their numbers; takes the place of beta; None: beta holds.
        warmup_steps: optimiser steps over which the weight rises from 0 to beta; 0: none.
        cycle_steps: optimiser steps after which it rises again from 0; 0: it rises once.
        free_nats: floor under each dimension's rate, averaged over the batch, in nats; 0: none. Needs a closed form.
    """

    needs_prior = True
    came_later: ClassVar[Mapping[str, Any]] = {"beta_norm": None, "cycle_steps": 0}

    def __init__(
        self,
        beta: float = 1.0,
        warmup_steps: int = 0,
        free_nats: float = 0.0,
        beta_norm: float | None = None,
        cycle_steps: int = 0,
    ) -> None:
        super().__init__()
        amounts = {"beta": beta, "warmup_steps": warmup_steps, "free_nats": free_nats, "cycle_steps": cycle_steps}
        for name, value in (amounts | ({} if beta_norm is None else {"beta_norm": beta_norm})).items():
            if value < 0:
                raise ValueError(f"vae.objective.{name} must not be negative, got {value}")
        if beta_norm is not None and beta != 1:
            raise ValueError(f"vae.objective.beta={beta} and beta_norm={beta_norm} are two weights; give one of them")
        if cycle_steps and cycle_steps <= warmup_steps:
            raise ValueError(
                f"vae.objective.cycle_steps={cycle_steps} must be more than warmup_steps={warmup_steps}, so that the "
                "whole weight is reached"
            )
        self.beta, self.beta_norm, self.free_nats = beta, beta_norm, free_nats
        self.warmup_steps, self.cycle_steps = warmup_steps, cycle_steps

    def check(self, spec: LatentSpec) -> str | None:
        if self.free_nats and spec.support is Support.CODES:
            return "codes have no rate a dimension to keep above a floor; set vae.objective.free_nats=0"
        return None

    def check_family(self, family: str) -> str | None:
        if self.free_nats and family == "draws":
            return "this posterior has no rate a dimension in closed form; set vae.objective.free_nats=0"
        return None

    def check_learned(self, spec: LatentSpec) -> str | None:
        if self.free_nats:
            return "a prior that is learned with the VAE has no rate a dimension; set vae.objective.free_nats=0"
        return None

    def full_weight(self, vae: VAE) -> float:
        """The rate's weight when nothing warms up any more."""
        return self.beta if self.beta_norm is None else self.beta_norm * math.prod(vae.image_shape) / vae.spec.num_dims

    def words(self, vae: VAE) -> str | None:
        beta, dims, pixels = self.full_weight(vae), vae.spec.num_dims, math.prod(vae.image_shape)
        if beta == 1:
            return None
        normed = f"{beta * dims / pixels:.3g} as beta_norm ({dims} latent dimensions, {pixels:,} numbers of an image)"
        return f"the rate counts {beta:.3g} times in nats, which is {normed}; only at 1 is the loss a bound"

    def weight(self, step: int | Tensor, full: float) -> float | Tensor:
        """The rate's weight at an optimiser step; `full`: when nothing warms up any more."""
        if not self.warmup_steps or (isinstance(step, int) and step >= SCHEDULES_DONE):
            return full
        share = ((step % self.cycle_steps if self.cycle_steps else step) + 1) / self.warmup_steps
        return full * (share.clamp(max=1.0) if isinstance(share, Tensor) else min(1.0, share))

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        rate = rate_nats(encoding.posterior, self.prior_of(vae), z)  # [B] nats, closed form where there is one
        paid = self._with_free_nats(encoding.posterior, vae) if self.free_nats else rate.mean()
        weight = self.weight(step, self.full_weight(vae))
        loss = distortion.mean() + (weight * paid if isinstance(weight, Tensor) or weight != 1 else paid)
        if encoding.penalty is not None:
            loss = loss + encoding.penalty.mean()
        return Terms(loss=loss, distortion=distortion, rate=rate)

    def _with_free_nats(self, posterior: torch.distributions.Distribution, vae: VAE) -> Tensor:
        per_dim = rate_per_dim_nats(posterior, self.prior_of(vae))
        if per_dim is None:
            raise ValueError("vae.objective.free_nats needs a closed-form rate; set vae.objective.free_nats=0")
        return per_dim.flatten(1).mean(0).clamp_min(self.free_nats).sum()
