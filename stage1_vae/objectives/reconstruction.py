"""Distortion alone, with the penalty that keeps a deterministic latent space small.

RAE-L2 (Ghosh et al., "From Variational to Deterministic Autoencoders", 2020, eq. 8): reconstruction + |z|^2 / 2; its
decoder penalty is the optimiser's weight decay.
"""

from torch import Tensor

from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.objective import Objective, Terms
from stage1_vae.vae import VAE


class Reconstruction(Objective):
    """distortion + latent_penalty * |z|^2 / 2.

    Args:
        latent_penalty: weight of half the squared norm of z; 0: none.
    """

    needs_prior = False

    def __init__(self, latent_penalty: float = 0.0) -> None:
        super().__init__()
        if latent_penalty < 0:
            raise ValueError(f"vae.objective.latent_penalty must not be negative, got {latent_penalty}")
        self.latent_penalty = latent_penalty

    def check(self, spec: LatentSpec) -> str | None:
        if self.latent_penalty and spec.support is Support.CODES:
            return "numbers of codes have no size to keep small; set vae.objective.latent_penalty=0"
        return None

    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms:
        encoding, z, image = vae(x)
        distortion = -image.log_prob(x)  # [B] nats
        half_square = 0.5 * z.square().flatten(1).sum(1)  # [B]
        loss = distortion + self.latent_penalty * half_square
        if encoding.penalty is not None:
            loss = loss + encoding.penalty
        return Terms(loss=loss.mean(), distortion=distortion, rate=None, extras={"half_square": half_square.mean()})
