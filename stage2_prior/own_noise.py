"""Random numbers that a latent brings with it: the same each time that its density is asked for, whatever stands beside
it, and others for every other latent.

An estimate of log p(z) needs noise. If all latents shared it, so would their errors, and a mean over thousands would be
no surer than one of them; if it came from a generator, a latent would have another density each time. So it is made of
the latent: one number c = a . z, in float64, whose products with U large constants b are taken modulo 1. Latents that
differ by 0.01 are turned by many rounds. A mean over latents then has the standard error that their spread says.
"""

import torch
from torch import Tensor, nn

SLOWEST, FASTEST = 1e3, 1e5
"""Rounds that a latent is turned by where c grows by 1; in float64 ten digits are left."""


class OwnNoise(nn.Module):
    """z [B, *shape] -> [B, U] numbers in [0, 1), float64, without a gradient.

    Args:
        dims: numbers of a latent.
        num: U.
    """

    direction: Tensor
    turns: Tensor

    def __init__(self, dims: int, num: int) -> None:
        super().__init__()
        with torch.device("cpu"):
            generator = torch.Generator().manual_seed(0)
            direction = torch.randn(dims, dtype=torch.float64, generator=generator)
            turns = torch.empty(num, dtype=torch.float64).uniform_(SLOWEST, FASTEST, generator=generator)
        device = torch.empty(()).device  # where modules are made, which may be `meta`
        self.register_buffer("direction", direction.to(device))  # [D]
        self.register_buffer("turns", turns.to(device))  # [U]

    def forward(self, z: Tensor) -> Tensor:
        number = (z.detach().flatten(1).double() * self.direction).sum(1, keepdim=True)  # [B, 1]
        return (number * self.turns).remainder(1.0)
