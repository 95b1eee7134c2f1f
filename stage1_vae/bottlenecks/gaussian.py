"""Diagonal Gaussian posterior (Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, eq. 9)."""

import math

import torch
from torch import Tensor, nn

from stage1_vae.base_priors import StandardNormal
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.maps import map_shape
from stage1_vae.latents.spec import LatentSpec
from stage1_vae.posteriors import DiagonalNormal
from stage1_vae.ranks import ranks_here
from stage1_vae.statistics import BatchStatistics

SMALLEST_VARIANCE = 1e-12
"""Of a dimension that is the same for all images, and without width."""


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


class AbsorbedGaussian(Gaussian, BatchStatistics):
    """Gaussian, in coordinates in which q(z) has mean 0 and variance 1.

    By the law of total variance q(z) = mean of q(z|x_i) has the mean E[loc] and, in each dimension, the variance
    E[std^2] + Var[loc]. To train against the Gaussian of these moments, or to absorb them into the layers on both
    sides, which are linear (the encoder's last gives (loc - m) / s, the decoder's first takes m + s z), is the same
    model in two coordinates; here they are absorbed, so that N(0, I) stays the prior. `vae=learned_gaussian` has them
    as parameters.

    Args:
        latent_dim, min_log_std, max_log_std: as of `Gaussian`.
        decay: of the running moments, a step.

    Raises:
        ValueError: a decay that is no share.
    """

    follows_batches = True
    statistics = ("mean", "variance")
    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        features_shape: tuple[int, ...],
        latent_dim: int,
        num_classes: int = 0,
        decay: float = 0.99,
        min_log_std: float = -8.0,
        max_log_std: float = 5.0,
    ) -> None:
        super().__init__(features_shape, latent_dim, num_classes, min_log_std, max_log_std)
        if not 0 <= decay < 1:
            raise ValueError(f"vae.bottleneck.decay={decay}: give a share from 0 to below 1")
        self.decay = decay
        self.register_buffer("mean", torch.zeros(self.spec.shape))  # [D] m
        self.register_buffer("variance", torch.ones(self.spec.shape))  # [D] s^2

    def forward(self, features: Tensor) -> Encoding:
        loc, log_std = self.linear(features.flatten(1)).float().chunk(2, dim=1)  # [B, D] each
        if self.training:
            self._follow(loc.detach(), log_std.detach())
        log_std = torch.clamp(log_std - 0.5 * self.variance.log(), self.min_log_std, self.max_log_std)
        return Encoding(DiagonalNormal((loc - self.mean) * self.variance.rsqrt(), log_std))

    @torch.no_grad()
    def _follow(self, loc: Tensor, log_std: Tensor) -> None:
        """Move the moments towards those of a batch, of all ranks together."""
        log_std = torch.clamp(log_std, self.min_log_std, self.max_log_std)
        second = loc.square() + torch.exp(2 * log_std)
        ones = torch.ones_like(loc)
        sums = ranks_here().sum(torch.stack([loc.sum(0), second.sum(0), ones.sum(0)]))  # [3, D]
        mean, square = sums[0] / sums[2], sums[1] / sums[2]
        # Of the moments, the second one is averaged about zero: the variance between batches is part of the whole.
        whole = torch.lerp(self.variance + self.mean.square(), square, 1 - self.decay)
        self.mean.lerp_(mean, 1 - self.decay)
        self.variance.copy_((whole - self.mean.square()).clamp_min(SMALLEST_VARIANCE))

    def embed(self, z: Tensor) -> Tensor:
        return self.mean + self.variance.sqrt() * z


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
