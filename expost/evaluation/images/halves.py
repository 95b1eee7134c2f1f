"""How far a figure of two finite sets of images would move with other images: its spread.

A set is dealt at random into 16 blocks. A contrast takes eight of them for one half and the other eight for its
complement, so a figure f is measured on two disjoint halves, f+ and f-. With n vectors a figure that is an average has
variance v / n; halves are independent and have 2 v / n each, so (f+ - f-) / 2 has variance v / n again: the deviation
between halves is already that of the full set, with no further scaling (balanced half-samples: McCarthy,
"Pseudo-Replication: Half Samples", 1969, section 4; delete-half jackknife: Shao & Wu, "A General Theory for Jackknife
Variance Estimation", 1989). The 15 contrasts are the rows of a Hadamard matrix, mutually orthogonal, so that their mean
square has 15 degrees of freedom and is itself known to about 18 %.

Only differences between two halves of one size are used, never the distance of a half from the whole: a Frechet
distance on halves is larger on average (its covariances are noisier), equally so in both, and that bias cancels.
Figures whose noise falls faster than 1 / sqrt(n), such as the kernel distance between equal laws, get a spread that is
up to 1.4 times too wide: it errs on the careful side.

What it holds is the noise of the images drawn and of the reference images. Not in it: other seeds of the VAE, of the
prior's fit and of the feature net, which need other runs. Two rows share their reference images, whose noise cancels in
the difference between them, so comparing rows by their spreads is careful as well.
"""

import math
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor

NUM_BLOCKS = 16
SEED = 0


@dataclass(frozen=True)
class Subsets:
    """The whole set, then pairs of complementary halves of it; H = 1 + 2 contrasts.

    Attributes:
        block: [N] which of the blocks each vector is in.
        holds: [H, 16] which blocks each subset holds; row 0 holds all, rows 2c + 1 and 2c + 2 are contrast c.
    """

    block: Tensor
    holds: Tensor

    @classmethod
    def of(cls, num: int, num_contrasts: int = NUM_BLOCKS - 1, device: torch.device | str = "cpu") -> "Subsets":
        """Subsets of `num` vectors; the same ones for the same `num`, so that row i of two sets stays a pair.

        Sets of fewer than four blocks' worth of vectors are not halved: H is 1 and no spread exists.
        """
        contrasts = num_contrasts if num >= 4 * NUM_BLOCKS else 0
        dealt = torch.arange(num) % NUM_BLOCKS
        block = dealt[torch.randperm(num, generator=torch.Generator().manual_seed(SEED))]
        plus = _hadamard()[1 : 1 + contrasts] > 0  # [contrasts, 16]
        halves = torch.stack([plus, ~plus], 1).flatten(0, 1)  # [2 * contrasts, 16]
        holds = torch.cat([torch.ones(1, NUM_BLOCKS, dtype=torch.bool), halves])
        return cls(block.to(device), holds.to(device))

    def __len__(self) -> int:
        return len(self.holds)

    @cached_property
    def members(self) -> Tensor:
        """[H, N] which vectors each subset holds."""
        return self.holds[:, self.block]

    @cached_property
    def sizes(self) -> Tensor:
        """[H] float64 number of vectors in each subset."""
        return self.members.sum(1).double()


def _hadamard() -> Tensor:
    """Sylvester's matrix of order 16: entries +1 and -1, orthogonal rows, the first all ones."""
    return reduce(torch.kron, [torch.tensor([[1, 1], [1, -1]])] * 4)


def spread(values: Tensor) -> float | None:
    """Standard deviation of the full set's figure, from `values` [H] in the order of `Subsets`.

    None where there are no halves or the figure does not exist on one of them.
    """
    halves = values[1:].view(-1, 2)
    if not len(halves) or not torch.isfinite(halves).all():
        return None
    return math.sqrt(((halves[:, 0] - halves[:, 1]) / 2).square().mean().item())
