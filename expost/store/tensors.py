"""Reading tensors that others wrote: a safetensors file as `expost.store.safe` reads any file.

Its header is compared with the shapes that the reader expects, and with the size of the file, before the first number
is read.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load
from torch import Tensor

from expost.store.safe import UnsafeError, open_file, parse_json

MAX_HEADER_BYTES = 2**24
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of number types in a safetensors header."""


@dataclass(frozen=True)
class Layout:
    """What one tensor of a file is: its number type and its shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def layouts(module: torch.nn.Module) -> dict[str, Layout]:
    """What the file of a module's state must hold."""
    return {name: Layout(value.dtype, tuple(value.shape)) for name, value in module.state_dict().items()}


def read_layouts(folder: Path, name: str) -> dict[str, Layout]:
    """What the header of a safetensors file promises; no number of it is read.

    Raises:
        UnsafeError: the header is no such header, or promises anything but exactly the bytes that the file has.
    """
    with open_file(folder, name) as file:
        return _header(file, folder / name)[0]


def _header(file: BinaryIO, place: Path) -> tuple[dict[str, Layout], int]:
    """The layouts, and the bytes of the whole file, which stands behind its header afterwards."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise UnsafeError(f"{place} is truncated or damaged: a header of {length:,} bytes in a file of {size:,}")
    entries = parse_json(file.read(length), f"the header of {place}")
    entries.pop("__metadata__", None)
    tensors, spans = {}, []
    for key, entry in entries.items():
        tensors[key], span = _entry(entry, f"the header of {place}: {key}")
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise UnsafeError(f"{place} is damaged: its tensors overlap or leave gaps")
        end = stop
    if 8 + length + end != size:
        raise UnsafeError(f"{place} is truncated or damaged: {end:,} bytes promised, {size - 8 - length:,} there")
    return tensors, size


def _entry(entry: Any, what: str) -> tuple[Layout, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnsafeError(f"{what} is no tensor")
    shape, span = entry["shape"], entry["data_offsets"]
    numbers = isinstance(shape, list) and isinstance(span, list) and len(span) == 2 and len(shape) <= 16
    if not numbers or any(type(n) is not int or not 0 <= n < 2**63 for n in [*shape, *span]):
        raise UnsafeError(f"{what} has no valid shape or place")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise UnsafeError(f"{what} has the unknown type {entry['dtype']}")
    layout = Layout(DTYPES[entry["dtype"]], tuple(shape))
    if span[1] - span[0] != layout.num_bytes:
        raise UnsafeError(f"{what} promises {layout.num_bytes:,} bytes and has room for {span[1] - span[0]:,}")
    return layout, (span[0], span[1])


def read_tensors(folder: Path, name: str, expected: Mapping[str, Layout], sha256: str | None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Args:
        folder, name: where it is.
        expected: what must be in it, name by name.
        sha256: of the whole file; None: nobody knows it.

    Raises:
        UnsafeError: it holds anything else; all but the hash is compared before a number is read.
    """
    with open_file(folder, name) as file:
        tensors, size = _header(file, folder / name)
        for key in sorted(tensors.keys() | expected.keys()):
            if tensors.get(key) != expected.get(key):
                actual, wanted = (str(side.get(key, "missing")) for side in (tensors, expected))
                raise UnsafeError(f"{folder / name}: {key} is {actual}, and the configuration asks for {wanted}")
        file.seek(0)
        content = file.read(size)
    if len(content) != size or (sha256 is not None and hashlib.sha256(content).hexdigest() != sha256):
        raise UnsafeError(f"{folder / name} is damaged: its sha256 is not the one that was written down")
    try:
        return load(content)
    except Exception as error:  # the library's own opinion of a header that passed
        raise UnsafeError(f"{folder / name} is damaged: {error}") from error
