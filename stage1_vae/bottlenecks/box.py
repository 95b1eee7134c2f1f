"""Latents in the box [-1, 1]^D: q(z|x) is normal but for its walls, the prior uniform.

The other bounded prior beside the sphere: it has a boundary and independent dimensions. Why posteriors are cut normals
is in `stage1_vae.spaces.box`.
"""

import math

import torch
from torch import Tensor, nn

from stage1_vae.base_priors import UniformBox
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.spaces.box import TruncatedNormal


class Box(Bottleneck):
    """Modes by one linear map from the features, squashed into the box, and log standard deviations by another.

    Args:
        latent_dim: D.
        min_log_std, max_log_std: bounds of the deviations before the cut; the upper one is uniform but for 1e-6 nats.

    Raises:
        ValueError: for no dimension, or bounds in which float64 does not hold the entropy.
    """

    family = "truncated_normal"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        latent_dim: int,
        num_classes: int = 0,
        min_log_std: float = -8.0,
        max_log_std: float = 3.0,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"vae.bottleneck.latent_dim must be at least 1, got {latent_dim}")
        if not -12 <= min_log_std < max_log_std <= 6:
            raise ValueError(
                f"vae.bottleneck: min_log_std={min_log_std} and max_log_std={max_log_std} are out of what a box holds; "
                "give bounds from -12 to 6, the lower one first"
            )
        self.spec = LatentSpec((latent_dim,), Support.BOX, num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = UniformBox(latent_dim)
        self.min_log_std, self.max_log_std = min_log_std, max_log_std
        self.linear = nn.Linear(math.prod(features_shape), 2 * latent_dim)

    def forward(self, features: Tensor) -> Encoding:
        raw, log_std = self.linear(features.flatten(1)).float().chunk(2, dim=1)  # [B, D] each
        return Encoding(TruncatedNormal(torch.tanh(raw), torch.clamp(log_std, self.min_log_std, self.max_log_std)))
