"""What two trained stages are asked for when they are judged: images in blocks, and features of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestration.assembly import Parts
from orchestration.sampling import block_size, pixel_range
from stage1_vae.latents import LatentDataset, LatentDensity
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior

PICTURED = 64


@dataclass(frozen=True)
class Trained:
    """Both stages and what they know of the images.

    Attributes:
        vae, prior: trained, in evaluation mode.
        baseline: N(0, I) on the same latents.
        train, test: their latents.
        parts: data and preprocessing.
    """

    vae: VAE
    prior: Prior
    baseline: Prior
    train: LatentDataset
    test: LatentDataset
    parts: Parts
    device: torch.device

    @torch.no_grad()
    def decoded(self, z: Tensor) -> Iterator[Tensor]:
        """Means of p(x|z), scaled to [0, 1], in blocks [b, C, H, W] on the CPU for z [N, *latent]."""
        low, high = pixel_range(self.parts.data)
        for block in z.split(block_size(self.parts.data.shape)):
            mean = self.vae.decode(block.to(self.device)).mean.cpu()
            yield ((mean - low) / (high - low)).clamp(0, 1)

    @torch.no_grad()
    def draw(self, prior: LatentDensity, num: int) -> Tensor:
        """z [num, *latent] from `prior`, on the CPU."""
        sizes = [min(1000, num - start) for start in range(0, num, 1000)]
        return torch.cat([prior.sample(size).cpu() for size in sizes])


@dataclass(frozen=True)
class Seen:
    """A set of images as the feature net saw it: features [N, 64], and its first few images [n, C, H, W]."""

    features: Tensor
    few: Tensor
