"""Features are the latents: with `net=identity`, the images themselves: stage 2 on known densities."""

import math

from torch import Tensor

from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents.spec import LatentSpec
from stage1_vae.posteriors import Delta as DeltaPosterior


class Identity(Bottleneck):
    """q(z|x) = a point mass at the flattened features. It has no prior and no parameters."""

    family = "delta"

    def __init__(self, features_shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        self.spec = LatentSpec(shape=(math.prod(features_shape),), num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = None

    def forward(self, features: Tensor) -> Encoding:
        return Encoding(DeltaPosterior(features.flatten(1).float()))
