"""Figures of two sets of vectors from k-nearest-neighbour balls, on the whole sets and on all their halves at once.

- Precision and recall: the share of one set inside the k-nearest-neighbour balls of the other
  (Kynkaanniemi et al., "Improved Precision and Recall Metric", 2019, eq. 1-3).
- Density and coverage: how many reference balls a sample falls into, over k, and the share of reference balls that hold
  a sample (Naeem et al., "Reliable Fidelity and Diversity Metrics", 2020, eq. 3-4); more robust to outliers.

Higher is better; density may exceed 1.

Every vector counts, also one that repeats another: of six identical ones each is a neighbour of the others at distance
0, and all of them are in one another's balls. But they are looked at once, and weighed by how often they occur.

Halves cost no distances of their own. The k-th neighbour within a half is found among the 8 k nearest of the whole set
(that fewer than k of 40 are in it has probability 1e-7; the radius is then the last one known). And only pairs no
further apart than the largest of a ball's radii can matter to any half: they are few, found once in chunks of the
distance matrix, and then counted for every half.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images.halves import Subsets
from expost.evaluation.images.squared import TIE, Targets

PAIRS_AT_ONCE = 2**17
ROWS_AT_ONCE = 512
LISTED = 8
"""Neighbours that are listed for each vector, in multiples of k."""


@dataclass(frozen=True)
class Distinct:
    """The vectors of a set that differ, and how often each of them occurs: blank frames, sprites and padding make many
    images one.

    Attributes:
        vectors: [U, D] float64, no two alike.
        times: [H, U] int32, how often each occurs within each subset.
    """

    vectors: Tensor
    times: Tensor

    @classmethod
    def of(cls, vectors: Tensor, subsets: Subsets) -> "Distinct":
        """Those of `vectors` [N, D], with `subsets` of them."""
        members = subsets.members
        if _all_differ(vectors):  # fifty times faster than looking for repeats
            return cls(vectors, members.int())
        distinct, index = torch.unique(vectors, dim=0, return_inverse=True)  # [U, D], [N]
        times = torch.zeros(len(members), len(distinct), dtype=torch.int32, device=vectors.device)
        return cls(distinct, times.index_add_(1, index, members.int()))

    @property
    def num_repeats(self) -> int:
        """Vectors that are the same as an earlier one."""
        return int(self.times[0].sum()) - len(self.vectors)


def _all_differ(vectors: Tensor) -> bool:
    """Whether no two of `vectors` [N, D] float64 have one checksum, in whole numbers, where order rounds nothing."""
    bits = vectors.contiguous().view(torch.int64)
    factors = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=torch.Generator().manual_seed(0))
    checksums = (bits * factors.to(bits.device)).sum(1)  # overflow wraps around, everywhere alike
    return len(torch.unique(checksums)) == len(vectors)


@dataclass(frozen=True)
class Balls:
    """A set of vectors, each the centre of a ball that reaches its k-th nearest neighbour within each subset.

    Attributes:
        centres: [N, D] float64.
        subsets: of the centres, [H, N].
        distinct: the centres without repeats, [U, D].
        radius: [H, U] squared, of the distinct ones; -1 for those that the subset lacks, whose balls hold nothing.
        k: number of neighbours.
    """

    centres: Tensor
    subsets: Subsets
    distinct: Distinct
    radius: Tensor
    k: int

    @classmethod
    def around(cls, centres: Tensor, subsets: Subsets, k: int) -> "Balls":
        """Balls around `centres` [N, D].

        Raises:
            EvaluationError: when a vector has no k-th neighbour.
        """
        if len(centres) <= k:
            raise EvaluationError(
                f"{k} nearest neighbours need more than {k} in each set: lower evaluation.neighbours, or raise "
                "evaluation.num_samples if there are more for training and test"
            )
        distinct = Distinct.of(centres, subsets)
        targets = Targets(distinct.vectors)
        starts = range(0, len(distinct.vectors), ROWS_AT_ONCE)
        radius = torch.cat([_radii(targets, distinct.times, start, k) for start in starts], dim=1)
        return cls(centres, subsets, distinct, radius, k)

    @property
    def reach(self) -> Tensor:
        """[H, U]: vectors so near, squared, are in the ball."""
        return self.radius * (1 + TIE)

    def first(self, num: int) -> "Balls":
        """The same with the first `num` subsets."""
        subsets = Subsets(self.subsets.block, self.subsets.holds[:num])
        distinct = replace(self.distinct, times=self.distinct.times[:num])
        return replace(self, subsets=subsets, distinct=distinct, radius=self.radius[:num])


@dataclass(frozen=True)
class Shares:
    """Figures on the whole sets and on each pair of halves, float64 [H] on the CPU."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def shares(reference: Balls, samples: Balls) -> Shares:
    """Precision, recall, density and coverage of `samples` against `reference`, from one pass over their distances."""
    targets, vectors = Targets(reference.distinct.vectors), samples.distinct.vectors
    of_samples, of_reference = samples.distinct.times.double(), reference.distinct.times.double()  # [H, M], [H, N]
    within, precise, recalled = (torch.zeros_like(times) for times in (of_reference, of_samples, of_reference))
    reach, reach_of_samples = reference.reach, samples.reach
    furthest, furthest_of_samples = reach.amax(0), reach_of_samples.amax(0)  # [N], [M] in any subset
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        rows = vectors[start : start + ROWS_AT_ONCE]
        below = targets.from_below(rows)  # [m, N]
        for i, j, squared in _pairs(targets, rows, below <= furthest):
            inside = (squared <= reach[:, j]).double()  # [H, pairs]
            precise.index_add_(1, start + i, inside)
            within.index_add_(1, j, inside.mul_(of_samples[:, start + i]))
        for i, j, squared in _pairs(targets, rows, below <= furthest_of_samples[start : start + ROWS_AT_ONCE, None]):
            recalled.index_add_(1, j, (squared <= reach_of_samples[:, start + i]).double())
    num_samples, num_reference = samples.subsets.sizes, reference.subsets.sizes
    return Shares(
        precision=((precise > 0) * of_samples).sum(1).div(num_samples).cpu(),
        recall=((recalled > 0) * of_reference).sum(1).div(num_reference).cpu(),
        density=(within * of_reference).sum(1).div(reference.k * num_samples).cpu(),
        coverage=((within > 0) * of_reference).sum(1).div(num_reference).cpu(),
    )


def _radii(targets: Targets, times: Tensor, start: int, k: int) -> Tensor:
    """Squared distance to the k-th nearest other vector within each subset, [H, n], for the rows from `start` on.

    Args:
        targets: all vectors, U.
        times: [H, U] how often each occurs within each subset.
    """
    rows = targets.vectors[start : start + ROWS_AT_ONCE]
    own = torch.arange(len(rows), device=rows.device)
    listed = min(LISTED * k + 1, len(targets.vectors))
    below = targets.from_below(rows)
    below[own, start + own] = -torch.inf  # itself comes first
    nearest = below.topk(listed, dim=1, largest=False)
    squared, order = targets.of_listed(rows, nearest.indices).sort(dim=1)
    radius = _kth_within(squared, times[:, nearest.indices.gather(1, order)], k)
    # What is not listed is no nearer than the last bound. Where that leaves a radius open, all distances are computed.
    open_ones = (radius * (1 - TIE) > nearest.values[:, -1]).any(0).nonzero().squeeze(1)
    if listed < len(targets.vectors) and len(open_ones):
        exact = targets.exactly(rows[open_ones]).topk(listed, dim=1, largest=False)
        radius[:, open_ones] = _kth_within(exact.values, times[:, exact.indices], k)
    return torch.where(times[:, start + own] > 0, radius, -1.0)


def _kth_within(squared: Tensor, times: Tensor, k: int) -> Tensor:
    """Squared distance to the k-th other vector within each subset, [H, n].

    Args:
        squared: [n, listed] ascending, the vector itself among them.
        times: [H, n, listed] how often each of them occurs.
    """
    counted = times.cumsum(2, dtype=torch.int32)
    at = (counted <= k).sum(2).clamp_(max=squared.shape[1] - 1)  # [H, n]
    return squared.gather(1, at.T).T


def _pairs(targets: Targets, rows: Tensor, near: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Row, column and squared distance of the pairs that are `near`, in pieces of bounded size."""
    for piece in near.nonzero().split(PAIRS_AT_ONCE):
        i, j = piece.unbind(1)
        yield i, j, targets.of_pairs(rows, i, j)
