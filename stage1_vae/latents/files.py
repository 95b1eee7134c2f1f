"""Latents on disk, filled block by block: what is encoded need never lie in memory.

The files have their full size from the start, so that a disk without room says so at once and not after an hour, and
so that several processes can fill disjoint rows of one data set. They are written as files and not through a memory
map: a disk that fills up then raises an error, where a map would kill the process. `latents.json` comes last; without
it there is no data set.
"""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from stage1_vae.files.npy import read_header
from stage1_vae.latents.spec import PARAMETERS, LatentSpec

HEADER = "latents.json"
LABELS = "labels"


class LatentWriter(ExitStack):
    """Open files of one data set; a context manager.

    Args:
        folder: where they are.
        spec: what one event is.
        family: a key of `PARAMETERS`.
        num: N, the number of latents.
        labelled: whether labels are kept beside them.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: a file is not of this shape.
    """

    def __init__(self, folder: Path, spec: LatentSpec, family: str, num: int, labelled: bool) -> None:
        self.folder, self.spec, self.family, self.num, self.labelled = folder, spec, family, num, labelled
        super().__init__()
        with ExitStack() as stack:
            self.files = {
                name: _RowFile(stack.enter_context((folder / f"{name}.npy").open("r+b")), shape, dtype)
                for name, (shape, dtype) in _columns(spec, family, num, labelled).items()
            }
            self.push(stack.pop_all())

    @classmethod
    def create(cls, folder: Path, spec: LatentSpec, family: str, num: int, labelled: bool) -> "LatentWriter":
        """Files of full size in the existing `folder`, all zeros; in one process only, before any other opens them.

        Raises:
            OSError: there is no room, or the folder cannot be written.
        """
        for name, (shape, dtype) in _columns(spec, family, num, labelled).items():
            facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            with (folder / f"{name}.npy").open("wb") as file:
                np.lib.format.write_array_header_1_0(file, facts)
                size = file.tell() + int(np.prod(shape)) * dtype.itemsize
                file.flush()
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        return cls(folder, spec, family, num, labelled)

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the parameters of one posterior."""
        return PARAMETERS[self.family]

    def write(self, start: int, params: Mapping[str, Tensor | np.ndarray], labels: Tensor | None) -> None:
        """Fill the rows from `start` on with parameters [n, *shape] and labels [n].

        Raises:
            ValueError: a row does not exist, or labels are missing or not expected.
        """
        if (labels is not None) != self.labelled:
            raise ValueError(f"labels are {'expected' if self.labelled else 'not expected'} in {self.folder}")
        columns = dict(params) if labels is None else {**params, LABELS: labels}
        for name, file in self.files.items():
            values = columns[name]
            file.write(start, values.detach().cpu().numpy() if isinstance(values, Tensor) else values)

    def finish(self, provenance: Mapping[str, str]) -> None:
        """Write the header: from now on the folder is a data set. Once, after every process has written its rows."""
        for file in self.files.values():
            file.file.flush()
        header = {
            "spec": self.spec.to_json(),
            "family": self.family,
            "num": self.num,
            "labels": self.labelled,
            "provenance": dict(provenance),
        }
        (self.folder / HEADER).write_text(json.dumps(header, indent=2), encoding="utf-8")


def _columns(spec: LatentSpec, family: str, num: int, labelled: bool) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name -> shape and dtype of every file."""
    files = {name: ((num, *spec.parameter_shape(name)), spec.dtype(name)) for name in PARAMETERS[family]}
    return files | ({LABELS: ((num,), np.dtype(np.int64))} if labelled else {})


class _RowFile:
    """An open `.npy` file of known shape, whose rows are written in blocks."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.file, self.shape, self.dtype = file, shape, dtype
        header = read_header(file)
        if (header.shape, header.is_fortran, header.dtype) != (shape, False, dtype):
            raise ValueError(f"{file.name} holds {header.dtype} {header.shape}, not {dtype} {shape}")
        self.start = header.offset

    def write(self, start: int, values: np.ndarray) -> None:
        if values.shape[1:] != self.shape[1:] or not 0 <= start <= start + len(values) <= self.shape[0]:
            raise ValueError(
                f"{Path(self.file.name).name}: {values.shape} from row {start} on does not fit into {self.shape}"
            )
        row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        self.file.seek(self.start + start * row_bytes)
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
