"""Posteriors on a sphere and in a box, clustered, for tests."""

import torch

from stage1_vae.latents import LatentDataset, LatentSpec, PowerSpherical, Support


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
