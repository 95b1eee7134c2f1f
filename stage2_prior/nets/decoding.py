"""A causal transformer one token at a time: weights laid out for few rows, and a cache of keys and values.

A step at position t computes one token and looks at t + 1 of them; the whole sequence costs one forward pass in
products, and no more memory traffic than reading the weights T times. What is left is the price of small kernels, and
of reading keys and values. Weights are transposed once (products of one to sixteen rows take two thirds of the time),
and the scale of the scores is part of the queries' weights. The keys of a head of a sequence lie one behind the other,
and so do its values: where those of one position lay together, which a product could write in place, each head's were
half a megabyte apart, and products over 49 of 512 sequences took three times as long on a processor with AVX2. torch's
attention over them takes longer still, as it is written for many queries at once. Layers have a block of memory each:
one for all is so large that its pages are handed back and taken anew for each batch.
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
        self.layers = [Layer(block, cache) for block, cache in zip(net.layers(), net.new_cache(batch), strict=True)]

    def step(self, h: Tensor, t: int) -> Tensor:
        """The output of position `t` for its input `h` [B, W], once all before it have been through: [B, W]."""
        h = h + self.positions[t]
        for layer in self.layers:
            h = layer.step(h, t)
        return torch.layer_norm(h, *self.norm)


class Layer:
    """One block, and what it has seen: `cache` [2, B, heads, T, d], keys and values."""

    def __init__(self, block: Block, cache: Tensor) -> None:
        _, batch, heads, _, head_width = cache.shape
        width = heads * head_width
        self.rotation = block.rotation
        self.attention_norm, self.mlp_norm = _norm_of(block.attention_norm), _norm_of(block.mlp_norm)
        self.cache = cache
        keys, self.values = cache.flatten(1, 2)  # [B H, T, d] each
        self.keys = keys.transpose(1, 2)  # [B H, d, T]
        self.split, self.queries = (batch, 3, heads, head_width), (batch * heads, 1, head_width)
        scale = torch.ones_like(block.qkv.bias)
        scale[:width] = 1 / math.sqrt(head_width)  # of scores
        self.qkv: Weights = (block.qkv.weight.T * scale).contiguous(), block.qkv.bias * scale
        self.output, self.up, self.down = (
            (linear.weight.T.contiguous(), linear.bias) for linear in (block.output, block.up, block.down)
        )

    def step(self, h: Tensor, t: int) -> Tensor:
        """[B, W] of the token at `t` -> [B, W]; its key and value join the others."""
        qkv = _affine(torch.layer_norm(h, *self.attention_norm), self.qkv).view(self.split)
        q = qkv.select(1, 0).reshape(self.queries)  # [B H, 1, d]
        new = qkv.narrow(1, 1, 2).transpose(0, 1)  # [2, B, heads, d]
        if self.rotation is not None:
            at = slice(t, t + 1)
            q, key = self.rotation(q, at), self.rotation(new[0, :, :, None], at)[:, :, 0]
            new = torch.stack([key, new[1]])
        self.cache.select(3, t).copy_(new)
        scores = torch.bmm(q, self.keys.narrow(2, 0, t + 1))  # [B H, 1, t + 1]
        weights = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        h = h + _affine(torch.bmm(weights, self.values.narrow(1, 0, t + 1)).view_as(h), self.output)
        x = torch.layer_norm(h, *self.mlp_norm)
        return h + _affine(F.gelu(_affine(x, self.up)), self.down)


def _norm_of(norm: nn.LayerNorm) -> tuple[Any, ...]:
    """What `torch.layer_norm` takes behind its input: looking it up in a module costs a tenth of a step of one row."""
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps


def _affine(x: Tensor, weights: Weights) -> Tensor:
    """x [B, n] times the matrix, plus the bias: [B, m]."""
    matrix, bias = weights
    return torch.addmm(bias, x, matrix)
