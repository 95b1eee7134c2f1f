"""MATLAB files up to version 7, which scipy reads; those of version 7.3 are HDF5 (`stage1_vae.data.readers.hdf5`)."""

import math
import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat

from stage1_vae.data.readers.named import BarredError, NamedArrays, check_promised, check_room

SIZES = {
    **dict.fromkeys(("int8", "uint8", "logical"), 1),
    **dict.fromkeys(("int16", "uint16"), 2),
    **dict.fromkeys(("int32", "uint32", "single"), 4),
    **dict.fromkeys(("int64", "uint64", "double"), 8),
}
"""Kinds of arrays of numbers -> bytes of one."""
REMEDIES = {
    "cell": "a cell array: save cat(4, X{:}) or cell2mat(X)",
    "struct": "a structure: save its fields as variables, save('FILE.mat', '-struct', 's')",
    "sparse": "a sparse matrix: save full(X)",
    "char": "text",
    "function": "a function handle",
    "object": "an object of a class: save its numbers as an array",
    "opaque": "an object of a class (table, string, datetime ...): save its numbers as an array, table2array(T)",
}


class Matlab(NamedArrays):
    """The variables of a file.

    Raises:
        ValueError, OSError: it is damaged; scipy raises other kinds, too.
    """

    is_matlab = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts = {name: (shape, kind) for name, shape, kind in whosmat(path, appendmat=False)}
        self.names = [name for name in self._facts if not name.startswith("__")]

    def read(self, name: str) -> np.ndarray:
        shape, kind = self._facts[name]
        if kind not in SIZES:
            raise BarredError(f"{name} is {REMEDIES.get(kind, f'of the kind {kind}')}")
        num_bytes = SIZES[kind] * math.prod(int(n) for n in shape)
        check_promised(name, num_bytes, os.path.getsize(self._path))
        check_room(f"{name} (in a file of version 7.3, save -v7.3, it may stay on the disk)", num_bytes)
        values = loadmat(self._path, variable_names=[name], appendmat=False)[name]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufc":
            raise BarredError(f"{name} is no array of numbers")
        return values.astype(bool) if kind == "logical" else values
