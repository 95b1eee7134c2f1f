"""Batches handed to Lightning a stretch at a time.

Lightning's bookkeeping (hooks, progress, connectors) costs about half a millisecond a batch, a seventh of a small net's
step. A stretch of batches passes through it as one, and the module takes one optimiser step for each batch in it: the
same steps on the same batches, whatever the length. Large images make long steps, to which that cost is nothing, and
long stretches of them would not fit in memory; so a stretch is bounded by its pixels.
"""

import math
from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from stage1_vae.data.loader import Batches

MAX_LENGTH = 16
MAX_PIXELS = 2**22
"""16 MiB of float32."""


class Stretches:
    """An iterable of lists of batches; Lightning takes it as it is.

    Args:
        batches: pairs of x [B, C, H, W] and labels.
        image_shape: (C, H, W).
        one_by_one: stretches of one batch, for callbacks that must see each step.
    """

    def __init__(self, batches: Batches, image_shape: tuple[int, int, int], one_by_one: bool = False) -> None:
        self.batches = batches
        fitting = MAX_PIXELS // (batches.batch_size * math.prod(image_shape))
        self.length = 1 if one_by_one else max(1, min(MAX_LENGTH, fitting))
        self.sampler = batches.sampler  # Lightning tells it the epoch
        self.batch_sampler = None  # Lightning looks for it beside a sampler

    def __len__(self) -> int:
        return -(-len(self.batches) // self.length)

    def __iter__(self) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
        rest = iter(self.batches)
        while stretch := list(islice(rest, self.length)):
            yield stretch
