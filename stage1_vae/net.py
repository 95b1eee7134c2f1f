"""Encoder and decoder pairs: shapes in, shapes out, no probabilities inside."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Images [B, C, H, W] -> features [B, *features_shape]."""

    features_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Net(ABC):
    """A recipe for a pair; its constructor holds the sizes that a user chooses, and the data decide the rest."""

    version: ClassVar[int] = 1

    @abstractmethod
    def encoder(self, image_shape: tuple[int, int, int]) -> Encoder:
        """An encoder of images of `image_shape` (C, H, W)."""

    @abstractmethod
    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> nn.Module:
        """A decoder of latents [B, *latent_shape] into [B, *output_shape]."""
