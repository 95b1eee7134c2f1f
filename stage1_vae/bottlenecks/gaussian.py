"""Diagonal Gaussian posterior (Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, eq. 9)."""

import math

import torch
from torch import Tensor, nn

from stage1_vae.base_priors import StandardNormal
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.maps import map_shape
from stage1_vae.latents.spec import LatentSpec
from stage1_vae.posteriors import DiagonalNormal


class Gaussian(Bottleneck):
    """q(z|x) = N(loc(h), diag(exp(log_std(h)))^2) with one linear map from the features h.

    Args:
        latent_dim: D.
        min_log_std, max_log_std: bounds that keep exp() finite, far outside of what training visits.
    """

    family = "diagonal_normal"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        latent_dim: int,
        num_classes: int = 0,
        min_log_std: float = -8.0,
        max_log_std: float = 5.0,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"vae.bottleneck.latent_dim must be at least 1, got {latent_dim}")
        self.spec = LatentSpec(shape=(latent_dim,), num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = StandardNormal(self.spec.shape)
        self.min_log_std, self.max_log_std = min_log_std, max_log_std
        self.linear = nn.Linear(math.prod(features_shape), 2 * latent_dim)

    def forward(self, features: Tensor) -> Encoding:
        loc, log_std = self.linear(features.flatten(1)).float().chunk(2, dim=1)  # [B, D] each, float32 from here on
        return Encoding(DiagonalNormal(loc, torch.clamp(log_std, self.min_log_std, self.max_log_std)))


class GaussianMap(Bottleneck):
    """The same over maps, by one linear map a place, as encoders of latent diffusion have it (Rombach et al.,
    "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, section 3.1).

    Args:
        channels: C of latents [C, h, w], as high and wide as the features.
        min_log_std, max_log_std: as of `Gaussian`.

    Raises:
        ValueError: for no channel, or features that are no map.
    """

    family = "diagonal_normal"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        channels: int,
        num_classes: int = 0,
        min_log_std: float = -8.0,
        max_log_std: float = 5.0,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"vae.bottleneck.channels must be at least 1, got {channels}")
        features, grid = map_shape(features_shape)
        self.spec = LatentSpec(shape=(channels, *grid), num_classes=num_classes)
        self.decoder_shape = self.spec.shape
        self.base_prior = StandardNormal(self.spec.shape)
        self.min_log_std, self.max_log_std = min_log_std, max_log_std
        self.linear = nn.Conv2d(features, 2 * channels, kernel_size=1)

    def forward(self, features: Tensor) -> Encoding:
        loc, log_std = self.linear(features).float().chunk(2, dim=1)  # [B, C, h, w] each
        return Encoding(DiagonalNormal(loc, torch.clamp(log_std, self.min_log_std, self.max_log_std)))
