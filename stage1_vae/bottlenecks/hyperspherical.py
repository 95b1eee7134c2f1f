"""Latents on the unit sphere of R^D: q(z|x) is power spherical, the prior uniform (De Cao & Aziz, "The Power Spherical
distribution", 2020; of von Mises-Fisher posteriors, whose samplers lose the gradient, Davidson et al., "Hyperspherical
Variational Auto-Encoders", 2018).

A uniform prior on a sphere has no centre that posteriors are drawn to, so that clusters need not crowd there; what the
rate pays for is the concentration alone. The sphere of R^D has D - 1 dimensions.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.base_priors import UniformSphere
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.spaces.sphere import LARGEST_CONCENTRATION, PowerSpherical

LEAST_LOG_CONCENTRATION = -8.0
"""Where q(z|x) is the uniform density but for 1e-7 nats."""


class Hyperspherical(Bottleneck):
    """Mean direction and log-concentration by one linear map from the features.

    Training begins about a concentration of D - 1, where the mean cosine is 1/2.

    Args:
        latent_dim: D, the numbers of z.
        max_concentration: what the concentration rises towards and does not pass.

    Raises:
        ValueError: fewer than two numbers, or concentrations that float32 does not hold.
    """

    family = "power_spherical"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        latent_dim: int,
        num_classes: int = 0,
        max_concentration: float = 1e5,
    ) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"vae.bottleneck.latent_dim must be at least 2 on a sphere, got {latent_dim}")
        if not 1 <= max_concentration <= LARGEST_CONCENTRATION:
            raise ValueError(
                f"vae.bottleneck.max_concentration={max_concentration:g} is out of what float32 holds: give a number "
                f"from 1 to {LARGEST_CONCENTRATION:g}"
            )
        self.spec = LatentSpec((latent_dim,), Support.SPHERE, num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = UniformSphere(latent_dim)
        self.latent_dim = latent_dim
        self.start, self.ceiling = math.log(latent_dim - 1), math.log(max_concentration)
        self.linear = nn.Linear(math.prod(features_shape), latent_dim + 1)

    def forward(self, features: Tensor) -> Encoding:
        direction, raw = self.linear(features.flatten(1)).float().split([self.latent_dim, 1], dim=1)
        raw = self.start + raw.squeeze(1)  # [B]
        log_concentration = self.ceiling - F.softplus(self.ceiling - raw)  # bends below the ceiling, and is raw far off
        bounded = log_concentration.clamp_min(LEAST_LOG_CONCENTRATION)
        return Encoding(PowerSpherical(F.normalize(direction, dim=1), bounded))
