"""What the tests look at in a set of latents: its parameters as tensors, and an epoch of draws with their labels."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset


def means(latents: LatentDataset) -> Tensor:
    """E[z|x_i] for all i, [N, *shape]."""
    return torch.from_numpy(np.array(latents.params["loc"]))


def log_stds(latents: LatentDataset) -> Tensor:
    """Logarithms of the standard deviations for all i, [N, *shape]."""
    return torch.from_numpy(np.array(latents.params["log_std"]))


def drawn_epoch(
    latents: LatentDataset, size: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One epoch of fresh draws in random order: pairs of z [size, *shape] and labels [size] or None."""
    for rows, posterior in latents.epoch(size, generator):
        yield posterior.sample(), None if latents.labels is None else latents.labels[rows]
