"""What two trained stages are asked for when they are judged: latents, and images in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestration.assembly import Parts
from orchestration.sampling import block_size, pixel_range
from stage1_vae.data.images import ImageSet
from stage1_vae.latents import LatentDataset, LatentDensity
from stage1_vae.vae import VAE
from stage2_prior.prior import Prior


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

    def draw_aggregate(self, num: int) -> Tensor:
        """z [num, *latent] from the aggregate posterior of the training images, on the CPU."""
        return self.train.draw(torch.randint(len(self.train), (num,)))


def cleaned(parts: Parts, images: ImageSet) -> Iterator[Tensor]:
    """Intensities without noise or binarisation in blocks [b, C, H, W] on the CPU; real ones scaled to [0, 1]."""
    low, high = pixel_range(parts.data)
    for index in torch.arange(len(images)).split(block_size(parts.data.shape)):
        x = parts.preprocess.clean(images.batch(index)).cpu()
        yield ((x - low) / (high - low)).clamp(0, 1)  # as decoded ones are
