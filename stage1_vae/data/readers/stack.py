"""Images of several arrays, one behind the other as [N, C, H, W], in memory or where they lie."""

import math
from collections.abc import Sequence

import numpy as np

from stage1_vae.data.layout import Axes
from stage1_vae.data.readers.named import OnDisk


class Turned:
    """Images [N, C, H, W] of an array that stays where it lies, read by rows."""

    def __init__(self, array: OnDisk, axes: Axes) -> None:
        self._array, self._axes = array, axes
        self.shape, self.dtype = axes.shape(array.shape), array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Images of a slice, or of rows in any order."""
        if isinstance(rows, slice):
            return self._axes.turn(self._array.take(self._axes.counting, rows))
        distinct, places = np.unique(rows, return_inverse=True)
        return self._axes.turn(self._array.take(self._axes.counting, distinct))[places]


class Stack:
    """Images of several parts of one shape and type.

    Args:
        parts: each [N, C, H, W].
    """

    def __init__(self, parts: Sequence[np.ndarray | Turned]) -> None:
        self.parts = tuple(parts)
        self.starts = np.cumsum([0, *map(len, parts)])
        self.shape, self.dtype = (int(self.starts[-1]), *parts[0].shape[1:]), parts[0].dtype
        self.nbytes = self.dtype.itemsize * math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Images of a slice without a step, or of rows in any order; in memory."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            blocks = [
                part[max(0, start - first) : max(0, stop - first)]
                for part, first in zip(self.parts, self.starts[:-1], strict=True)
                if first < stop and start < first + len(part)
            ]
            return np.concatenate(blocks) if len(blocks) != 1 else blocks[0]
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        of_part = np.searchsorted(self.starts, rows, side="right") - 1
        for i in np.unique(of_part):
            places = of_part == i
            images[places] = self.parts[i][rows[places] - self.starts[i]]
        return images
