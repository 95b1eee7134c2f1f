"""What the rest of the house knows of stage 1: images -> q(z|x), z -> p(x|z), whoever has trained it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from stage1_vae.bottleneck import Encoding
from stage1_vae.latents.spec import LatentDensity, LatentSpec
from stage1_vae.likelihoods import Likelihood


class Autoencoder(nn.Module, ABC):
    """Encoder, decoder and likelihood; all of its state that is ours to keep is in its `state_dict`.

    Attributes:
        image_shape: (C, H, W).
        likelihood: turns the decoder's output into p(x|z).
    """

    image_shape: tuple[int, int, int]
    likelihood: Likelihood

    @property
    @abstractmethod
    def spec(self) -> LatentSpec:
        """What one latent event is."""

    @property
    @abstractmethod
    def family(self) -> str:
        """Of its posteriors: a key of `stage1_vae.latents.dataset.FAMILIES`."""

    @property
    @abstractmethod
    def base_prior(self) -> LatentDensity | None:
        """What it was trained against, unless it has learned a prior of its own; None: nothing (a plain autoencoder),
        or nobody knows."""

    @property
    def device(self) -> torch.device:
        """Where it computes; the CPU, of one that has nothing to move."""
        values = (value.device for value in (*self.parameters(), *self.buffers()))
        return next(values, torch.device("cpu"))

    @property
    def trained_against(self) -> LatentDensity:
        """The same of an autoencoder that has one.

        Raises:
            ValueError: it has none.
        """
        if self.base_prior is None:
            raise ValueError("this autoencoder is trained against no prior")
        return self.base_prior

    @abstractmethod
    def encode(self, x: Tensor) -> Encoding:
        """x [B, C, H, W] -> q(z|x), batch [B]."""

    @abstractmethod
    def embed(self, z: Tensor) -> Tensor:
        """What the decoder is given of latents z [B, *latent]: of codes, their vectors."""

    @abstractmethod
    def decode_embedded(self, h: Tensor) -> Distribution:
        """p(x|z), batch [B], event (C, H, W), from what the decoder is given of a latent. In float32."""

    def decode(self, z: Tensor) -> Distribution:
        """z [B, *latent] -> p(x|z), batch [B], event (C, H, W). In float32, whatever the net computed in."""
        return self.decode_embedded(self.embed(z))
