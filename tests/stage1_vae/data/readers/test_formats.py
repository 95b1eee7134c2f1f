"""The same images from files of every kind: equal to the bit, with their labels, in memory and where they lie."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from image_files import everything, refusal, sizes
from layouts.array_files import write_hdf5, write_matlab_73
from scipy.io import savemat

from stage1_vae.data.arrays import Arrays, Mapped
from stage1_vae.data.images import ImageData

X = np.random.default_rng(0).integers(0, 256, (60, 10, 10), dtype=np.uint8)
Y = np.arange(60) % 5
COLOUR = np.random.default_rng(1).integers(0, 256, (60, 9, 8, 3), dtype=np.uint8)
ROWS = {"F": X.transpose(0, 2, 1).reshape(60, -1), "C": X.reshape(60, -1)}


def npz(path: Path) -> Path:
    np.savez(path, x=X, label=Y)
    return path


def alike(data: ImageData, other: ImageData) -> bool:
    parts = zip((data.train, data.val, data.test), (other.train, other.val, other.test), strict=True)
    return all(
        torch.equal(everything(one), everything(two))
        and (one.labels is None or two.labels is None or torch.equal(one.labels, two.labels))
        for one, two in parts
    )


def to_mat(path: Path, **arrays: Any) -> None:
    savemat(path, arrays, do_compression=True)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "set.h5": lambda path: write_hdf5(path, {"images": X, "labels": Y[:, None]}),
    "squeezed.hdf5": lambda path: write_hdf5(path, {"x": X, "y": Y}, compression="gzip", chunks=True),
    "named.data": lambda path: write_hdf5(path, {"x": X, "y": Y}),
    "stacked.mat": lambda path: to_mat(path, X=X.transpose(1, 2, 0), y=Y[:, None]),
    "rows.mat": lambda path: to_mat(path, X=ROWS["F"], y=Y[None]),
    "omniglot.mat": lambda path: to_mat(path, data=ROWS["F"].T, target=np.eye(5)[Y].T),
    "new.mat": lambda path: write_matlab_73(path, {"X": X.transpose(1, 2, 0), "y": Y[:, None].astype(float)}),
    "tuple.pt": lambda path: torch.save((torch.from_numpy(X), torch.from_numpy(Y)), path),
    "old.pt": lambda path: torch.save((torch.tensor(X), torch.tensor(Y)), path, _use_new_zipfile_serialization=False),
    "dict.pth": lambda path: torch.save({"images": torch.from_numpy(X), "labels": Y.tolist()}, path),
}


@pytest.mark.parametrize("limit", [2.0, 1e-6], ids=["in memory", "on the disk"])
@pytest.mark.parametrize("name", WRITERS)
def test_the_same_images(tmp_path: Path, name: str, limit: float) -> None:
    reference = Arrays(str(npz(tmp_path / "reference.npz"))).load()
    WRITERS[name](tmp_path / name)
    data = Arrays(str(tmp_path / name), memory_limit_gib=limit).load()
    assert alike(data, reference) and data.fingerprint == reference.fingerprint
    assert data.class_names == reference.class_names and data.shape == (1, 10, 10)
    is_hdf5 = name in ("set.h5", "squeezed.hdf5", "named.data", "new.mat")
    assert isinstance(data.train, Mapped) == (is_hdf5 and limit < 1)


def test_groups_are_splits_and_what_changes_on_the_disk_is_noticed(tmp_path: Path) -> None:
    path = write_hdf5(
        tmp_path / "set.h5",
        {"train/images": X[:40], "train/labels": Y[:40], "test/images": X[40:], "test/labels": Y[40:]},
    )
    data, on_disk = (Arrays(str(path), memory_limit_gib=limit).load() for limit in (1, 0))
    assert sizes(data) == (36, 4, 20) and alike(data, on_disk) and data.fingerprint == on_disk.fingerprint
    index = torch.tensor([7, 3, 7])
    assert torch.equal(on_disk.train.batch(index), data.train.batch(index))
    assert torch.equal(on_disk.test.batch(torch.arange(20)), torch.from_numpy(X[40:, None]))
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    refusal(on_disk.check_unchanged, "has changed")


@pytest.mark.parametrize("suffix", ["v5.mat", "v73.mat"])
def test_colour_that_the_last_axis_counts(tmp_path: Path, suffix: str) -> None:
    turned = COLOUR.transpose(1, 2, 3, 0)  # as street view house numbers come
    path = tmp_path / suffix
    savemat(path, {"X": turned}) if suffix == "v5.mat" else write_matlab_73(path, {"X": turned})
    for limit in (1, 0):
        data = Arrays(str(path), memory_limit_gib=limit).load()
        assert data.shape == (3, 9, 8) and any("axes read as HWCN" in words for words in data.guesses)
        np.save(tmp_path / "same.npy", COLOUR)
        assert alike(data, Arrays(str(tmp_path / "same.npy")).load())


def test_house_numbers_are_told_which_digit_is_ten(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 60), dtype=np.uint8)
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": x, "y": (np.arange(60) % 10 + 1)[:, None]})
    savemat(tmp_path / "extra_32x32.mat", {"X": x})
    data = Arrays(str(tmp_path)).load()
    assert data.class_names[-1] == "10" and len(data.test) == 60
    assert any("class 10 is the digit 0" in words for words in data.guesses)
    assert any("extra_32x32.mat" in words for words in data.left_out)


@pytest.mark.parametrize("layout", ["N_HW", "N_WH", "HW_N", "WH_N"])
def test_rows_of_pixels_by_name(tmp_path: Path, layout: str) -> None:
    narrow = X[:, :, :7]
    rows = (narrow.transpose(0, 2, 1) if "WH" in layout else narrow).reshape(60, -1)
    np.save(tmp_path / "rows.npy", rows.T if layout.endswith("N") else rows)
    np.save(tmp_path / "same.npy", narrow)
    data = Arrays(str(tmp_path / "rows.npy"), layout=layout, size=[10, 7]).load()
    assert alike(data, Arrays(str(tmp_path / "same.npy")).load())
    refusal(lambda: Arrays(str(tmp_path / "rows.npy"), layout=layout).load(), "70 numbers", "data.size=[HEIGHT,WIDTH]")


@pytest.mark.parametrize("order", ["CHW", "HWC", "CWH"])
def test_rows_of_coloured_pixels(tmp_path: Path, order: str) -> None:
    rows = COLOUR.transpose([0, *("NHWC".index(letter) for letter in order)]).reshape(60, -1)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "same.npy", COLOUR)
    data = Arrays(str(tmp_path / "rows.npy"), layout=f"N_{order}", size=[9, 8]).load()
    assert alike(data, Arrays(str(tmp_path / "same.npy")).load())


def test_matlab_counts_down_the_columns_and_numpy_along_the_lines(tmp_path: Path) -> None:
    reference = Arrays(str(npz(tmp_path / "reference.npz")), label=False).load()
    savemat(tmp_path / "rows.mat", {"data": ROWS["F"]})
    np.save(tmp_path / "rows.npy", ROWS["C"])
    for name, words in (("rows.mat", "data.layout=N_HW if"), ("rows.npy", "data.layout=N_WH if")):
        data = Arrays(str(tmp_path / name)).load()
        assert alike(data, reference) and any(words in guess for guess in data.guesses)
    data = Arrays(str(tmp_path / "rows.mat"), layout="N_HW").load()
    assert torch.equal(everything(data.train), everything(reference.train).mT)


def test_binarised_digits_in_three_files(tmp_path: Path) -> None:
    digits = (X > 127).astype(np.uint8)
    for split, rows in {"train": digits[:40], "valid": digits[40:50], "test": digits[50:]}.items():
        np.savetxt(tmp_path / f"binarized_mnist_{split}.amat", rows.reshape(len(rows), -1), fmt="%d")
    data = Arrays(str(tmp_path)).load()
    assert sizes(data) == (40, 10, 10) and data.levels == 2
    assert torch.equal(everything(data.train), torch.from_numpy(digits[:40, None]))
    np.savetxt(tmp_path / "floats.csv", X.reshape(60, -1) / 255, delimiter=",")
    data = Arrays(str(tmp_path / "floats.csv")).load()
    assert data.levels is None and data.shape == (1, 10, 10)


@pytest.mark.parametrize("limit", [2.0, 1e-6])
def test_an_array_a_file(tmp_path: Path, limit: float) -> None:
    arrays: dict[str, np.ndarray] = {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    data = Arrays(str(tmp_path), memory_limit_gib=limit).load()
    assert sizes(data) == (36, 4, 20) and data.num_classes == 5
    assert torch.equal(everything(data.test), torch.from_numpy(X[40:, None]))
    assert isinstance(data.train, Mapped) == (limit < 1)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_one_stack_of_deep_pages(tmp_path: Path, compression: str | None) -> None:
    deep = X.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "set.tif", deep, compression=compression)
    refusal(lambda: Arrays(str(tmp_path / "set.tif")).load(), "uint16", "data.range=[0,65535]")
    data = Arrays(str(tmp_path / "set.tif"), range=[0, 65535]).load()
    np.save(tmp_path / "same.npy", X / np.float32(255))
    assert torch.allclose(everything(data.train), everything(Arrays(str(tmp_path / "same.npy")).load().train))


def test_words_are_classes_in_hdf5_too(tmp_path: Path) -> None:
    words = np.array(["ape", "bee", "cat"])[np.arange(60) % 3]
    path = write_hdf5(tmp_path / "set.h5", {"x": X, "label": words.astype(object)})
    assert Arrays(str(path)).load().class_names == ("ape", "bee", "cat")


@pytest.mark.parametrize(("library", "name"), [("h5py", "set.h5"), ("tifffile", "set.tif")])
def test_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str) -> None:
    write_hdf5(tmp_path / "set.h5", {"x": X})
    tifffile.imwrite(tmp_path / "set.tif", X)
    monkeypatch.setitem(sys.modules, library, None)
    refusal(lambda: Arrays(str(tmp_path / name)).load(), name, f"read by {library}: pip install 'expost[formats]'")
