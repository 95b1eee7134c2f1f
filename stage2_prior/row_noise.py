"""Random numbers that are a function of a latent: the same for the same row in whatever batch, on whatever rank.

What is random in a held-out figure must not change from epoch to epoch, nor may it take from torch's generator or
depend on how latents were divided over blocks and processes. So it is a hash of the row's own bits: a polynomial in
them, mixed as by splitmix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014, figure 17),
of which each further number is another counter.
"""

import math

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as torch has it, signed
MIX = ((30, -4658895280553007687), (27, -7723592293110705685))  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def shifted(bits: Tensor, by: int) -> Tensor:
    """`bits` to the right, with zeros from the left, which torch's own shift of signed numbers does not bring."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mixed(bits: Tensor) -> Tensor:
    """int64, any shape: every bit of the result depends on every bit of the argument."""
    for by, factor in MIX:
        bits = (bits ^ shifted(bits, by)) * factor
    return bits ^ shifted(bits, 31)


class RowNoise:
    """Numbers for each row of x [B, *shape], of which float32 values count.

    Args:
        x: the rows.

    Methods that draw take the number of values a row (of what), and `first`, the counter that they begin at.
    """

    def __init__(self, x: Tensor) -> None:
        words = x.detach().float().flatten(1).contiguous().view(torch.int32).long()  # [B, D]
        places = mixed(GOLDEN * torch.arange(1, words.shape[1] + 1, device=x.device))
        self.shape = x.shape
        self.row = mixed(mixed(words * GOLDEN + places).sum(1))  # [B]

    def _bits(self, first: int, num: int) -> Tensor:
        """[num, B] hashes, of the counters from `first`."""
        counters = torch.arange(first + 1, first + 1 + num, device=self.row.device)
        return mixed(self.row + GOLDEN * counters[:, None])

    def uniform(self, num: int, first: int = 0) -> Tensor:
        """[num, B] in (0, 1), float32."""
        return ((shifted(self._bits(first, num), 41).float()) + 0.5) * 2.0**-23

    def signs(self, num: int, first: int = 0) -> Tensor:
        """[num, *x.shape] of -1 and 1, float32."""
        size = math.prod(self.shape[1:])
        bits = self._bits(first, num * size).view(num, size, -1).transpose(1, 2)
        return (1.0 - 2.0 * (bits < 0).float()).reshape(num, *self.shape)

    def normal(self, num: int, first: int = 0) -> Tensor:
        """[num, *x.shape] of N(0, 1), float32."""
        size = math.prod(self.shape[1:])
        level = self.uniform(num * size, first).view(num, size, -1).transpose(1, 2)
        return (math.sqrt(2) * torch.erfinv(2 * level - 1)).reshape(num, *self.shape)
