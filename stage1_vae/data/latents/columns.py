"""Parameters of posteriors as columns whose rows are read, put in order and converted when they are asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stage1_vae.latents.numbers import parameter


class Part(Protocol):
    """Consecutive rows of an array as files hold them: one file's, or those of a folder of them."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> np.ndarray: ...
    def place(self, row: int) -> str: ...
    def origin(self, row: int) -> tuple[Path, int]: ...


class Stack:
    """Parts of one kind, end to end; read as files hold them.

    Args:
        parts: at least one, of equal shapes but for the number of rows.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts], dtype=np.int64)
        self.shape = (int(self.ends[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice without a step, or by their numbers, int64 [n] from 0."""
        if isinstance(rows, slice):
            return self._stretch(*rows.indices(len(self))[:2])
        if len(self.parts) == 1:
            return self.parts[0][rows]
        owner = np.searchsorted(self.ends, rows, "right")  # [n] part of each row
        order = np.argsort(owner, kind="stable")
        owners, firsts = np.unique(owner[order], return_index=True)
        pieces = np.split(order, firsts[1:])
        values: np.ndarray | None = None
        for part, piece in zip(owners.tolist(), pieces, strict=True):
            start = int(self.ends[part]) - len(self.parts[part])
            block = self.parts[part][rows[piece] - start]
            if values is None:
                values = np.empty((len(rows), *self.shape[1:]), block.dtype)
            values[piece] = block
        return self._stretch(0, 0) if values is None else values

    def _stretch(self, start: int, stop: int) -> np.ndarray:
        first = min(int(np.searchsorted(self.ends, start, "right")), len(self.parts) - 1)
        last = max(first, int(np.searchsorted(self.ends, stop, "left")))
        blocks = []
        for part in range(first, min(last, len(self.parts) - 1) + 1):
            offset = int(self.ends[part]) - len(self.parts[part])
            blocks.append(self.parts[part][max(0, start - offset) : max(0, stop - offset)])
        return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


class Parameter:
    """A column of a `LatentDataset`: rows of a stack, in our order of axes and in the type that is kept.

    Args:
        stack: as files hold it.
        kind: what its numbers are, see `stage1_vae.latents.numbers`.
        arrange: rows as files hold them -> [n, *event].
        event: shape of one latent.
        dtype: what is kept.
        rows: which rows of the stack, int64; None: all.
    """

    def __init__(
        self,
        stack: Stack,
        kind: str,
        arrange: Callable[[np.ndarray], np.ndarray],
        event: tuple[int, ...],
        dtype: np.dtype,
        rows: np.ndarray | None = None,
    ) -> None:
        self.stack, self.kind, self.arrange, self.event = stack, kind, arrange, event
        self.dtype, self.rows = dtype, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.event)

    def __len__(self) -> int:
        return len(self.stack) if self.rows is None else len(self.rows)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        if self.rows is not None:
            rows = self.rows[rows]
        elif isinstance(rows, slice) and rows.step not in (None, 1):
            rows = np.arange(*rows.indices(len(self)))
        return self.convert(self.stack[rows]).astype(self.dtype, copy=False)

    def convert(self, values: np.ndarray, num_codes: int | None = None) -> np.ndarray:
        """Rows as files hold them -> [n, *event], float32 or int64.

        Raises:
            NumberError: a row that is none of its kind.
        """
        return parameter(self.kind, self.arrange(values), num_codes)

    def of_rows(self, rows: np.ndarray | None) -> "Parameter":
        """The same column of other rows of the stack."""
        return Parameter(self.stack, self.kind, self.arrange, self.event, self.dtype, rows)
