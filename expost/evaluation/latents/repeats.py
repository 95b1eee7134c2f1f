"""Sequences of codes have no distance but this: in what share of its places a sequence differs from another.

How near samples come to their nearest training sequences, against how near test sequences come, tells memory from
honest draws, as distances between feature vectors do for images: `expost.evaluation.images.memorisation`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

RESULTS_AT_ONCE = 2**22
MOST_COMPARED = 2**34
"""Codes with codes, ten seconds of a core: fewer sequences are looked up among many training sequences."""


def num_looked_up(num: int, num_training: int, length: int) -> int:
    """Of `num` sequences, how many to look up among `num_training` of `length` places."""
    return min(num, max(100, MOST_COMPARED // max(1, num_training * length)))


def nearest_share(codes: Tensor, training: Iterable[Tensor]) -> Tensor:
    """Share of places in which each of `codes` [M, T] differs from its nearest training sequence: float64 [M].

    0 where a training sequence is the very same. `training`: blocks [n, T]; memory does not grow with their number.
    """
    return nearest_sequence(codes, training)[1]


@torch.no_grad()
def nearest_sequence(codes: Tensor, training: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The first training sequence that is nearest to each of `codes` [M, T], int64 [M], and `nearest_share`."""
    rows = codes.flatten(1).float()
    least = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    index, start = torch.zeros(len(rows), dtype=torch.int64, device=rows.device), 0
    for block in training:
        targets = block.flatten(1).to(rows.device).float()  # float32 is exact for codes below 2^24
        size = max(1, RESULTS_AT_ONCE // len(targets))
        nearest = [torch.cdist(some, targets, p=0).min(1) for some in rows.split(size)]
        share = torch.cat([found.values for found in nearest]).double() / rows.shape[1]
        index = torch.where(share < least, start + torch.cat([found.indices for found in nearest]), index)
        least = torch.minimum(least, share)
        start += len(targets)
    return index, least
