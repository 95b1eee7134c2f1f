"""Squared Euclidean distances: all of them from below by a matrix product, those that matter exactly by differences.

The product |a|^2 - 2 a.b + |b|^2 is many times faster than differences, and loses every digit where two vectors are
near to each other for their length: identical ones come out at the rounding of their norms, above zero or below. So it
only tells which pairs cannot be near, with its rounding subtracted; what is compared is always computed by differences.
"""

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 2**17
"""Coordinates of differences at a time, 1 MiB: they stay in the cache of a core."""
TIE = 1e-14
"""Squared distances that differ by a smaller share are the same one, summed up in another order."""


class Targets:
    """Vectors that others are compared with.

    Args:
        vectors: [M, D] float64.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors
        # A product of D + 2 terms is rounded by less than 2 (D + 2) eps (|a|^2 + |b|^2); twice that is safe.
        self.kept = 1 - 4 * (vectors.shape[1] + 2) * torch.finfo(vectors.dtype).eps
        self.centre = vectors.mean(0)
        moved = vectors - self.centre
        ones = torch.ones_like(moved[:, :1])
        self._factor = torch.cat([moved, ones, self.kept * moved.square().sum(1, keepdim=True)], dim=1)  # [M, D + 2]

    def from_below(self, rows: Tensor) -> Tensor:
        """[n, M]: each at most the squared distance of `rows` [n, D] to the vectors, and less by rounding only."""
        moved = rows - self.centre
        norms = self.kept * moved.square().sum(1, keepdim=True)
        return torch.cat([-2 * moved, norms, torch.ones_like(norms)], dim=1) @ self._factor.T

    def of_pairs(self, rows: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Squared distances [P] of `rows` [n, D] number `i` [P] to the vectors number `j` [P], by differences."""
        size = max(1, NUMBERS_AT_ONCE // rows.shape[1])
        pieces = zip(i.split(size), j.split(size), strict=True)
        squares = [(rows[of_rows] - self.vectors[of_vectors]).square_().sum(1) for of_rows, of_vectors in pieces]
        return torch.cat(squares) if squares else rows.new_zeros(0)

    def of_listed(self, rows: Tensor, listed: Tensor) -> Tensor:
        """Squared distances [n, L] of `rows` [n, D] to the vectors `listed` [n, L] for each, by differences."""
        size = max(1, NUMBERS_AT_ONCE // (listed.shape[1] * rows.shape[1]))
        pieces = zip(rows.split(size), listed.split(size), strict=True)
        return torch.cat([self.vectors[some].sub_(row[:, None]).square_().sum(2) for row, some in pieces])

    def exactly(self, rows: Tensor) -> Tensor:
        """[n, M]: the squared distances of `rows` [n, D] to all vectors, by differences."""
        return torch.cdist(rows, self.vectors, compute_mode="donot_use_mm_for_euclid_dist").square_()
