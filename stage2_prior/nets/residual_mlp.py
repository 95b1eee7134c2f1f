"""A residual network over vectors that is told a time and a label: the drift of latents that are no large maps.

    h <- h + W f(h) * (1 + scale(t, y)) + shift(t, y),   f = silu

One product of matrices a layer, as its directional derivatives, of which a density takes one a dimension, cost that and
a product by a diagonal: there is no norm between layers. Time and label scale and shift each layer (Perez et al.,
"FiLM", 2018, equation 1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage2_prior.nets.embedding import TimeEmbedding

EMBEDDING = 128
FIRST_GAIN = 2.0
"""Aggregate posteriors have structure at the width of one posterior, a tenth of the whole: units must bend sharply."""


class ResidualMLP(nn.Module):
    """x [B, *shape], of D numbers a row, times [T] and labels [B] or none -> [B, *shape]; see `TimeEmbedding`.

    Args:
        num_dims: D.
        num_labels: different labels; 0: none.
        width: of the hidden layers; None: 24 a dimension, at least 128 and at most 512. On 16 of an MNIST VAE a
            net of 384 is 0.07 nats better after 30 epochs than one of 512 after 20, which cost as much.
        depth: their number.
    """

    def __init__(self, num_dims: int, num_labels: int, width: int | None = None, depth: int = 4) -> None:
        super().__init__()
        width = min(512, max(128, 24 * num_dims)) if width is None else width
        self.numbers = width  # of a hidden layer, a row
        self.embedding = TimeEmbedding(EMBEDDING, num_labels)
        self.first = nn.Linear(num_dims, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulations = nn.Linear(EMBEDDING, 2 * depth * width)
        self.last = nn.Linear(width, num_dims)
        nn.init.uniform_(self.first.weight, -FIRST_GAIN / num_dims**0.5, FIRST_GAIN / num_dims**0.5)
        nn.init.normal_(self.last.weight, std=1e-2 / width**0.5)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        embedded = self.embedding(time, labels)  # [T, E], or [B, E] where labels differ from row to row
        scales, shifts = self.modulations(embedded)[:, None].unflatten(-1, (len(self.layers), 2, -1)).unbind(-2)
        rows_of_one = len(x) // max(1, len(embedded))  # they lie side by side
        h = self.first(x.flatten(1)).view(len(embedded), rows_of_one, self.numbers)
        for layer, scale, shift in zip(self.layers, scales.unbind(-2), shifts.unbind(-2), strict=True):
            h = torch.addcmul(h + shift, layer(F.silu(h)), 1 + scale)
        return self.last(F.silu(h)).view_as(x)
