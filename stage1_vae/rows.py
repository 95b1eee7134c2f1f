"""Row numbers evenly spread over a set: the one copy, for images as for their latents."""

import torch
from torch import Tensor

LAST_OF_FLOAT32 = 2**24
"""Beyond it float32 skips whole numbers."""


def spread_rows(total: int, num: int) -> Tensor:
    """At most `num` of `total` row numbers, evenly spread from the first to the last: int64, ascending.

    Files often come sorted by class, so the first rows alone would not do.
    """
    num = min(num, total)
    if total <= LAST_OF_FLOAT32:
        # As stored results were made. Whole numbers would take the neighbour of a row here and there (14 of 10,000 of
        # 60,000), which is no better, and would change figures under keys that stay.
        return torch.linspace(0, total - 1, num).round().long()
    gaps = max(1, num - 1)
    doubled = 2 * (total - 1) * torch.arange(num) + gaps  # row i is floor(i (total - 1) / gaps + 1/2)
    rows = doubled // (2 * gaps)
    return rows - ((doubled % (2 * gaps) == 0) & (rows % 2 == 1)).long()  # halves to the even row, as `round` does
