"""Encoded pictures in the cells of Parquet files, read a group of rows at a time.

Shards may be many and large: their metadata is read first; of a column that is larger than memory should hold, so many
groups stay in memory as were read last.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from stage1_vae.data.readers.named import check_promised, check_room, import_reader
from stage1_vae.files.archives import SURE_BYTES

FEW_GROUPS = 4
"""Groups of rows of one file that stay in memory, where not all do."""
MAX_ROWS = 1024


class Column:
    """The pictures of one file.

    Args:
        path: the file.
        name: of the column: of bytes, or of structures of `bytes` and `path`, of which the former are read.
        in_structure: whether it is the latter.
        stays: whether what was read stays in memory.
        num_rows: of the file.
    """

    def __init__(self, path: Path, name: str, in_structure: bool, stays: bool, num_rows: int) -> None:
        self.path, self.name, self.num_rows = path, name, num_rows
        self._in_structure, self._stays = in_structure, stays
        self._reset()

    def _reset(self) -> None:
        self._lock, self._groups = threading.Lock(), OrderedDict[int, Any]()
        self._file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_groups", "_file")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def content(self, row: int) -> bytes:
        """The encoded picture of a row; empty where there is none.

        Raises:
            ValueError, OSError: the file is damaged, or promises more than it has.
        """
        with self._lock:
            if self._file is None:
                self._file = open_table(self.path)
                sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
                self._starts = np.cumsum([0, *sizes])
            group = int(np.searchsorted(self._starts, row, side="right")) - 1
            if group not in self._groups:
                self._groups[group] = self._read(group)
                while not self._stays and len(self._groups) > FEW_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            return self._groups[group][row - int(self._starts[group])].as_py() or b""

    def _read(self, group: int) -> Any:
        leaf = f"{self.name}.bytes" if self._in_structure else self.name
        size, packed = check_group(self._file, group, leaf)
        # A value that stands once in the file may stand in many rows: so few rows at once that all take little memory.
        rows = max(1, min(MAX_ROWS, SURE_BYTES // max(1, size)))
        chunks, taken = [], 0
        for batch in self._file.iter_batches(rows, row_groups=[group], columns=[leaf], use_threads=False):
            values = batch.column(0).field("bytes") if self._in_structure else batch.column(0)
            taken += values.nbytes
            check_promised(f"column {leaf}", taken, packed)
            chunks.append(values)
        return import_module("pyarrow").chunked_array(chunks)


@dataclass(frozen=True)
class Cell:
    """Where one picture is, called in words as a path would be."""

    column: Column
    row: int

    def __str__(self) -> str:
        return f"{self.column.path}, row {self.row}"

    @property
    def typical_bytes(self) -> int:
        """Of an encoded picture of its file."""
        return self.column.path.stat().st_size // max(1, self.column.num_rows)

    def content(self) -> bytes:
        """The encoded picture."""
        return self.column.content(self.row)


def open_table(path: Path) -> Any:
    """A Parquet file, its metadata read.

    Raises:
        DataError: pyarrow is not installed.
        ValueError, OSError: it is damaged.
    """
    parquet = import_reader("pyarrow.parquet", f"{path}, a Parquet table,")
    return parquet.ParquetFile(path)


def check_group(file: Any, group: int, leaf: str) -> tuple[int, int]:
    """Bytes of the column `leaf` in a group of rows: as they are, and as they lie on the disk.

    Raises:
        ValueError: they are more than is plausible, or than there is room for.
    """
    facts = file.metadata.row_group(group)
    columns = [facts.column(i) for i in range(facts.num_columns)]
    column = next(column for column in columns if column.path_in_schema == leaf)
    size, packed = column.total_uncompressed_size, column.total_compressed_size
    check_promised(f"column {leaf}", size, packed)
    check_room(f"a group of rows of column {leaf}", size)
    return size, packed
