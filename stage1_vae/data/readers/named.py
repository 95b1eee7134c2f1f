"""What every file of arrays is to those who read it: names, and an array for each, in memory or where it lies."""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.files.archives import MAX_RATIO, SURE_BYTES
from stage1_vae.machine import available_bytes


class OnDisk(ABC):
    """An array too large for memory, of which parts are read.

    Attributes:
        shape, dtype: of the whole.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def take(self, axis: int, index: slice | np.ndarray) -> np.ndarray:
        """The part of all other axes whole, and of `axis` a slice, or rows that increase.

        Raises:
            DataError: it cannot be read any more.
        """

    @property
    def ndim(self) -> int:
        return len(self.shape)


class NamedArrays(ABC):
    """The arrays of a file, each read when it is asked for.

    Attributes:
        names: of the arrays, those included that cannot be read.
        is_bare: whether there is one array, to which the file gives no name.
        is_matlab: whether axes are in MATLAB's order: images counted by the last one, and down the columns first.
        guesses: what was made of a file that can be read in several ways.
    """

    names: list[str]
    is_bare: ClassVar[bool] = False
    is_matlab: bool = False
    guesses: tuple[str, ...] = ()

    @abstractmethod
    def read(self, name: str) -> np.ndarray | OnDisk:
        """One array.

        Raises:
            ValueError: it is no array of numbers or words, is damaged, or is larger than it should be.
        """


class BarredError(ValueError):
    """An array that is there and is not read; the words say why, and what to do."""


def import_reader(library: str, what: str) -> Any:
    """The module that reads `what`, an optional dependency.

    Raises:
        DataError: it is not installed.
    """
    package = library.partition(".")[0]
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise DataError(f"{what} is read by {package}: pip install 'expost[formats]'") from error


def check_promised(what: str, size: int, packed: int) -> None:
    """Refuse an array of `size` bytes that lies on the disk as `packed` ones, whether or not it is read as a whole.

    Raises:
        ValueError: it is more than pictures are ever compressed by.
    """
    if size > SURE_BYTES and size > MAX_RATIO * packed:
        raise ValueError(f"{what} promises {size:,} bytes, and {packed:,} are there")


def check_room(what: str, size: int) -> None:
    """
    Raises:
        ValueError: `size` bytes are more than half of the memory that is free.
    """
    if size > (room := available_bytes() // 2):
        raise ValueError(f"{what} takes {size:,} bytes, and there is room for {room:,}")
