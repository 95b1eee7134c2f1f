"""The order of an epoch over rows that do not fit in memory: read in long stretches, mixed in a buffer.

The set is cut into blocks of consecutive rows. An epoch takes the blocks in random order, fills a buffer with many of
them and shuffles its rows, so that every row comes once and the disk reads stretches instead of rows. How well a set
sorted by class is mixed depends on the number of blocks in the buffer alone: B blocks of one class each hold a class of
share p in a share whose standard deviation is at most sqrt(p (1 - p) / B), 2 % of the rows for ten classes and B = 256.
"""

from collections.abc import Iterator

import torch

BUFFER_BLOCKS = 256
BUFFER_BYTES = 2**26
"""64 MiB of parameters lie in the buffer; a block is 256 KiB of them."""


def shuffle_blocks(
    num_rows: int, row_bytes: int, generator: torch.Generator | None, buffer_bytes: int | None = None
) -> Iterator[list[slice]]:
    """One epoch of blocks in random order, a buffer of `buffer_bytes` (None: 64 MiB) at a time."""
    block = max(1, (buffer_bytes or BUFFER_BYTES) // BUFFER_BLOCKS // row_bytes)
    starts = block * torch.randperm(-(-num_rows // block), generator=generator)
    for buffer_starts in starts.split(BUFFER_BLOCKS):
        yield [slice(start, min(start + block, num_rows)) for start in buffer_starts.tolist()]
