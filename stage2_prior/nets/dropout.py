"""Dropout that draws four entries at once."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """As torch's, by `drop`: a random `share` of the entries is zero in training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, h: Tensor) -> Tensor:
        return drop(h, self.share) if self.training else h


def drop(h: Tensor, share: float) -> Tensor:
    """`h` with a random `share` of it set to zero, and the rest scaled up as much.

    On a CPU torch draws one number after another, a fifth of a small step on two cores; four of these share a draw, so
    `share` is rounded to a multiple of 2^-16.
    """
    if share == 0 or h.device.type != "cpu":
        return F.dropout(h, share)
    draws = torch.empty(-(-h.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    least = min(round((1 - share) * 2**16) - 2**15, 2**15 - 1)
    kept = draws.view(torch.int16)[: h.numel()].view(h.shape) < least
    return h * kept.to(h.dtype).mul_(1 / (1 - share))
