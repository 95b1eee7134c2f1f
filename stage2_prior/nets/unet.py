"""A small U-Net over maps that is told a time and a label: convolutions down to a few places and up again.

Residual blocks of two convolutions, each behind a group norm, with time and label scaling and shifting between them
(Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021, section 3, after Ho, Jain & Abbeel, 2020);
attention over all places at the coarsest resolution. Each halving of the map takes the larger half of an odd side, and
on the way up a map is brought to the size of the one that it is joined with: any size works, one place included, which
has no coarser resolution.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.nets.embedding import TimeEmbedding, spread

COARSEST = 4
"""Rows or columns below which a map is not halved again."""
GROUP = 16
"""Channels of a group of the norms."""


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP) if channels % GROUP == 0 else 1, channels)


class Block(nn.Module):
    """[B, in, h, w] and an embedding [B, E] -> [B, out, h, w]."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = norm(channels_in), norm(channels_out)
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)  # a block starts near the identity

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norm_in(x)))
        h = self.second(F.silu(self.norm_out(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """Every place of a map [B, C, h, w] looks at every other; what it finds is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.heads = norm(channels), max(1, channels // 64)
        self.qkv, self.output = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        with torch.no_grad():
            self.output.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, T, C]
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, d] each
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.output(mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class UNet(nn.Module):
    """x [B, C, h, w], times [T] and labels [B] or none -> [B, C, h, w]; see `TimeEmbedding`.

    Args:
        shape: (C, h, w).
        num_labels: different labels; 0: none.
        width: channels at the finest resolution, coarser ones have twice as many; None: 64, or 32 where a map has fewer
            numbers than that.
        depth: blocks a resolution, on either way.
    """

    def __init__(self, shape: tuple[int, int, int], num_labels: int, width: int | None = None, depth: int = 2) -> None:
        super().__init__()
        channels, height, size = shape
        width = (64 if channels * height * size >= 64 else 32) if width is None else width
        self.numbers = width * height * size  # of a hidden layer, a row
        halvings = max(0, math.floor(math.log2(min(height, size) / COARSEST)))
        widths = [width] + [2 * width] * halvings
        self.embedding = TimeEmbedding(4 * width, num_labels)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for here, following in zip(widths, [*widths[1:], None], strict=True):
            self.down.append(nn.ModuleList(Block(here, here, 4 * width) for _ in range(depth)))
            if following is not None:
                self.shrink.append(nn.Conv2d(here, following, 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(following, here, 3, padding=1))
            self.up.append(nn.ModuleList(Block(2 * here if i == 0 else here, here, 4 * width) for i in range(depth)))
        self.attention = Attention(widths[-1])
        self.norm, self.last = norm(width), nn.Conv2d(width, channels, 3, padding=1)
        for name, parameter in self.last.named_parameters():
            nn.init.normal_(parameter, std=1e-2 / width**0.5 if name == "weight" else 0.0)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        embedding = spread(self.embedding(time, labels), len(x))
        h = self.first(x)
        finer: list[Tensor] = []
        for level, blocks in enumerate(stages_of(self.down)):
            h = self.shrink[level - 1](h) if level else h
            for block in blocks:
                h = block(h, embedding)
            finer.append(h)
        h, up = self.attention(h), stages_of(self.up)
        for level in reversed(range(len(self.up))):
            h = torch.cat([h, finer[level]], dim=1)
            for block in up[level]:
                h = block(h, embedding)
            if level:
                h = self.grow[level - 1](enlarged(h, finer[level - 1]))
        return self.last(F.silu(self.norm(h)))


def stages_of(lists: nn.ModuleList) -> list[nn.ModuleList]:
    """The blocks of each resolution."""
    return [blocks for blocks in lists if isinstance(blocks, nn.ModuleList)]


def enlarged(h: Tensor, like: Tensor) -> Tensor:
    """`h` [B, C, h, w] with every place there four times, cut to the size of `like`."""
    doubled = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return doubled[:, :, : like.shape[2], : like.shape[3]]
