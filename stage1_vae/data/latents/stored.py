"""Arrays as files hold them: .npy, .npz and .safetensors, each opened when its rows are asked for.

What lies uncompressed in a file is memory-mapped; of many files only the last few are kept open, for a system lends a
process few of them. What is compressed has to be read as a whole, and counts against `data.memory_limit_gib`.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.splits import fits_in_memory
from stage1_vae.files.archives import open_archive
from stage1_vae.files.npy import NumpyArchive, map_array, read_header
from stage1_vae.files.safetensors import BFLOAT16, DTYPES, read_entries, widen

SUFFIXES = (".npy", ".npz", ".safetensors")
MOST_OPEN = 128
MOST_NAMED = 8


class Shelf:
    """Arrays that are open, the last used ones of each load.

    Args:
        limit_gib: of arrays that have to be read as a whole.
    """

    def __init__(self, limit_gib: float) -> None:
        self.limit_gib = limit_gib
        fits_in_memory(0, limit_gib)  # refuses a limit that is none
        self._maps: OrderedDict[tuple[Path, str], np.ndarray] = OrderedDict()
        self._read: dict[tuple[Path, str], np.ndarray] = {}
        self._read_bytes = 0

    def array(self, stored: "Stored") -> np.ndarray:
        """The whole of it, mapped or in memory; bfloat16 as uint16.

        Raises:
            DataError: it cannot be read, or takes more memory than it may.
        """
        name = (stored.path, stored.key)
        if name in self._read:
            return self._read[name]
        if (array := self._maps.pop(name, None)) is None:
            try:
                array = stored.map() if stored.offset is not None else self._unpacked(stored)
            except (OSError, ValueError) as error:
                raise unreadable(stored.path, error) from error
        if stored.offset is None:
            self._read[name] = array
            return array
        self._maps[name] = array
        if len(self._maps) > MOST_OPEN:
            self._maps.popitem(last=False)
        return array

    def _unpacked(self, stored: "Stored") -> np.ndarray:
        self._read_bytes += stored.num_bytes
        if not fits_in_memory(self._read_bytes, self.limit_gib):
            raise DataError(
                f"{stored.words} is compressed and takes, with what is read already, {self._read_bytes / 2**30:.2f} "
                f"GiB of memory, more than data.memory_limit_gib={self.limit_gib:g}: raise it, or save by numpy.savez, "
                "as .npy or as .safetensors, which are read from the disk"
            )
        with stored.path.open("rb") as file, open_archive(file) as archive:
            return NumpyArchive(archive).read(stored.key)


@dataclass(frozen=True)
class Stored:
    """One array of a file.

    Attributes:
        path: the file.
        key: its name in it; empty in .npy.
        dtype: of numpy, or "bfloat16".
        shape: of the whole.
        offset: of its first number in the file; None where it is compressed.
        is_fortran: whether the first axis is the fastest.
        problem: why it cannot be read; empty where it can.
        shelf: where it is opened.
    """

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int | None
    shelf: Shelf = field(compare=False, repr=False)
    is_fortran: bool = False
    problem: str = ""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def words(self) -> str:
        """For the user."""
        return f"{self.path} ({self.key})" if self.key else str(self.path)

    def place(self, row: int) -> str:
        """Where a row is, for the user."""
        return f"{self.words}: row {row:,}"

    def origin(self, row: int) -> tuple[Path, int]:
        """The file of a row, and its number in there."""
        return self.path, row

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * self._numpy_dtype.itemsize

    @property
    def _numpy_dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    def map(self) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, self._numpy_dtype)
        order: Literal["F", "C"] = "F" if self.is_fortran else "C"
        return np.memmap(self.path, self._numpy_dtype, "r", self.offset or 0, self.shape, order)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice or by their numbers, int64 [n]; bfloat16 as float32.

        Raises:
            DataError: it cannot be read.
        """
        if self.problem:
            raise DataError(self.problem)
        values = np.asarray(self.shelf.array(self)[rows])
        return widen(values) if self.dtype == "bfloat16" else values


def unreadable(path: Path, error: Exception) -> DataError:
    """The line for a file that is none of its kind."""
    if isinstance(error, DataError):
        return error
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    if "Python objects" in reason:
        remedy = "which are not loaded: save latents as float32 and codes as int64, each in an array of its own"
        return DataError(f"{path} holds Python objects, {remedy}")
    return DataError(f"{path} cannot be read as a {path.suffix.lower()} file ({reason}): save it again")


def open_arrays(path: Path, shelf: Shelf) -> dict[str, Stored]:
    """Every array of a file by its name, "" of the one in .npy; none is read.

    Raises:
        DataError: the file is none of its kind, or promises what it does not hold.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            return {
                key: Stored(path, key, _name(entry.dtype), entry.shape, entry.offset, shelf)
                for key, entry in read_entries(path).items()
            }
        if path.suffix.lower() == ".npz":
            return _open_archive(path, shelf)
        array = map_array(path) if path.stat().st_size else None
        with path.open("rb") as file:
            header = read_header(file)
        del array  # its size was compared
        return {"": Stored(path, "", str(header.dtype), header.shape, header.offset, shelf, header.is_fortran)}
    except Exception as error:  # numpy's and zip's readers raise many kinds on a damaged file
        raise unreadable(path, error) from error


def _name(dtype: str) -> str:
    return "bfloat16" if dtype == BFLOAT16 else str(np.dtype(DTYPES[dtype]))


def _open_archive(path: Path, shelf: Shelf) -> dict[str, Stored]:
    arrays = {}
    with path.open("rb") as file, open_archive(file) as archive:
        numpy_archive = NumpyArchive(archive)
        for key in numpy_archive.names:
            try:
                header, offset = numpy_archive.header(key), numpy_archive.place(key)
                arrays[key] = Stored(path, key, str(header.dtype), header.shape, offset, shelf, header.is_fortran)
            except ValueError as error:  # another array of the file may still be what is asked for
                arrays[key] = Stored(path, key, "object", (0,), None, shelf, problem=f"{path}: {key}: {error}")
                if "Python objects" in str(error):
                    problem = str(unreadable(path, error)).replace(str(path), f"{path} ({key})", 1)
                    arrays[key] = Stored(path, key, "object", (0,), None, shelf, problem=problem)
                else:
                    raise
    return arrays


def list_keys(keys: "list[str]") -> str:
    """All names, or the first few of very many."""
    named = ", ".join(" ".join(key.split())[:60] or "one array without a name" for key in keys[:MOST_NAMED])
    return named + f" and {len(keys) - MOST_NAMED} more" * (len(keys) > MOST_NAMED) if keys else "nothing"
