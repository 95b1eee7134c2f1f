"""Other files of arrays (`data=arrays`): HDF5, MATLAB's, tensors, text, TIFF, folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import torch
from layouts.array_files import write_hdf5, write_matlab_73
from layouts.arrays import KERAS, LABELS, MEDMNIST, NUM, levels, refused, taken
from scipy.io import savemat

X, ROWS = levels(NUM, 10, 10), levels(NUM, 784)


def hdf5(arrays: dict[str, Any], **more: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"root": str(write_hdf5(folder / "set.h5", arrays)), **more}


def matlab(arrays: dict[str, Any], version: str = "5", **more: Any) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        path = folder / "set.mat"
        savemat(path, arrays) if version == "5" else write_matlab_73(path, arrays)
        return {"root": str(path), **more}

    return make


def tensors(content: Any) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        torch.save(content, folder / "set.pt")
        return {"root": str(folder / "set.pt")}

    return make


def tiff(pages: np.ndarray, **more: Any) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        tifffile.imwrite(folder / "set.tif", pages)
        return {"root": str(folder / "set.tif"), **more}

    return make


def linked(folder: Path) -> dict[str, Any]:
    with h5py.File(folder / "set.h5", "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
    return {"root": str(folder / "set.h5")}


def folder_of(write: Callable[[Path, np.ndarray], object], names: str, splits: tuple[str, ...]) -> Callable[..., Any]:
    """A file a split, called as `names` says."""

    def make(folder: Path) -> dict[str, Any]:
        for split in splits:
            write(folder / names.format(split=split), ROWS)
        return {"root": str(folder)}

    return make


def amat(path: Path, rows: np.ndarray) -> None:
    np.savetxt(path, rows > 127, fmt="%d")


def house_numbers(path: Path, _: np.ndarray) -> None:
    savemat(path, {"X": levels(32, 32, 3, NUM), "y": (np.arange(NUM) % 10 + 1)[:, None]})


def npy_each(folder: Path) -> dict[str, Any]:
    for name, array in KERAS.items():
        np.save(folder / f"{name}.npy", array)
    return {"root": str(folder)}


CELL = np.empty((1, 2), object)
CELL[0, 0], CELL[0, 1] = X[0], X[1]
TORCHED = (torch.from_numpy(X), torch.from_numpy(LABELS))

LAYOUTS = [
    taken("HDF5: images, labels", hdf5({"images": X, "labels": LABELS[:, None]}), classes=("0", "1", "2", "3")),
    taken(
        "HDF5: train/images, train/labels, val/...",
        hdf5({name.replace("_", "/"): array for name, array in MEDMNIST.items()}),
        num=(13, 13, 13),
    ),
    refused("HDF5: a link to another file", linked, "another file"),
    taken("MATLAB 5: X (H, W, N), y", matlab({"X": X.transpose(1, 2, 0), "y": LABELS[:, None]}), shape=(1, 10, 10)),
    taken("MATLAB 5: X (H, W, C, N)", matlab({"X": levels(9, 8, 3, NUM)}), shape=(3, 9, 8), says=("HWCN",)),
    taken(
        "MATLAB 5: rows of pixels X (N, 784)",
        matlab({"X": ROWS}),
        shape=(1, 28, 28),
        says=("layout N_WH", "data.layout=N_HW"),
    ),
    taken(
        "MATLAB 5: data (784, N), target (K, N) (Omniglot)",
        matlab({"data": ROWS.T, "target": np.eye(4)[LABELS].T}),
        classes=("0", "1", "2", "3"),
        says=("layout WH_N", "one-hot"),
    ),
    refused("MATLAB 5: ff (560, N) (Frey)", matlab({"ff": levels(560, NUM)}, x="ff"), "data.size=[HEIGHT,WIDTH]"),
    taken(
        "the same, data.size=[28,20] data.layout=HW_N",
        matlab({"ff": levels(560, NUM)}, x="ff", size=[28, 20], layout="HW_N"),
        shape=(1, 28, 20),
    ),
    refused("MATLAB 5: a cell array", matlab({"x": CELL}), "cell2mat"),
    taken("MATLAB 7.3: X (H, W, C, N)", matlab({"X": levels(9, 8, 3, NUM)}, "7.3"), shape=(3, 9, 8), says=("HWCN",)),
    taken("torch: (images, labels)", tensors(TORCHED), classes=("0", "1", "2", "3"), says=("data.label",)),
    taken("torch: {images, labels}", tensors({"images": TORCHED[0], "labels": TORCHED[1]}), shape=(1, 10, 10)),
    refused("torch: a data set", tensors(torch.utils.data.TensorDataset(*TORCHED)), "torch.save((images, labels)"),
    taken("TIFF stack (N, H, W)", tiff(X), shape=(1, 10, 10)),
    refused("TIFF stack of 16 bits", tiff(X.astype(np.uint16) * 200), "data.range=[0,65535]"),
    taken("the same, data.range=[0,65535]", tiff(X.astype(np.uint16) * 200, range=[0, 65535]), levels=None),
    taken(
        "folder: NAME_train.amat, NAME_valid.amat, NAME_test.amat",
        folder_of(amat, "binarized_mnist_{split}.amat", ("train", "valid", "test")),
        levels=2,
        num=(NUM, NUM, NUM),
        shape=(1, 28, 28),
    ),
    taken(
        "folder: train_32x32.mat, test_32x32.mat (SVHN)",
        folder_of(house_numbers, "{split}_32x32.mat", ("train", "test")),
        shape=(3, 32, 32),
        says=("class 10 is the digit 0",),
    ),
    taken("folder: x_train.npy, y_train.npy, x_test.npy, y_test.npy", npy_each, num=(18, 2, 20)),
]
