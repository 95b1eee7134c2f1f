"""Maps of feature vectors and the sequences of codes that stand for them."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.latents.numbers import MOST_CODES
from stage1_vae.latents.spec import LatentSpec, Support


def map_shape(features_shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Channels and (h, w) of the encoder's features.

    Raises:
        ValueError: they are no map.
    """
    if len(features_shape) != 3:
        raise ValueError(
            "these latents stand for the places of a map and this net makes none; use net=map, net=conv or net=resnet"
        )
    channels, height, width = features_shape
    return channels, (height, width)


def to_vectors(features: Tensor) -> Tensor:
    """[B, C, h, w] -> [B h w, C]."""
    return features.movedim(1, -1).flatten(0, -2)


def to_map(vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B h w, C] -> [B, C, h, w]."""
    return vectors.view(-1, *grid, vectors.shape[-1]).movedim(-1, 1)


class Projection(nn.Module):
    """Features [B, C, h, w] -> vectors [B h w, D] to be quantised, float32: a convolution, and each number standardised
    over the batch.

    What is quantised must not drift away from its codes: the encoder's features change their scale many times over in
    the first hundred steps, and a codebook that cannot follow ends with the few codes that happen to lie outermost
    (Lancucki et al., "Robust Training of Vector Quantized Bottleneck Models", 2020, section III). There is no scale
    and shift behind it that could undo it.
    """

    def __init__(self, channels: int, dim: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm1d(dim, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        h = to_vectors(self.conv(features).float())  # [B h w, D]
        if len(h) > 1:
            return self.norm(h)
        return F.batch_norm(h, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)  # one has no variance


def code_spec(grids: tuple[tuple[int, int], ...], num_codes: tuple[int, ...], num_classes: int) -> LatentSpec:
    """Latents that are maps of codes laid end to end, coarse first.

    Raises:
        ValueError: a codebook of one code, or of more than 16 bits can tell apart.
    """
    if min(num_codes) < 2 or max(num_codes) > MOST_CODES:
        wrong = min(num_codes) if min(num_codes) < 2 else max(num_codes)
        raise ValueError(
            f"vae.bottleneck: a codebook of {wrong:,} codes; codes are stored in 16 bits, so give 2 to {MOST_CODES:,}"
        )
    length = sum(math.prod(grid) for grid in grids)
    return LatentSpec((length,), Support.CODES, grids, num_codes, num_classes)
