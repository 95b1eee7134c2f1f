"""A causal transformer one token at a time: weights laid out for few rows, and a cache that products write into.

A step at position t computes one token and looks at t + 1 of them; the whole sequence costs one forward pass in
products, and no more memory traffic than reading the weights T times. What is left is the price of small kernels, and
three things lower it: weights are transposed once (products of one to sixteen rows take two thirds of the time), the
scale of the scores is part of the queries' weights, and keys and values stay where their product writes them. They lie
by position, since then the keys of all sequences at one position are read in one go: products over them take two
thirds of the time of torch's attention over keys that lie by sequence, which is written for many queries at once.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.nets.transformer import Block, Transformer

Weights = tuple[Tensor, Tensor]
"""A matrix [n, m] and a bias [m]."""


class Decoder:
    """One token at a time of `batch` sequences; the weights of `net` as they are now, without dropout. To be used, and
    made, where no gradient is taken.

    Args:
        net: a causal one.
        batch: B.
    """

    def __init__(self, net: Transformer, batch: int) -> None:
        self.norm = _norm_of(net.norm)
        self.positions = net.position(net.row)  # [T, W]
        self.cache = net.new_cache(batch)  # [layers, T, B, heads, 2, d]
        self.layers = [Layer(block, keys) for block, keys in zip(net.layers(), self.cache, strict=True)]

    def step(self, h: Tensor, t: int) -> Tensor:
        """The output of position `t` for its input `h` [B, W], once all before it have been through: [B, W]."""
        h = h + self.positions[t]
        for layer in self.layers:
            h = layer.step(h, t)
        return torch.layer_norm(h, *self.norm)


class Layer:
    """One block, and what it has seen: `cache` [T, B, heads, 2, d], keys and values."""

    def __init__(self, block: Block, cache: Tensor) -> None:
        num_positions, batch, heads, _, head_width = cache.shape
        width = heads * head_width
        self.rotation = block.rotation
        self.attention_norm, self.mlp_norm = _norm_of(block.attention_norm), _norm_of(block.mlp_norm)
        self.heads = (batch * heads, head_width)
        self.rows = cache.view(num_positions, batch, 2 * width)
        self.pairs = cache.view(num_positions, batch * heads, 2, head_width).transpose(0, 1)  # [B H, T, 2, d]
        weight, bias = block.qkv.weight, block.qkv.bias
        scale = 1 / math.sqrt(head_width)
        self.query: Weights = (scale * weight[:width]).T.contiguous(), scale * bias[:width]
        by_head = (2, heads, head_width)  # key and value of a head side by side, as they are kept
        self.key_value: Weights = (
            weight[width:].T.unflatten(1, by_head).transpose(1, 2).reshape(width, -1),
            bias[width:].view(by_head).transpose(0, 1).flatten(),
        )
        self.output, self.up, self.down = (
            (linear.weight.T.contiguous(), linear.bias) for linear in (block.output, block.up, block.down)
        )

    def step(self, h: Tensor, t: int) -> Tensor:
        """[B, W] of the token at `t` -> [B, W]; its key and value join the others."""
        x = torch.layer_norm(h, *self.attention_norm)
        q = _affine(x, self.query).view(*self.heads)
        matrix, bias = self.key_value
        torch.addmm(bias, x, matrix, out=self.rows[t])
        if self.rotation is not None:
            at = slice(t, t + 1)
            q = self.rotation(q[:, None], at)[:, 0]
            self.pairs[:, at, 0] = self.rotation(self.pairs[:, at, 0], at)
        keys, values = self.pairs[:, : t + 1].unbind(2)  # [B H, t + 1, d] each
        scores = torch.bmm(q[:, None], keys.transpose(1, 2))  # [B H, 1, t + 1]
        weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        h = h + _affine(torch.bmm(weights, values).view_as(h), self.output)
        x = torch.layer_norm(h, *self.mlp_norm)
        return h + _affine(F.gelu(_affine(x, self.up)), self.down)


def _norm_of(norm: nn.LayerNorm) -> tuple[Any, ...]:
    """What `torch.layer_norm` takes behind its input: looking it up in a module costs a tenth of a step of one row."""
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps


def _affine(x: Tensor, weights: Weights) -> Tensor:
    """x [B, n] times the matrix, plus the bias: [B, m]."""
    matrix, bias = weights
    return torch.addmm(bias, x, matrix)
