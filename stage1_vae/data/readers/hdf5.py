"""HDF5 files, and MATLAB files of version 7.3, which are HDF5 files whose axes stand in reverse.

A file may name other files, of which nothing is read: links that lead out of it, data kept outside, virtual data sets.
Data sets are found by hard links alone. What a data set promises is compared with what is stored of it.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.readers.named import BarredError, NamedArrays, OnDisk, check_promised, check_room, import_reader

MATLAB_KINDS = {
    "cell": "a cell array: save cat(4, X{:}) or cell2mat(X)",
    "struct": "a structure: save its fields as variables",
    "char": "text",
    "function_handle": "a function handle",
}
"""Of MATLAB -> what it is and what to do."""
OUTSIDE = "it lies in another file, and nothing outside of this one is read: copy the data into it (h5repack)"
MAX_OBJECTS = 2**16
MAX_WORD, MAX_WORDS = 200, 2**22
"""Characters of a label, and labels that are words."""


class Hdf5(NamedArrays):
    """The data sets of an HDF5 file; those in groups are called as their path, `train/images`.

    Args:
        path: the file.
        limit_bytes: a larger data set stays on the disk.

    Raises:
        DataError: h5py is not installed.
        ValueError: too many objects.
        OSError: it is damaged.
    """

    def __init__(self, path: Path, limit_bytes: float) -> None:
        self._path, self._limit = path, limit_bytes
        self._h5py = import_reader("h5py", f"{path}, an HDF5 file,")
        with path.open("rb") as file:
            self.is_matlab = file.read(6) == b"MATLAB"
        self._barred: dict[str, str] = {}
        self.names = []
        with self._h5py.File(path, "r", locking=False) as file:
            self._walk(file)
        self.names.sort()

    def _walk(self, root: Any) -> None:
        entered, pending = set(), [("", root)]
        num = 0
        while pending:
            prefix, group = pending.pop()
            address = self._h5py.h5o.get_info(group.id).addr
            if address in entered:
                continue
            entered.add(address)
            for name in group:
                num += 1
                if num > MAX_OBJECTS:
                    raise ValueError(f"it has more than {MAX_OBJECTS:,} objects")
                full = f"{prefix}{name}"
                if self.is_matlab and full.startswith("#"):  # where MATLAB keeps cells and objects
                    continue
                link = group.get(name, getlink=True)
                if not isinstance(link, self._h5py.HardLink):
                    is_external = isinstance(link, self._h5py.ExternalLink)
                    self._bar(full, OUTSIDE if is_external else "it is a link: name what it leads to")
                    continue
                item = group[name]
                if isinstance(item, self._h5py.Dataset):
                    self._add(full, item)
                elif isinstance(item, self._h5py.Group):
                    if "MATLAB_sparse" in item.attrs:
                        self._bar(full, "a sparse matrix: save full(X)")
                    else:
                        pending.append((f"{full}/", item))

    def _bar(self, name: str, why: str) -> None:
        self.names.append(name)
        self._barred[name] = why

    def _add(self, name: str, dataset: Any) -> None:
        why = ""
        if dataset.external or dataset.is_virtual:
            why = OUTSIDE
        elif dataset.shape is None or dataset.shape == ():
            return
        elif self.is_matlab and (words := self._matlab_words(dataset)):
            why = words
        elif dataset.dtype.kind not in "biufcSU" and self._h5py.check_string_dtype(dataset.dtype) is None:
            why = f"it holds {str(dataset.dtype)[:50]}, not numbers"
        if why:
            self._bar(name, why)
        else:
            self.names.append(name)

    def _matlab_words(self, dataset: Any) -> str:
        """What a variable is, if it is no array of numbers."""
        kind = dataset.attrs.get("MATLAB_class", b"")
        kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
        if "MATLAB_object_decode" in dataset.attrs:
            return f"a {kind}: save its numbers as an array, table2array(T) of a table"
        return "an empty array" if dataset.attrs.get("MATLAB_empty", 0) else MATLAB_KINDS.get(kind, "")

    def read(self, name: str) -> np.ndarray | OnDisk:
        if name in self._barred:
            raise BarredError(f"{name}: {self._barred[name]}")
        with self._h5py.File(self._path, "r", locking=False) as file:
            dataset = file[name]
            stored, chunk = dataset.id.get_storage_size(), dataset.dtype.itemsize * int(np.prod(dataset.chunks or (0,)))
            if stored > os.path.getsize(self._path):
                raise ValueError(f"{name}: its header promises {stored:,} bytes, more than the file has")
            check_promised(name, dataset.nbytes, stored)
            check_room(f"a block of {name}", chunk)
            if self._h5py.check_string_dtype(dataset.dtype) is not None:
                return _words(name, dataset)
            if dataset.nbytes > self._limit:
                return _DataSet(self._path, name, dataset.shape, dataset.dtype, self.is_matlab)
            check_room(name, dataset.nbytes)
            values = np.asarray(dataset[()])
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return values.T if self.is_matlab else values


def _words(name: str, dataset: Any) -> np.ndarray:
    if dataset.size > MAX_WORDS:
        raise ValueError(f"{name} holds {dataset.size:,} words; at most {MAX_WORDS:,} are expected")
    blocks = []
    for start in range(0, len(dataset), MAX_OBJECTS):
        block = dataset.asstr(errors="backslashreplace")[start : start + MAX_OBJECTS]
        if any(len(word) > MAX_WORD for word in block.flat):
            raise ValueError(f"{name} holds words of more than {MAX_WORD} characters")
        blocks.append(block.astype(str))
    return np.concatenate(blocks) if blocks else np.zeros(0, str)


class _DataSet(OnDisk):
    """One data set; each process opens the file for itself."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, is_reversed: bool) -> None:
        self.shape, self.dtype = (shape[::-1] if is_reversed else shape), dtype.newbyteorder("=")
        self._path, self._name, self._is_reversed = path, name, is_reversed
        self._opened: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def take(self, axis: int, index: slice | np.ndarray) -> np.ndarray:
        place = self.ndim - 1 - axis if self._is_reversed else axis
        try:
            values = np.asarray(self._dataset()[(slice(None),) * place + (index,)]).astype(self.dtype, copy=False)
        except Exception as error:  # h5py raises many kinds where a file is damaged or gone
            raise DataError(f"{self._path} cannot be read ({' '.join(str(error).split())[:200]})") from error
        return values.T if self._is_reversed else values

    def _dataset(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            h5py = import_reader("h5py", f"{self._path}, an HDF5 file,")
            self._opened = (os.getpid(), h5py.File(self._path, "r", locking=False)[self._name])
        return self._opened[1]
