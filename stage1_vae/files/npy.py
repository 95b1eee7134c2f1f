"""Reading NumPy files: what a header claims is compared with what is there, before memory is taken.

An `.npy` file is a header (type, shape, order) and then the numbers; an `.npz` file is a zip archive of such files
(NumPy Enhancement Proposal 1). Both are read by numpy; here it is decided whether they are. Refused: Python objects,
which would be unpickled; records; headers that claim more or less than the file holds; archives that unpack to more
than this machine has room for, or to a multiple that no picture compresses to.
"""

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from stage1_vae.files.archives import check_unpacked

MAX_HEADER_BYTES = 10_000
"""numpy's own limit, which it compares only after it has read the header."""
MAX_DIMS = 16
LOCAL_HEADER_BYTES = 30
"""Of a member of a zip archive, before its name."""


@dataclass(frozen=True)
class Header:
    """What an `.npy` file says of itself; its numbers start at byte `offset`."""

    dtype: np.dtype
    shape: tuple[int, ...]
    is_fortran: bool
    offset: int

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def map_array(path: Path) -> np.memmap:
    """The array in an `.npy` file, memory-mapped, for reading only.

    Raises:
        ValueError: it holds anything but one array of numbers, whole.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = read_header(file)
        size = os.fstat(file.fileno()).st_size
        if header.offset + header.num_bytes > size:
            raise ValueError(f"its header promises {header.num_bytes:,} bytes, and {size - header.offset:,} are there")
        order: Literal["F", "C"] = "F" if header.is_fortran else "C"
        return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)


def read_header(file: IO[bytes]) -> Header:
    """The header at the start of an `.npy` file; numbers follow.

    Raises:
        ValueError: it is none, or not of an array of numbers.
    """
    start = file.read(8)
    if len(start) < 8 or start[:6] != np.lib.format.MAGIC_PREFIX:
        raise ValueError("no array header")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its header has version {version[0]}.{version[1]}, which plain arrays do not need")
    prefix = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are expected")
    text = file.read(length)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(io.BytesIO(prefix + text), max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # what Python's parser says of nonsense: of recursion and memory too
        raise ValueError(f"its header is damaged: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if dtype.names is not None or dtype.subdtype is not None or dtype.itemsize == 0 or dtype.kind not in "biufcUS":
        raise ValueError(f"it holds {str(dtype)[:50]}, not numbers")
    if len(shape) > MAX_DIMS or any(type(n) is not int or not 0 <= n < 2**63 for n in shape):
        raise ValueError(f"its header has the shape {str(shape)[:100]}")
    return Header(dtype, shape, is_fortran, 8 + len(prefix) + length)


class NumpyArchive:
    """The arrays of an `.npz` file, each read when it is asked for.

    Attributes:
        names: of the arrays.
    """

    def __init__(self, archive: ZipFile) -> None:
        self._archive = archive
        self._members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        self.names = list(self._members)

    def header(self, name: str) -> Header:
        """What an array is; its numbers are not read.

        Raises:
            ValueError: it is no array of numbers, or not of the size that it claims.
        """
        member = self._members[name]
        with self._archive.open(member) as file:
            header = read_header(file)
        if header.offset + header.num_bytes != member.file_size:
            raise ValueError(
                f"{member.filename}: its header promises {header.num_bytes:,} bytes, "
                f"and {member.file_size - header.offset:,} are there"
            )
        return header

    def read(self, name: str) -> np.ndarray:
        """One array, in memory.

        Raises:
            ValueError: it is no array of numbers, is damaged, or is larger than it should be.
        """
        member = self._members[name]
        check_unpacked(member.filename, member.file_size, member.compress_size)
        self.header(name)
        with self._archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER_BYTES)

    def place(self, name: str) -> int | None:
        """The byte of the archive at which the numbers of an array start; None where they are compressed.

        Raises:
            ValueError: the archive and its listing do not agree on the member.
        """
        member = self._members[name]
        if member.compress_type != ZIP_STORED or self._archive.fp is None:
            return None
        file = self._archive.fp
        file.seek(member.header_offset)
        local = file.read(LOCAL_HEADER_BYTES)  # its own lengths of name and extra field count, not the listing's
        start = member.header_offset + LOCAL_HEADER_BYTES + int.from_bytes(local[26:28], "little")
        start += int.from_bytes(local[28:30], "little")
        file.seek(0, os.SEEK_END)
        if (
            local[:4] != b"PK\x03\x04"
            or member.file_size != member.compress_size
            or start + member.file_size > file.tell()
        ):
            raise ValueError(f"{member.filename} does not lie where the listing says")
        return start + self.header(name).offset
