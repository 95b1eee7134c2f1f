"""A decoder-only transformer over a short sequence; or, without the mask in its attention, a network in which every
output depends on every input. `stage2_prior.nets.decoding` takes the former one token at a time.

Blocks are pre-norm (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020): h + attention(norm
h), h + mlp(norm h). Position t is that of the token to be *predicted*; its input holds the token before. Positions are
learned, one vector a position, or rotary in two dimensions: half of each head turns with the row, half with the column
of the map (Su et al., "RoFormer", 2021; the split over two axes as Heo et al., "Rotary Position Embedding for Vision
Transformer", 2024). Maps laid end to end share rows and columns, scaled to the finest, and tell themselves apart by a
learned vector each.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from stage2_prior.fitting import PriorError
from stage2_prior.nets.dropout import drop

ROTARY_BASE = 100.0
"""Angles turn by 1 down to 1/100 of a radian a cell: maps are tens of cells wide, not thousands as texts are."""
SHORT = 100
"""Tokens up to which torch's attention in blocks is slower on a CPU than plain products: a training step over 16 tokens
took it 147 ms against 102, over 81 tokens 248 against 167, over 144 tokens 182 against 197."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a sequence lie: maps laid end to end, (h, w) each; a plain sequence is one map (1, T)."""

    grids: tuple[tuple[int, int], ...]

    @property
    def num_tokens(self) -> int:
        return sum(h * w for h, w in self.grids)

    @property
    def grid_of(self) -> Tensor:
        """Number of the map that each token belongs to, int64 [T]."""
        lengths = torch.tensor([h * w for h, w in self.grids])
        return torch.repeat_interleave(torch.arange(len(self.grids)), lengths, output_size=self.num_tokens)

    @property
    def coordinates(self) -> Tensor:
        """Row and column of each token in units of the finest map, [T, 2]: centres of coarse cells lie between."""
        height, width = max(h for h, _ in self.grids), max(w for _, w in self.grids)
        parts = []
        for h, w in self.grids:
            rows = (torch.arange(h) + 0.5) * height / h - 0.5
            columns = (torch.arange(w) + 0.5) * width / w - 0.5
            parts.append(torch.cartesian_prod(rows, columns).view(-1, 2))
        return torch.cat(parts)


def attended(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """Attention, [B, H, T, d] each and back."""
    short = q.device.type == "cpu" and q.shape[2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


class Rotation(nn.Module):
    """Turns queries and keys [B, H, T, d] by angles of their positions; `coordinates` [T, 2]; d a multiple of 4."""

    cos: Tensor
    sin: Tensor

    def __init__(self, coordinates: Tensor, head_width: int) -> None:
        super().__init__()
        if head_width % 4:
            raise PriorError(f"prior: rotary positions need heads of a multiple of 4, not {head_width}")
        num = head_width // 4  # angles an axis
        frequencies = ROTARY_BASE ** -(torch.arange(num) / num)  # [d / 4]
        angles = (coordinates[:, :, None] * frequencies).flatten(1)  # [T, d / 2]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, h: Tensor, at: slice) -> Tensor:
        one, other = h.chunk(2, dim=-1)  # [B, H, t, d / 2]
        cos, sin = self.cos[at].to(h.dtype), self.sin[at].to(h.dtype)
        return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


class Block(nn.Module):
    """One layer: attention and a two-layer perceptron, each behind a norm and added to what came in."""

    def __init__(
        self, width: int, num_heads: int, dropout: float, rotation: Rotation | None, causal: bool = True
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.rotation, self.causal = num_heads, dropout, rotation, causal
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        p = self.dropout if self.training else 0.0
        mixed = attended(*self._heads(h), self.causal)
        h = h + drop(self.output(mixed.transpose(1, 2).flatten(2)), p)
        return h + drop(self._mlp(h), p)  # [B, T, W]

    def _heads(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the first tokens, `h` [B, t, W]: [B, H, t, d] each."""
        at = slice(h.shape[1])
        split = self.qkv(self.attention_norm(h)).unflatten(2, (3, self.num_heads, -1))  # [B, t, 3, H, d]
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        return (q, k, v) if self.rotation is None else (self.rotation(q, at), self.rotation(k, at), v)

    def _mlp(self, h: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.mlp_norm(h))))


class Transformer(nn.Module):
    """Inputs [B, T, W], or the first of them, -> as many outputs; output t depends on inputs 0 ... t alone, or on all.

    Args:
        layout: where the tokens lie.
        width: W.
        depth: number of blocks.
        num_heads: attention heads a block.
        dropout: share of what is added to the residual stream that is set to zero in training. None in attention, where
            drawing it takes a fifth of a step.
        positions: learned or rotary.
        causal: whether an output depends on no input behind it; without, there are no single steps.

    Raises:
        PriorError: for numbers that do not fit together.
    """

    row: Tensor

    def __init__(
        self,
        layout: Layout,
        width: int,
        depth: int,
        num_heads: int,
        dropout: float = 0.0,
        positions: str = "learned",
        causal: bool = True,
    ) -> None:
        super().__init__()
        if min(width, depth, num_heads) < 1:
            raise PriorError(f"prior: width={width}, depth={depth}, num_heads={num_heads}: give at least 1 of each")
        if width % num_heads:
            raise PriorError(
                f"prior: a width of {width} cannot be split over {num_heads} heads; give a multiple of {num_heads}"
            )
        if positions not in ("learned", "rotary"):
            raise PriorError(f"prior: positions={positions} is unknown; choose learned or rotary")
        self.num_heads = num_heads
        rotary = positions == "rotary"
        rotation = Rotation(layout.coordinates, width // num_heads) if rotary else None
        self.register_buffer("row", layout.grid_of if rotary else torch.arange(layout.num_tokens), persistent=False)
        self.position = nn.Embedding(len(layout.grids) if rotary else layout.num_tokens, width)
        self.dropout = dropout
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout, rotation, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self._initialise(depth)

    @torch.no_grad()
    def _initialise(self, depth: int) -> None:
        """Small normal weights; what is added to the residual stream is scaled down by the number of additions
        (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                scale = math.sqrt(2 * depth) if name.endswith(("output.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def layers(self) -> Iterator[Block]:
        return (block for block in self.blocks if isinstance(block, Block))

    def forward(self, h: Tensor) -> Tensor:
        p = self.dropout if self.training else 0.0
        h = drop(h + self.position(self.row[: h.shape[1]]), p)  # [B, T, W]
        for block in self.layers():
            h = block(h)
        return self.norm(h)

    def new_cache(self, batch: int) -> list[Tensor]:
        """Room for keys and values of `batch` sequences, [2, B, heads, T, head width] a layer, like the weights."""
        weight = self.position.weight
        shape = (2, batch, self.num_heads, len(self.row), weight.shape[1] // self.num_heads)
        return [weight.new_empty(shape) for _ in self.blocks]
