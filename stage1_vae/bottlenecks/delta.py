"""No noise at all: the bottleneck of a plain autoencoder (Ghosh et al., "From Variational to Deterministic
Autoencoders", 2020)."""

import math

from torch import Tensor, nn

from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.spec import LatentSpec
from stage1_vae.posteriors import Delta as DeltaPosterior


class Delta(Bottleneck):
    """q(z|x) = a point mass at one linear map of the features. It has no prior, so no rate and no ELBO.

    Args:
        latent_dim: D.
    """

    family = "delta"

    def __init__(self, features_shape: tuple[int, ...], latent_dim: int, num_classes: int = 0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"vae.bottleneck.latent_dim must be at least 1, got {latent_dim}")
        self.spec = LatentSpec(shape=(latent_dim,), num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = None
        self.linear = nn.Linear(math.prod(features_shape), latent_dim)

    def forward(self, features: Tensor) -> Encoding:
        return Encoding(DeltaPosterior(self.linear(features.flatten(1)).float()))
