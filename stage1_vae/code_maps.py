"""Maps of feature vectors and the sequences of codes that stand for them."""

import math

import torch
from torch import Tensor

from stage1_vae.base_priors import UniformCodes
from stage1_vae.latents import LatentSpec, Support


def map_shape(features_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, h, w) of the encoder's features.

    Raises:
        ValueError: they are no map.
    """
    if len(features_shape) != 3:
        raise ValueError("codes stand for the places of a map and this net makes none; use net=conv or net=resnet")
    channels, height, width = features_shape
    return channels, height, width


def to_vectors(features: Tensor) -> Tensor:
    """[B, C, h, w] -> [B h w, C]."""
    return features.movedim(1, -1).flatten(0, -2)


def to_map(vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B h w, C] -> [B, C, h, w]."""
    return vectors.view(-1, *grid, vectors.shape[-1]).movedim(-1, 1)


def code_spec(grids: tuple[tuple[int, int], ...], num_codes: tuple[int, ...], num_classes: int) -> LatentSpec:
    """Latents that are maps of codes laid end to end, coarse first."""
    length = sum(math.prod(grid) for grid in grids)
    return LatentSpec((length,), Support.CODES, grids, num_codes, num_classes)


def uniform_codes(spec: LatentSpec) -> UniformCodes:
    """The base prior of codes of `spec`."""
    lengths = torch.tensor([math.prod(grid) for grid in spec.grids])
    return UniformCodes(torch.repeat_interleave(torch.tensor(spec.num_codes), lengths))
