"""Tables of numbers in text, a row an image: binarised digits in rows of 0 and 1, or anything that numpy reads.

Digits of MNIST in this form are those of Larochelle & Murray, "The Neural Autoregressive Distribution Estimator", 2011.
"""

import os
from pathlib import Path

import numpy as np

from stage1_vae.data.readers.named import NamedArrays, check_room

BLOCK_BYTES = 2**24
ZERO, ONE, LINE = b"01\n"
BLANKS = b" \t\r\n,"
MAX_LINE = 2**24
"""Bytes of the longest row."""


class Text(NamedArrays):
    """One table, rows by lines, columns by blanks or commas.

    Raises:
        ValueError: rows of several lengths; a line that never ends; words.
    """

    is_bare = True

    def __init__(self, path: Path) -> None:
        self._path, self.names = path, ["x"]

    def read(self, name: str) -> np.ndarray:
        check_room("the table", 4 * os.path.getsize(self._path))
        blocks: list[np.ndarray] = []
        rest = b""
        with self._path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                end = block.rfind(b"\n") + 1
                if not end and len(rest) > MAX_LINE:
                    raise ValueError(f"a line is longer than {MAX_LINE:,} bytes")
                if end:
                    blocks.append(_rows(rest + block[:end]))
                rest = block[end:] if end else rest + block
        blocks.append(_rows(rest))
        blocks = [block for block in blocks if block.size]
        if not blocks:
            raise ValueError("it has no rows of numbers")
        if len(widths := {block.shape[1] for block in blocks}) > 1:
            raise ValueError(f"its rows have {min(widths)} and {max(widths)} numbers")
        return np.concatenate(blocks)


def _rows(content: bytes) -> np.ndarray:
    """The rows of whole lines, [n, D]: uint8 where all are 0 or 1, else float32."""
    if not content.strip():
        return np.zeros((0, 0), np.uint8)
    values = np.frombuffer(content, np.uint8)
    is_digit = (values == ZERO) | (values == ONE)
    is_blank = np.isin(values, np.frombuffer(BLANKS, np.uint8))
    if (is_digit | is_blank).all() and not (is_digit[1:] & is_digit[:-1]).any():
        ends = np.append(np.flatnonzero(values == LINE), len(values))
        widths = np.diff(np.append(0, np.append(0, np.cumsum(is_digit))[ends]))
        widths = widths[widths > 0]
        if widths.min() != widths.max():
            raise ValueError(f"its rows have {widths.min()} and {widths.max()} numbers")
        return (values[is_digit] - ZERO).reshape(-1, widths[0])
    lines = content.decode("ascii").replace(",", " ").splitlines()
    return np.loadtxt(lines, dtype=np.float32, ndmin=2)
