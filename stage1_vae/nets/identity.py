"""No net at all: pixels are features, and latents are pixels."""

import math

from torch import Tensor, nn

from stage1_vae.net import Encoder, Net


class Flatten(Encoder):
    """[B, C, H, W] -> [B, C * H * W], the same numbers."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.features_shape = (math.prod(image_shape),)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)  # [B, C * H * W]


class Identity(Net):
    """Carries images through unchanged."""

    def encoder(self, image_shape: tuple[int, int, int]) -> Flatten:
        return Flatten(image_shape)

    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> nn.Module:
        """Latents as they are.

        Raises:
            ValueError: the likelihood reads another number of values than a latent has.
        """
        if math.prod(latent_shape) != math.prod(output_shape):
            raise ValueError(
                f"net=identity turns {math.prod(latent_shape)} latents into as many numbers and the likelihood reads "
                f"{math.prod(output_shape)}; use vae=identity with likelihood=gaussian, or another net"
            )
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, output_shape))  # [B, C, H, W]
