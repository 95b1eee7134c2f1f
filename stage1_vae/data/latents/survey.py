"""One look at every row, in blocks: what is refused, and the facts that the pipeline needs."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.columns import Parameter, Part
from stage1_vae.latents.numbers import NumberError

BLOCK_ELEMENTS = 2**20


class Facts:
    """What is seen of one parameter of one split of the files.

    Attributes:
        num: rows so far.
        low, high: [*event] the smallest and the largest of the rows that were to be looked at; None without one.
        high_of_all: [*event] the largest of all rows.
        smallest: of all rows and places.
        total, squares: float64 [*event] sums over all rows; zeros of codes.
    """

    def __init__(self, column: Parameter) -> None:
        self._dtype = np.dtype("<i4") if column.dtype.kind in "iu" else column.dtype  # codes in one type, always
        self._digest = hashlib.sha256(f"{self._dtype}{column.shape}".encode())
        self.num = 0
        self.low: np.ndarray | None = None
        self.high: np.ndarray | None = None
        self.high_of_all = np.full(column.event, -np.inf)
        self.smallest = np.inf
        self.total, self.squares = np.zeros(column.event), np.zeros(column.event)

    def add(self, values: np.ndarray, is_looked_at: np.ndarray | None) -> None:
        """Rows [n, *event] that follow; `is_looked_at`: bool [n], None for all."""
        self.num += len(values)
        self._digest.update(np.ascontiguousarray(values.astype(self._dtype, copy=False)).data)
        highest, lowest = values.max(0), values.min(0)
        self.smallest = min(self.smallest, float(lowest.min()))
        self.high_of_all = np.maximum(self.high_of_all, highest)
        if self._dtype.kind == "f":
            self.total += values.sum(0, dtype=np.float64)
            self.squares += np.einsum("n...,n...->...", values, values, dtype=np.float64)
        if is_looked_at is not None and not is_looked_at.all():
            values = values[is_looked_at]
            if not len(values):
                return
            highest, lowest = values.max(0), values.min(0)
        self.low = lowest if self.low is None else np.minimum(self.low, lowest)
        self.high = highest if self.high is None else np.maximum(self.high, highest)

    @property
    def digest(self) -> str:
        """sha256 of all rows."""
        return self._digest.hexdigest()

    @property
    def largest(self) -> float:
        return float(self.high_of_all.max())

    @property
    def mean(self) -> np.ndarray:
        """float64 [*event], over all rows."""
        return self.total / self.num

    @property
    def std(self) -> np.ndarray:
        """float64 [*event], over all rows."""
        return np.sqrt(np.maximum(self.squares / self.num - self.mean**2, 0))


def survey(
    columns: Mapping[str, Parameter], kind: str, is_looked_at: np.ndarray | None, num_codes: np.ndarray | None = None
) -> dict[str, Facts]:
    """Read the whole of a stack once, and say what is seen of each parameter that is made of it.

    Args:
        columns: parameter -> all its rows, of one stack.
        kind: the config key of the array that they come from.
        is_looked_at: bool, one a row: whose spread matters; None: all.
        num_codes: the codebook size of every place; None: not known.

    Raises:
        DataError: a row is none of its kind.
    """
    facts = {name: Facts(column) for name, column in columns.items()}
    column = next(iter(columns.values()))
    rows = max(1, BLOCK_ELEMENTS // int(np.prod(column.event)))
    before = 0
    for part in column.stack.parts:
        for start in range(0, len(part), rows):
            block = part[start : start + rows]
            own = None if is_looked_at is None else is_looked_at[before + start : before + start + len(block)]
            for name, each in columns.items():
                values = _converted(each, block, part, kind, start)
                if num_codes is not None:
                    _check_codes(values, num_codes, part, start)
                facts[name].add(values, own)
        before += len(part)
    return facts


def _converted(column: Parameter, block: np.ndarray, part: Part, kind: str, start: int) -> np.ndarray:
    try:
        return column.convert(block)
    except NumberError as error:
        instead = f" (data.{error.instead}=NAME)" if error.instead and error.instead != kind else ""
        raise DataError(f"{part.place(start + error.row)} {error.words}; {error.remedy}{instead}") from error


def _check_codes(values: np.ndarray, num_codes: np.ndarray, part: Part, start: int) -> None:
    is_beyond = values >= num_codes
    if is_beyond.any():
        row, place = np.argwhere(is_beyond)[0]
        limit = int(num_codes[place])
        raise DataError(
            f"{part.place(start + int(row))} holds {values[row, place]}, and the codebook has {limit:,}: codes are 0 "
            f"to {limit - 1:,}; leave out special tokens, or raise data.num_codes"
        )


def digest_of(parts: Sequence[str | np.ndarray | None]) -> str:
    """sha256 over `parts` in their order, arrays by type, shape and content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            words = repr(part).encode()
            digest.update(f"{len(words)}:".encode() + words)
    return digest.hexdigest()
