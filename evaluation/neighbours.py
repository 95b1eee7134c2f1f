"""Figures of two sets of vectors from k-nearest-neighbour balls, on the whole sets and on all their halves at once.

- Precision and recall: the share of one set inside the k-nearest-neighbour balls of the other
  (Kynkaanniemi et al., "Improved Precision and Recall Metric", 2019, eq. 1-3).
- Density and coverage: how many reference balls a sample falls into, over k, and the share of reference balls that hold
  a sample (Naeem et al., "Reliable Fidelity and Diversity Metrics", 2020, eq. 3-4); more robust to outliers.

Higher is better; density may exceed 1.

Halves cost no distances of their own. The k-th neighbour within a half is found among the 8 k nearest of the whole set
(that fewer than k of 40 are in it has probability 1e-7; the radius is then the last one known). And only pairs no
further apart than the largest of a ball's radii can matter to any half: they are few, found once in chunks of the
distance matrix, and then counted for every half.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.errors import EvaluationError
from evaluation.halves import Subsets

PAIRS_AT_ONCE = 2**17
ROWS_AT_ONCE = 512
LISTED = 8
"""Neighbours that are listed for each vector, in multiples of k."""


@dataclass(frozen=True)
class Balls:
    """A set of vectors, each the centre of a ball that reaches its k-th nearest neighbour within each subset.

    Attributes:
        centres: [N, D] float64.
        subsets: of the centres, [H, N].
        radius: [H, N] squared; -1 for centres outside the subset, whose balls hold nothing.
        k: number of neighbours.
    """

    centres: Tensor
    subsets: Subsets
    radius: Tensor
    k: int

    @classmethod
    def around(cls, centres: Tensor, subsets: Subsets, k: int) -> "Balls":
        """Balls around `centres` [N, D].

        Raises:
            EvaluationError: when a vector has no k-th neighbour.
        """
        num = len(centres)
        if num <= k:
            raise EvaluationError(
                f"{k} nearest neighbours need more than {k} vectors in each set (evaluation.num_samples)"
            )
        listed = min(LISTED * k, num - 1)
        parts = [_nearest_others(centres, start, listed) for start in range(0, num, ROWS_AT_ONCE)]
        squared, index = (torch.cat(part) for part in zip(*parts, strict=True))  # [N, listed] each
        radius = [_kth_within(squared, index, member, k) for member in subsets.members]
        return cls(centres, subsets, torch.stack(radius), k)


@dataclass(frozen=True)
class Shares:
    """Figures on the whole sets and on each pair of halves, float64 [H] on the CPU."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def shares(reference: Balls, samples: Balls) -> Shares:
    """Precision, recall, density and coverage of `samples` against `reference`, from one pass over their distances."""
    num = len(reference.subsets)
    device = reference.centres.device
    precise = torch.zeros(num, len(samples.centres), dtype=torch.bool, device=device)
    covered, recalled = torch.zeros(2, num, len(reference.centres), dtype=torch.bool, device=device)
    hits = torch.zeros(num, dtype=torch.float64, device=device)
    reach_of_reference = reference.radius.amax(0)  # [N] the largest radius in any subset
    reach_of_samples = samples.radius.amax(0)  # [M]
    members = samples.subsets.members
    for start in range(0, len(samples.centres), ROWS_AT_ONCE):
        squared = squared_distances(samples.centres[start : start + ROWS_AT_ONCE], reference.centres)  # [m, N]
        for i, j, distance in _pairs(squared, squared <= reach_of_reference):
            inside = (distance <= reference.radius[:, j]) & members[:, start + i]  # [H, pairs]
            hits += inside.sum(1)
            _mark(precise, start + i, inside)
            _mark(covered, j, inside)
        for i, j, distance in _pairs(squared, squared <= reach_of_samples[start : start + ROWS_AT_ONCE, None]):
            _mark(recalled, j, distance <= samples.radius[:, start + i])
    recalled &= reference.subsets.members
    num_samples, num_reference = samples.subsets.sizes, reference.subsets.sizes
    return Shares(
        precision=(precise.sum(1) / num_samples).cpu(),
        recall=(recalled.sum(1) / num_reference).cpu(),
        density=(hits / (reference.k * num_samples)).cpu(),
        coverage=(covered.sum(1) / num_reference).cpu(),
    )


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2, [n, m], as one matrix product of augmented vectors; float64 absorbs the cancellation."""
    left = torch.cat([-2 * a, a.square().sum(1, keepdim=True), torch.ones_like(a[:, :1])], dim=1)  # [n, D + 2]
    right = torch.cat([b, torch.ones_like(b[:, :1]), b.square().sum(1, keepdim=True)], dim=1)  # [m, D + 2]
    return (left @ right.T).clamp_(min=0)


def _nearest_others(centres: Tensor, start: int, listed: int) -> tuple[Tensor, Tensor]:
    """Squared distances and indices of the nearest other vectors, ascending, [n, listed] each."""
    squared = squared_distances(centres[start : start + ROWS_AT_ONCE], centres)
    rows = torch.arange(len(squared), device=centres.device)
    squared[rows, start + rows] = math.inf  # a vector is not its own neighbour
    nearest = squared.topk(listed, dim=1, largest=False)
    return nearest.values, nearest.indices


def _kth_within(squared: Tensor, index: Tensor, member: Tensor, k: int) -> Tensor:
    """Squared distance to the k-th of the listed neighbours that is in the subset `member` [N], [N]."""
    counted = member[index].cumsum(1, dtype=torch.int32)  # [N, listed]
    at = (counted < k).sum(1, keepdim=True).clamp(max=index.shape[1] - 1)
    radius = squared.gather(1, at).squeeze(1)
    return torch.where(member, radius, radius.new_full((), -1.0))


def _pairs(squared: Tensor, near: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and squared distance of the pairs that are `near`, in pieces of bounded size."""
    pieces = near.nonzero().split(PAIRS_AT_ONCE)
    return [(piece[:, 0], piece[:, 1], squared[piece[:, 0], piece[:, 1]]) for piece in pieces]


def _mark(flags: Tensor, index: Tensor, inside: Tensor) -> None:
    """Set `flags` [H, N] wherever a pair with this `index` [pairs] is `inside` [H, pairs]."""
    counted = torch.zeros(flags.shape, dtype=torch.float32, device=flags.device)
    flags |= counted.index_add_(1, index, inside.float()) > 0
