"""Reading and writing safetensors files: tensors behind a JSON header that says where each one lies.

The header is compared with the size of the file before a number is read: tensors may not overlap, leave gaps or end
elsewhere than the file does. Tensors are memory-mapped; the format is described at
https://github.com/huggingface/safetensors#format.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_HEADER_BYTES = 2**24
BFLOAT16 = "BF16"
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    BFLOAT16: "<u2",  # NumPy has no such type: the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "|b1",
}
"""Name of a number type in a header -> what NumPy reads its bytes as."""
NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != BFLOAT16}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its number type in the header's words, its shape, its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def map(self, path: Path) -> np.ndarray:
        """The tensor in the file at `path`, for reading only; bfloat16 as uint16."""
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, DTYPES[self.dtype])
        return np.memmap(path, DTYPES[self.dtype], "r", self.offset, self.shape)


def read_entries(path: Path) -> dict[str, Entry]:
    """What a file holds, name by name.

    Raises:
        ValueError: it has no such header, or one that promises anything but exactly the bytes that are there.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"truncated or damaged: a header of {length:,} bytes in a file of {size:,}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("its header is damaged: it names no tensors")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, said, 8 + length) for name, said in header.items()}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.num_bytes)):
        if entry.offset != end:
            raise ValueError("damaged: its tensors overlap or leave gaps")
        end += entry.num_bytes
    if end != size:
        raise ValueError(f"truncated or damaged: its header promises {end:,} bytes, and it has {size:,}")
    return entries


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:100]!r} is there twice")
    return dict(pairs)


def _entry(name: str, said: Any, start: int) -> Entry:
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header is damaged: {name[:100]!r} is no tensor")
    shape, span = said["shape"], said["data_offsets"]
    numbers = isinstance(shape, list) and isinstance(span, list) and len(span) == 2 and len(shape) <= 16
    if not numbers or any(type(n) is not int or not 0 <= n < 2**63 for n in [*shape, *span]):
        raise ValueError(f"its header is damaged: {name[:100]!r} has no valid shape or place")
    if not isinstance(said["dtype"], str) or said["dtype"] not in DTYPES:
        raise ValueError(f"{name[:100]!r} is of the type {str(said['dtype'])[:50]}, which is not read")
    entry = Entry(said["dtype"], tuple(shape), start + span[0])
    if span[1] - span[0] != entry.num_bytes:
        raise ValueError(
            f"its header is damaged: {name[:100]!r} needs {entry.num_bytes:,} bytes and has {span[1] - span[0]:,}"
        )
    return entry


def widen(values: np.ndarray) -> np.ndarray:
    """bfloat16, as uint16, to float32: exact."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16, as uint16: to the nearest, of two equally near ones to the even one; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def write_header(file: BinaryIO, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """The header of a file in which `tensors`, name -> (number type in its words, shape), follow each other."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + Entry(dtype, shape, 0).num_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
