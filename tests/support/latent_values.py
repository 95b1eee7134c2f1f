"""What the tests look at in a set of latents, its parameters as tensors, and an epoch of draws with their labels; sets
on a sphere and in a box."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, PowerSpherical, Support


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


def on_sphere(num: int, dims: int, seed: int, concentration: float = 300.0, num_classes: int = 0) -> LatentDataset:
    """Narrow posteriors whose means are of three wide ones: half, a third and a sixth of them; labels say which."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modes, log_concentrations = sphere_modes(dims)
        which = torch.multinomial(torch.tensor([3.0, 2.0, 1.0]), num, replacement=True)
        loc = PowerSpherical(modes[which], log_concentrations[which]).sample()
    params = {"loc": loc.numpy(), "log_concentration": torch.full((num,), concentration).log().numpy()}
    spec = LatentSpec((dims,), Support.SPHERE, num_classes=num_classes)
    return LatentDataset(spec, "power_spherical", params, which if num_classes else None)


def sphere_modes(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean directions [3, D] and log-concentrations [3]."""
    generator = torch.Generator().manual_seed(dims)
    modes = torch.nn.functional.normalize(torch.randn(3, dims, generator=generator), dim=1)
    return modes, torch.tensor([5.0, 20.0, 60.0]).log()


def in_box(num: int, dims: int, seed: int) -> LatentDataset:
    """Modes about two places, some of them at a wall."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(2, (num, 1), generator=generator).float()
    loc = (1.5 * side - 0.5 + 0.3 * torch.randn(num, dims, generator=generator)).clamp(-1, 1)
    log_std = torch.full((num, dims), -2.0)
    params = {"loc": loc.numpy(), "log_std": log_std.numpy()}
    return LatentDataset(LatentSpec((dims,), Support.BOX), "truncated_normal", params)
