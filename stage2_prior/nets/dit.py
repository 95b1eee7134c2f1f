"""A transformer over the patches of a map that is told a time and a label (Peebles & Xie, "Scalable Diffusion Models
with Transformers", 2023).

A map is cut into square patches, one token each; a side that they do not divide is filled up with zeros. Positions are
fixed sines and cosines of row and column. In every block time and label scale and shift what both parts see, and
scale what they add (adaLN, section 3.2). The paper starts these last scales at zero, so that every block is the
identity; here they start near it, so that every parameter learns from the first step.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.fitting import PriorError
from stage2_prior.nets.embedding import TimeEmbedding, spread

NEAR_ZERO = 0.02
"""Standard deviation of the weights that the paper starts at zero."""


def modulate(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Tokens [B, T, W], normalised, and what time and label make of them, [B, W] each."""
    return F.layer_norm(h, h.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and a perceptron of two layers, each between a norm and a scale that time and label give."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.normal_(self.modulation.weight, std=NEAR_ZERO)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift, amount, mlp_scale, mlp_shift, mlp_amount = self.modulation(embedding).chunk(6, dim=1)
        split = self.qkv(modulate(h, scale, shift)).unflatten(2, (3, self.num_heads, -1))  # [B, T, 3, H, d]
        mixed = F.scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4))
        h = h + amount[:, None] * self.output(mixed.transpose(1, 2).flatten(2))
        mlp = self.down(F.gelu(self.up(modulate(h, mlp_scale, mlp_shift)), approximate="tanh"))
        return h + mlp_amount[:, None] * mlp


class DiT(nn.Module):
    """x [B, C, h, w], times [T] and labels [B] or none -> [B, C, h, w]; see `TimeEmbedding`.

    Args:
        shape: (C, h, w).
        num_labels: different labels; 0: none.
        width: of a token, a multiple of 4.
        depth: blocks.
        patch: rows and columns of a token.

    Raises:
        PriorError: the width is no multiple of 4.
    """

    def __init__(
        self, shape: tuple[int, int, int], num_labels: int, width: int = 256, depth: int = 6, patch: int = 2
    ) -> None:
        super().__init__()
        if width % 4:
            raise PriorError(f"prior.width={width}: of dit, give a multiple of 4")
        channels, self.height, self.size = shape
        self.patch, self.channels = patch, channels
        self.grid = (-(-self.height // patch), -(-self.size // patch))
        self.numbers = 4 * width * math.prod(self.grid)  # of a hidden layer, a row
        self.embedding = TimeEmbedding(width, num_labels)
        self.first = nn.Linear(channels * patch**2, width)
        self.register_buffer("positions", positions(self.grid, width), persistent=False)  # [T, W]
        num_heads = next(heads for heads in (width // 64, 4, 2, 1) if heads and width % heads == 0)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.modulation, self.last = nn.Linear(width, 2 * width), nn.Linear(width, channels * patch**2)
        nn.init.normal_(self.modulation.weight, std=NEAR_ZERO)
        nn.init.zeros_(self.modulation.bias)
        nn.init.normal_(self.last.weight, std=1e-2 / width**0.5)
        nn.init.zeros_(self.last.bias)

    positions: Tensor

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        (rows, columns), p = self.grid, self.patch
        x = F.pad(x, (0, columns * p - self.size, 0, rows * p - self.height))
        tokens = x.view(-1, self.channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        h, embedding = self.first(tokens) + self.positions, spread(self.embedding(time, labels), len(x))
        for block in self.blocks:
            h = block(h, embedding)
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        patches = self.last(modulate(h, scale, shift)).view(-1, rows, columns, self.channels, p, p)
        whole = patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, rows * p, columns * p)
        return whole[:, :, : self.height, : self.size]


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """[T, W]: a quarter each sines and cosines of the row, and of the column."""
    frequencies = 100.0 ** -(torch.arange(width // 4) / (width // 4))  # maps are tens of places wide
    rows, columns = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).view(-1, 2).T
    angles = [rows[:, None] * frequencies, columns[:, None] * frequencies]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
