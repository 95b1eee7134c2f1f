"""The Wasserstein autoencoder: distortion, and how far the aggregate of a batch is from N(0, I) as a whole.

Where the ELBO pulls each q(z|x) towards N(0, I), this pulls their mixture alone, by the maximum mean discrepancy
(Tolstikhin, Bousquet, Gelly & Schoelkopf, "Wasserstein Auto-Encoders", 2018, equation 4 and algorithm 2). It bounds no
likelihood. Posteriors may be points.
"""

import torch
from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.mmd import mmd_squared
from stage1_vae.objective import Objective, Terms
from stage1_vae.rate import rate_nats
from stage1_vae.vae import VAE


class WAE(Objective):
    """distortion + weight * MMD^2(z of the batch, as many draws of N(0, I)).

    Args:
        weight: of the discrepancy, which is of the order of 1, against nats an image.
    """

    needs_prior = False

    def __init__(self, weight: float = 300.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"vae.objective.weight must not be negative, got {weight}")
        self.weight = weight

    def check(self, spec: LatentSpec) -> str | None:
        if spec.support is not Support.REAL:
            return f"WAE compares real numbers with N(0, I), and these latents are {spec.support.value}; use vae=fsq"
        return None

    def words(self, vae: VAE) -> str | None:
        return "no rate is paid for: the loss bounds no likelihood"

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        flat = z.flatten(1)
        discrepancy = mmd_squared(flat, torch.randn_like(flat)) if len(x) > 1 else flat.new_zeros(())
        rate = None if vae.base_prior is None else rate_nats(encoding.posterior, vae.base_prior, z)
        return Terms(distortion.mean() + self.weight * discrepancy, distortion, rate, {"mmd": discrepancy})
