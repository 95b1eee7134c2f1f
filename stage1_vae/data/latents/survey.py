"""One look at every row of every column, in blocks: what is refused, and the facts that the pipeline needs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.columns import Parameter, Part
from stage1_vae.latents.numbers import NumberError

BLOCK_ELEMENTS = 2**20


@dataclass
class Facts:
    """Of one column of one split.

    Attributes:
        digest: sha256 of its content.
        low, high: [*event] the smallest and the largest of the rows that were to be looked at; None without one.
        high_of_all: [*event] the largest of all rows.
        smallest, largest: of all rows and places.
        mean, std: float64 [*event], over all rows; zeros of codes.
    """

    digest: str
    low: np.ndarray | None
    high: np.ndarray | None
    high_of_all: np.ndarray
    smallest: float
    largest: float
    mean: np.ndarray
    std: np.ndarray


def survey(column: Parameter, kind: str, is_looked_at: np.ndarray | None, num_codes: np.ndarray | None = None) -> Facts:
    """Read the whole of a column's stack once.

    Args:
        column: all rows of a stack.
        kind: the config key of the array that it comes from.
        is_looked_at: bool, one a row: whose spread matters; None: all.
        num_codes: the largest code that may be, one a place, and one; None: not known.

    Raises:
        DataError: a row is none of its kind.
    """
    digest = hashlib.sha256(f"{column.dtype}{column.shape}".encode())
    low: Any = None
    high: Any = None
    high_of_all = np.full(column.event, -np.inf)
    smallest = np.inf
    total, squares = np.zeros(column.event), np.zeros(column.event)
    rows = max(1, BLOCK_ELEMENTS // int(np.prod(column.event)))
    before = 0
    for part in column.stack.parts:
        for start in range(0, len(part), rows):
            values = _converted(column, part, kind, start, min(start + rows, len(part)))
            if num_codes is not None:
                _check_codes(values, num_codes, part, start)
            digest.update(np.ascontiguousarray(values.astype(_hashed(column.dtype), copy=False)).data)
            smallest = min(smallest, values.min())
            highest = values.max(0)
            high_of_all = np.maximum(high_of_all, highest)
            if column.dtype.kind == "f":
                total += values.sum(0, dtype=np.float64)
                squares += np.einsum("n...,n...->...", values, values, dtype=np.float64)
            first = before + start
            own = values if is_looked_at is None else values[is_looked_at[first : first + len(values)]]
            if len(own):
                own_high = highest if own is values else own.max(0)
                low = own.min(0) if low is None else np.minimum(low, own.min(0))
                high = own_high if high is None else np.maximum(high, own_high)
        before += len(part)
    mean = total / len(column)
    std = np.sqrt(np.maximum(squares / len(column) - mean**2, 0))
    return Facts(digest.hexdigest(), low, high, high_of_all, float(smallest), float(high_of_all.max()), mean, std)


def _hashed(dtype: np.dtype) -> np.dtype:
    """Codes are hashed in one type, whatever they are kept in."""
    return np.dtype("<i4") if dtype.kind in "iu" else dtype


def _converted(column: Parameter, part: Part, kind: str, start: int, stop: int) -> np.ndarray:
    try:
        return column.convert(part[start:stop])
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
