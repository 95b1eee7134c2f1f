"""Which reader a file of arrays gets: its first bytes decide, its suffix only where they say nothing.

A folder is one file of arrays, too, where it holds an array a file, called x_train.npy and y_train.npy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.readers.hdf5 import Hdf5
from stage1_vae.data.readers.matlab import Matlab
from stage1_vae.data.readers.named import BarredError, NamedArrays
from stage1_vae.data.readers.text import Text
from stage1_vae.data.readers.tiff import Tiff
from stage1_vae.data.readers.torch_files import TorchFile
from stage1_vae.files.archives import open_archive
from stage1_vae.files.npy import NumpyArchive, map_array

NUMPY = (".npy", ".npz")
HDF5, MATLAB = (".h5", ".hdf5", ".hdf", ".he5"), (".mat",)
TORCH, TEXT, TIFF = (".pt", ".pth"), (".amat", ".txt", ".csv", ".dat"), (".tif", ".tiff")
SUFFIXES = (*NUMPY, *HDF5, *MATLAB, *TORCH, *TEXT, *TIFF)
NAMES = "an array file (.npy, .npz, .h5, .mat, .pt, .amat, .tif)"
MARKS = {
    b"\x93NUMPY": NUMPY[0],
    b"\x89HDF\r\n\x1a\n": HDF5[0],
    b"MATLAB 7.3": HDF5[0],
    b"MATLAB 5.0": MATLAB[0],
    b"II*\0": TIFF[0],
    b"MM\0*": TIFF[0],
    b"II+\0": TIFF[0],
    b"MM\0+": TIFF[0],
    b"PAR1": ".parquet",
}
"""How files begin -> a suffix of their kind."""
WORDS = {
    **dict.fromkeys(NUMPY, "a NumPy file"),
    **dict.fromkeys(HDF5, "an HDF5 file"),
    **dict.fromkeys(MATLAB, "a MATLAB file"),
    **dict.fromkeys(TORCH, "a file of torch.save"),
    **dict.fromkeys(TEXT, "a table of numbers"),
    **dict.fromkeys(TIFF, "a TIFF stack"),
}


class _Npy(NamedArrays):
    """One array, memory-mapped."""

    is_bare = True

    def __init__(self, path: Path) -> None:
        self._array, self.names = map_array(path), ["x"]

    def read(self, name: str) -> np.ndarray:
        return self._array


class _Npz(NamedArrays):
    def __init__(self, archive: NumpyArchive) -> None:
        self._archive, self.names = archive, archive.names

    def read(self, name: str) -> np.ndarray:
        return self._archive.read(name)


class NpyFolder(NamedArrays):
    """Arrays of a folder, each called as its file."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = {path.stem: path for path in paths}
        self.names = list(self._paths)

    def read(self, name: str) -> np.ndarray:
        try:
            return map_array(self._paths[name])
        except ValueError as error:
            raise ValueError(f"{self._paths[name].name}: {error}") from error


@contextmanager
def open_arrays(path: Path, limit_bytes: float) -> Iterator[NamedArrays]:
    """The arrays of a file.

    Args:
        path: of a plain file.
        limit_bytes: where the format allows it, a larger array stays on the disk.

    Raises:
        DataError: its kind is not read, its reader is not installed, or it is damaged; also where the latter is found
            out while the arrays are in use.
    """
    kind = _kind(path)
    try:
        if kind == ".npz":
            with path.open("rb") as file, open_archive(file) as archive:
                yield _Npz(NumpyArchive(archive))
        elif kind in HDF5:
            yield Hdf5(path, limit_bytes)
        else:
            readers: dict[str, type[_Npy] | type[Matlab] | type[TorchFile] | type[Text] | type[Tiff]] = {
                ".npy": _Npy,
                **dict.fromkeys(MATLAB, Matlab),
                **dict.fromkeys(TORCH, TorchFile),
                **dict.fromkeys(TEXT, Text),
                **dict.fromkeys(TIFF, Tiff),
            }
            yield readers[kind](path)
    except DataError:
        raise
    except BarredError as error:
        raise DataError(f"{path} is not read: {error}") from error
    except Exception as error:  # readers raise many kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        if "Python objects" in reason:
            remedy = (
                "save images as uint8 or float32, and labels as numbers or by labels.astype(str)"
                if kind in NUMPY
                else "save tensors by torch.save((images, labels), FILE)"
            )
            raise DataError(f"{path} holds Python objects, which are not loaded: {remedy}") from error
        if "imagecodecs" in reason:
            raise DataError(f"{path} is compressed, and imagecodecs reads it: pip install 'expost[formats]'") from error
        raise DataError(f"{path} cannot be read as {WORDS[kind]} ({reason}): save it again") from error


def _kind(path: Path) -> str:
    """A suffix of the kind of file that it is."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(512)  # where MATLAB's HDF5 begins, and what else has a block of the user's before it
        later = file.read(8)
    kind = next((kind for mark, kind in MARKS.items() if start.startswith(mark)), "")
    if not kind and MARKS.get(later) == HDF5[0]:
        kind = HDF5[0]
    kind = kind or suffix
    if kind == ".parquet":
        raise DataError(f"{path} is a Parquet table: choose data=image_folder, with the same data.root")
    if kind not in SUFFIXES:
        raise DataError(
            f"{path} is neither .npy nor .npz, nor .h5, .mat, .pt, .amat or .tif: save the images with numpy.save or "
            "numpy.savez"
        )
    return kind
