"""A set of vectors without its repeats: blank frames, sprites and padding make many images one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.images.halves import Subsets


@dataclass(frozen=True)
class Distinct:
    """The vectors of a set that differ, and how often each of them occurs.

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
        found, index = torch.unique(vectors, dim=0, return_inverse=True)  # [U, D], [N]
        times = torch.zeros(len(members), len(found), dtype=torch.int32, device=vectors.device)
        return cls(found, times.index_add_(1, index, members.int()))

    @property
    def num_repeats(self) -> int:
        """Vectors that are the same as an earlier one."""
        return int(self.times[0].sum()) - len(self.vectors)

    def first(self, num: int) -> "Distinct":
        """The same with the first `num` subsets."""
        return Distinct(self.vectors, self.times[:num])


def _all_differ(vectors: Tensor) -> bool:
    """Whether no two of `vectors` [N, D] float64 have one checksum, in whole numbers, where order rounds nothing."""
    bits = vectors.contiguous().view(torch.int64)
    factors = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=torch.Generator().manual_seed(0))
    checksums = (bits * factors.to(bits.device)).sum(1)  # overflow wraps around, everywhere alike
    return len(torch.unique(checksums)) == len(vectors)
