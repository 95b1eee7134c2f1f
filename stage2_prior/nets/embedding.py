"""The time and the label that a network of a moving latent is told: sines of the time, and a vector a label.

Sines and cosines of geometrically spaced frequencies (Vaswani et al., "Attention Is All You Need", 2017, section 3.5,
for positions), through a perceptron of two layers, to which the label's vector is added. The frequencies end where one
more would only make the drift rough in time, which every solver pays for.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOWEST, HIGHEST = 0.5, 32.0
"""Radians a unit of time."""
FREQUENCIES = 32
LABEL_GAIN = 8.0
"""A label's vector moves by no more than a learning rate a step: without a gain it is learned last."""


class TimeEmbedding(nn.Module):
    """Times [T], each of B / T rows in turn, and labels [B] or none -> [B, width], or [T, width] without labels.

    Args:
        width: of the result.
        num_labels: different labels; 0: none.
    """

    frequencies: Tensor

    def __init__(self, width: int, num_labels: int) -> None:
        super().__init__()
        spaced = torch.linspace(math.log(LOWEST), math.log(HIGHEST), FREQUENCIES).exp()
        self.register_buffer("frequencies", spaced, persistent=False)
        self.first, self.second = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        self.label = nn.Embedding(num_labels, width) if num_labels else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, time: Tensor, labels: Tensor | None) -> Tensor:
        angles = time[:, None].float() * self.frequencies
        h = self.second(F.silu(self.first(torch.cat([angles.sin(), angles.cos()], dim=1))))
        if self.label is None or labels is None:
            return F.silu(h)
        return F.silu(spread(h, len(labels)) + LABEL_GAIN * self.label(labels))


def spread(of_times: Tensor, num: int) -> Tensor:
    """[T, ...], each of num / T rows in turn, -> [num, ...]; of one time [1, ...], which broadcasts."""
    return of_times if len(of_times) in (1, num) else of_times.repeat_interleave(num // len(of_times), 0)
