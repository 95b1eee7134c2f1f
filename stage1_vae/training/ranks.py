"""What several processes that train one model must agree on; a process alone agrees with itself."""

import torch.distributed as dist
from torch import Tensor


def _alone() -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks, in place; the same bits on each."""
    if not _alone():
        dist.all_reduce(value)
    return value


def of_first_rank(value: Tensor) -> Tensor:
    """What the first rank has, in place."""
    if not _alone():
        dist.broadcast(value, src=0)
    return value
