"""Binary latents: q(z|x) is a product of Bernoulli distributions, z in {0, 1}^D. Draws are hard bits with the gradient
of their probability (Bengio, Leonard & Courville, "Estimating or Propagating Gradients Through Stochastic Neurons",
2013); the rate is the closed-form KL to fair bits.
"""

import math

from torch import Tensor, nn

from stage1_vae.base_priors import FairBits
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.spec import LatentSpec, Support
from stage1_vae.posteriors import Bits

MAX_LOGIT = 15.0
"""Bound that keeps a probability in float32 away from 0 and 1."""


class Bernoulli(Bottleneck):
    """Args:
    latent_dim: D, bits.

    Raises:
        ValueError: for less than one bit.
    """

    family = "bits"

    def __init__(self, features_shape: tuple[int, ...], latent_dim: int = 64, num_classes: int = 0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"vae.bottleneck.latent_dim must be at least 1, got {latent_dim}")
        self.spec = LatentSpec((latent_dim,), Support.BITS, num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = FairBits(latent_dim)
        self.linear = nn.Linear(math.prod(features_shape), latent_dim)

    def forward(self, features: Tensor) -> Encoding:
        return Encoding(Bits(self.linear(features.flatten(1)).float().clamp(-MAX_LOGIT, MAX_LOGIT)))

    def embed(self, z: Tensor) -> Tensor:
        return 2 * z.float() - 1
