"""A masked network whose output for dimension d depends on the dimensions before d alone.

Every hidden unit has a degree m and sees the first m inputs; connections that would look further are masked (Germain,
Gregor, Murray & Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", 2015, equations 12-13). Here units
are sorted by degree, so that each mask is block-triangular, and equally wide layers are joined by pre-activation
residual connections (He et al., "Identity Mappings in Deep Residual Networks", 2016), which keep the degrees.

Sampling takes D passes, but a unit of degree m never changes once the first m inputs are known. So pass m computes only
the units of degree m, from finished ones, and the D passes together cost less than one ordinary forward pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_vae.nets.masked import MaskedLinear, spread_degrees
from stage2_prior.nets.dropout import Dropout

FIRST_GAIN = 4.0
"""Aggregate posteriors have structure at the width of one posterior, a tenth of the whole: units must bend as sharply.
On an MNIST VAE it is worth 0.2 nats over a gain of 1 for the same number of steps."""

LABEL_GAIN = 8.0
"""The first dimension knows its class by these numbers alone, which move by no more than a learning rate a step:
without a gain one draw in ten was still of the wrong class after 470 steps."""


class MADE(nn.Module):
    """Autoregressive network, [B, D] -> [B, D, P]: row d of the output depends on the inputs before d.

    Args:
        num_dims: D.
        hidden: widths of the hidden layers, at least one; equal neighbours get a residual connection.
        num_outputs: P, numbers a dimension.
        dropout: share of hidden activations set to zero in training.
        num_labels: different labels, each with a bias of its own in the first layer and in the head; 0: none.

    Raises:
        ValueError: without a hidden layer.
    """

    def __init__(
        self, num_dims: int, hidden: tuple[int, ...], num_outputs: int, dropout: float = 0.0, num_labels: int = 0
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden={tuple(hidden)}: give the width of at least one layer, each at least 1")
        self.num_dims, self.num_outputs = num_dims, num_outputs
        self.degrees = [torch.arange(1, num_dims + 1), *(spread_degrees(width, num_dims) for width in hidden)]
        pairs = zip(self.degrees[:-1], self.degrees[1:], strict=True)
        gains = [FIRST_GAIN] + [1.0] * (len(hidden) - 1)
        self.layers = nn.ModuleList(MaskedLinear(*pair, gain) for pair, gain in zip(pairs, gains, strict=True))
        degree_out = torch.arange(num_dims).repeat_interleave(num_outputs)  # output d sees units of degree <= d - 1
        self.head = MaskedLinear(self.degrees[-1], degree_out)
        self.dropout = Dropout(dropout)
        self.label_in = nn.Embedding(num_labels, hidden[0]) if num_labels else None
        self.label_out = nn.Embedding(num_labels, len(degree_out)) if num_labels else None
        for embedding in (self.label_in, self.label_out):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)

    @property
    def num_parameters(self) -> int:
        """Free numbers: of a masked weight those that the mask leaves."""
        masked = [module for module in self.modules() if isinstance(module, MaskedLinear)]
        return sum(p.numel() for p in self.parameters()) - sum(int((layer.mask == 0).sum()) for layer in masked)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.layers[0](z)  # [B, hidden]
        if self.label_in is not None:
            h = h + LABEL_GAIN * self.label_in(labels)
        for layer in self.layers[1:]:
            after = layer(self.dropout(F.silu(h)))  # [B, hidden]
            h = h + after if h.shape == after.shape else after
        outputs = self.head(F.silu(h))
        if self.label_out is not None:
            outputs = outputs + LABEL_GAIN * self.label_out(labels)
        return outputs.view(-1, self.num_dims, self.num_outputs)  # [B, D, P]

    def generate(self, n: int, draw: Callable[[Tensor, int], Tensor], labels: Tensor | None = None) -> Tensor:
        """Ancestral sampling, [n, D]: `draw` takes the outputs [n, P] of dimension d, and d; it returns its value, [n].

        Dropout is never applied.
        """
        z = self.head.weight.new_zeros(n, self.num_dims)
        layers = [layer for layer in self.layers if isinstance(layer, MaskedLinear)]
        hidden = [z.new_zeros(n, layer.out_features) for layer in layers]  # before the activation
        active = [torch.zeros_like(h) for h in hidden]
        first = None if self.label_in is None else LABEL_GAIN * self.label_in(labels)  # [n, hidden]
        last = None if self.label_out is None else LABEL_GAIN * self.label_out(labels)  # [n, D P]
        for d in range(self.num_dims):
            known = [int((degrees <= d).sum()) for degrees in self.degrees]  # units that are finished after this pass
            for i, layer in enumerate(layers):
                new = slice(int((self.degrees[i + 1] < d).sum()), known[i + 1])
                h = layer.block(z if i == 0 else active[i - 1], new, known[i])
                if i > 0 and hidden[i].shape == hidden[i - 1].shape:
                    h = h + hidden[i - 1][:, new]
                if i == 0 and first is not None:
                    h = h + first[:, new]
                hidden[i][:, new], active[i][:, new] = h, F.silu(h)
            rows = slice(d * self.num_outputs, (d + 1) * self.num_outputs)
            outputs = self.head.block(active[-1], rows, known[-1])
            z[:, d] = draw(outputs if last is None else outputs + last[:, rows], d)
        return z
