"""Fully connected nets, for images of any shape."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from stage1_vae.net import Encoder, Net


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear maps with a ReLU after each, from sizes[0] to sizes[-1]."""
    blocks = [(nn.Linear(n, m), nn.ReLU()) for n, m in pairwise(sizes)]
    return nn.Sequential(*(module for block in blocks for module in block))


class MLPEncoder(Encoder):
    """Flattened image -> hidden layers; the features are the last one."""

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.features_shape = (hidden[-1],)
        self.layers = layers([math.prod(image_shape), *hidden])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))  # [B, hidden]


class MLPDecoder(nn.Module):
    """Hidden layers in the reverse order of the encoder, then one linear map to the image."""

    def __init__(
        self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int], hidden: Sequence[int]
    ) -> None:
        super().__init__()
        self.output_shape = output_shape
        self.layers = layers([math.prod(latent_shape), *reversed(hidden)])
        self.output = nn.Linear(hidden[0], math.prod(output_shape))

    def forward(self, z: Tensor) -> Tensor:
        h = self.layers(z.flatten(1))  # [B, hidden]
        return self.output(h).view(-1, *self.output_shape)  # [B, C, H, W]


class MLP(Net):
    """Args:
    hidden: sizes of the encoder's hidden layers; the decoder mirrors them.
    """

    def __init__(self, hidden: Sequence[int] = (512,)) -> None:
        if not hidden or min(hidden) < 1:
            raise ValueError(f"net.hidden needs at least one positive size, got {list(hidden)}")
        self.hidden = tuple(hidden)

    def encoder(self, image_shape: tuple[int, int, int]) -> MLPEncoder:
        return MLPEncoder(image_shape, self.hidden)

    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> MLPDecoder:
        return MLPDecoder(latent_shape, output_shape, self.hidden)
