"""The processes that train one model together: their number, which one this is, what they agree on; of both stages."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """The processes of one training; alone, every method gives back what it was given.

    With several, `torch.distributed` must have been initialised, and all ranks call the same methods in the same order.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all ranks, in place; the same bits on each."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def broadcast(self, value: Tensor) -> Tensor:
        """Rank 0's `value`, which may be overwritten; all have the same shape and dtype."""
        if self.world > 1:
            value = value.contiguous()
            dist.broadcast(value, src=0)
        return value

    def first(self, number: float) -> float:
        """What rank 0 has."""
        return number if self.world == 1 else self.broadcast(torch.tensor([number], dtype=torch.float64)).item()

    def mean(self, values: Tensor) -> float:
        """Of the `values` [n] of all ranks together; the same on each."""
        if self.world == 1:
            return values.mean().item()
        total, num = self.sum(torch.stack([values.double().sum(), values.new_tensor(len(values)).double()]))
        return (total / num).item()

    def divisible(self, size: int) -> int:
        """The largest size up to `size` that all ranks can share equally."""
        return max(size - size % self.world, self.world)

    def gather(self, value: Tensor) -> list[Tensor]:
        """`value` of every rank, in the order of ranks; all have the same shape and dtype."""
        if self.world == 1:
            return [value]
        everyone = [value.new_empty(value.shape) for _ in range(self.world)]
        dist.all_gather(everyone, value.contiguous())
        return everyone

    def lowest(self, values: Tensor, start: int, num: int) -> Tensor:
        """Numbers of the `num` lowest of all ranks' `values` [n], which are counted from `start` on this one."""
        own = values.double().topk(min(num, len(values)), largest=False)
        missing = (0, num - len(own.values))
        candidates = torch.cat(self.gather(nn.functional.pad(own.values, missing, value=torch.inf)))
        numbers = torch.cat(self.gather(nn.functional.pad(own.indices + start, missing)))
        return numbers[candidates.topk(num, largest=False).indices]

    def wait_for_all(self) -> None:
        """Returns when every rank has come here."""
        if self.world > 1:
            dist.barrier()

    def check_equal(self, state: Mapping[str, Tensor]) -> None:
        """
        Args:
            state: named tensors on the CPU.

        Raises:
            RuntimeError: they are not the same on all ranks, bit for bit.
        """
        if self.world == 1:
            return
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(name.encode() + state[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
        digests = self.gather(torch.tensor(list(digest.digest()), dtype=torch.uint8))
        if unequal := [rank for rank, digest in enumerate(digests) if not torch.equal(digest, digests[0])]:
            raise RuntimeError(f"rank {unequal[0]} ended with other weights than rank 0")

    def share(self, num: int) -> slice:
        """This rank's rows of `num`: contiguous, disjoint, together all, of sizes that differ by one at most."""
        return slice(num * self.rank // self.world, num * (self.rank + 1) // self.world)


ALONE = Ranks()


def ranks_here() -> Ranks:
    """Those that this process has met already."""
    met = dist.is_available() and dist.is_initialized()
    return Ranks(dist.get_rank(), dist.get_world_size()) if met else ALONE
