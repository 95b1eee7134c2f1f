"""Fully connected nets, for images of any shape."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from stage1_vae.net import Encoder, Net

Activation = Literal["relu", "tanh", "gated"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gated": nn.GLU}


def layers(sizes: Sequence[int], activation: Activation = "relu") -> nn.Sequential:
    """Linear maps with an activation after each, from sizes[0] to sizes[-1].

    `gated`: as many numbers again, whose sigmoid multiplies them (Dauphin et al., "Language Modeling with Gated
    Convolutional Networks", 2017, eq. 1).
    """
    width = 2 if activation == "gated" else 1
    blocks = [(nn.Linear(n, width * m), ACTIVATIONS[activation]()) for n, m in pairwise(sizes)]
    return nn.Sequential(*(module for block in blocks for module in block))


class MLPEncoder(Encoder):
    """Flattened image -> hidden layers; the features are the last one."""

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int], activation: Activation) -> None:
        super().__init__()
        sizes = [math.prod(image_shape), *hidden]
        self.features_shape = (sizes[-1],)
        self.layers = layers(sizes, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))  # [B, hidden]


class MLPDecoder(nn.Module):
    """Hidden layers in the reverse order of the encoder, then one linear map to the image."""

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        output_shape: tuple[int, int, int],
        hidden: Sequence[int],
        activation: Activation,
    ) -> None:
        super().__init__()
        self.output_shape = output_shape
        sizes = [math.prod(latent_shape), *reversed(hidden)]
        self.layers = layers(sizes, activation)
        self.output = nn.Linear(sizes[-1], math.prod(output_shape))

    def forward(self, z: Tensor) -> Tensor:
        h = self.layers(z.flatten(1))  # [B, hidden]
        return self.output(h).view(-1, *self.output_shape)  # [B, C, H, W]


class MLP(Net):
    """Args:
    hidden: sizes of the encoder's hidden layers; the decoder mirrors them. [] makes linear maps of both.
    activation: after each hidden layer.
    """

    def __init__(self, hidden: Sequence[int] = (512,), activation: Activation = "relu") -> None:
        if min(hidden, default=1) < 1:
            raise ValueError(f"net.hidden={list(hidden)}: sizes are at least 1; [] makes linear maps")
        if activation not in ACTIVATIONS:
            raise ValueError(f"net.activation={activation}: choices: {', '.join(ACTIVATIONS)}")
        self.hidden, self.activation = tuple(hidden), activation

    def encoder(self, image_shape: tuple[int, int, int]) -> MLPEncoder:
        return MLPEncoder(image_shape, self.hidden, self.activation)

    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> MLPDecoder:
        return MLPDecoder(latent_shape, output_shape, self.hidden, self.activation)
