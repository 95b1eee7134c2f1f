"""MNIST and its relatives in the IDX format (LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998).

An IDX file is two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, one
big-endian uint32 a dimension, then the values. It may be gzipped; the content decides, not the suffix.

Four files make a set: images and labels, for training and for the test. MNIST's names are looked for first, then those
of its relatives, which put a word before them and may say test for t10k: emnist-letters-train-images-idx3-ubyte. Labels
of several columns are QMNIST's, whose first is the class.
"""

import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch

from stage1_vae.data.images import DataError, Domain, ImageData, InMemory, Source, fingerprint
from stage1_vae.data.labels import Labels, is_one_hot, read_labels
from stage1_vae.data.layout import Hints, find_axes
from stage1_vae.data.pixels import read_pixels
from stage1_vae.data.splits import MIN_PER_SPLIT, check_total, existing_path, hold_out
from stage1_vae.files.archives import check_unpacked

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
}
"""Where the four gzipped files can be had, and their MD5 sums in the order of `FILES`."""
CLASS_NAMES = {
    "fashion_mnist": (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
}
NAME = re.compile(r"(?:(.+)-)?(train|training|t10k|test|testing)-(images|labels?)[-.]idx\d-\w+(?:\.gz)?", re.IGNORECASE)
"""Of a file: the word before, the split, and what it holds."""
TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Byte of the header -> type of the values."""
UPRIGHT = "images that lie on their side are turned by data.transpose=true, as EMNIST's are"


@dataclass(frozen=True)
class Idx(Source):
    """Four IDX files in one folder: images and labels, for training and (t10k) for the test.

    Args:
        root: the folder.
        name: of the data set; decides what `download` fetches.
        prefix: of several sets in one folder, the word before the file names of the one that is meant.
        transpose: exchange rows and columns of each image.
        label_column: of labels in several columns, the one to take; None: the first.
        levels, range: see `stage1_vae.data.arrays.Arrays`.
        num_val: random training images held out for validation.
        download: fetch the files that are missing, with checksums.
    """

    root: str | None
    name: str = "mnist"
    prefix: str | None = None
    transpose: bool = False
    label_column: int | None = None
    levels: int | None = None
    range: Sequence[float] | None = None
    num_val: int = 5000
    download: bool = False

    def load(self) -> ImageData:
        if not isinstance(self.transpose, bool):
            raise DataError(f"data.transpose={self.transpose}: give true or false")
        guesses: list[str] = []
        paths, prefix = self._files(guesses)
        images, num_train = self._read_images(paths[0], paths[2])
        pixels = read_pixels(str(paths[0]), images, Domain.UNIT, guesses, self.levels, self.range, may_be_real=False)
        labels = self._read_labels(paths, (num_train, len(images) - num_train), guesses)
        check_total(len(images))
        if len(images) - num_train < MIN_PER_SPLIT:
            raise DataError(f"{paths[2]} holds {len(images) - num_train} images; at least {MIN_PER_SPLIT} are needed")
        rows = (*hold_out(num_train, self.num_val, "data.num_val"), np.arange(num_train, len(images)))
        splits = [InMemory(pixels.tensor(images[own]), torch.from_numpy(labels.numbers[own])) for own in rows]
        names = labels.names
        if not labels.facts and len(class_names := CLASS_NAMES.get(self.name, ())) == len(names) and not prefix:
            names = class_names
        if prefix.lower().startswith("emnist") and not self.transpose:
            guesses.append(UPRIGHT)
        return ImageData(
            prefix or self.name,
            *splits,
            shape=tuple(images.shape[1:]),
            levels=pixels.levels,
            class_names=names,
            fingerprint=fingerprint(("idx", *splits, *pixels.facts, *labels.facts)),
            value_range=pixels.value_range,
            guesses=tuple(guesses),
        )

    def _read_images(self, path: Path, test_path: Path) -> tuple[np.ndarray, int]:
        """The images of both files [N, C, H, W], and how many are those of the first."""
        arrays = []
        for file in (path, test_path):
            images = read_idx(file, (3, 4))
            arrays.append(find_axes(str(file), images.shape, Domain.UNIT, [], Hints(num=len(images))).turn(images))
        if self.transpose:
            arrays = [images.swapaxes(2, 3) for images in arrays]
        if arrays[0].shape[1:] != arrays[1].shape[1:] or arrays[0].dtype != arrays[1].dtype:
            size, test_size = ("x".join(map(str, images.shape[2:])) for images in arrays)
            raise DataError(
                f"{path.name} holds {size} images and {test_path.name} {test_size} ones: "
                "put files of one data set into data.root"
            )
        return np.concatenate([bytes_if_whole(images) for images in arrays]), len(arrays[0])

    def _read_labels(self, paths: Sequence[Path], nums: tuple[int, int], guesses: list[str]) -> Labels:
        """Labels of the training images, and behind them those of the test images."""
        parts = []
        for images_path, num, path in zip(paths[::2], nums, paths[1::2], strict=True):
            part = read_idx(path, (1, 2))
            if len(part) != num:
                raise DataError(
                    f"{images_path} holds {num} images but {path.name} {len(part)} labels: "
                    "put files of one data set into data.root"
                )
            parts.append(part.reshape(len(part), -1))
        columns, of_test = (part.shape[1] for part in parts)
        if columns != of_test:
            raise DataError(
                f"{paths[1].name} has {columns} columns of labels and {paths[3].name} {of_test}: "
                "put files of one data set into data.root"
            )
        rows, column = np.concatenate(parts), self.label_column
        takes_first = column is None and not is_one_hot(rows)
        labels = read_labels(
            str(paths[1]), rows, sum(nums), 0 if takes_first else column, guesses, may_be_left_out=False
        )
        if takes_first and columns > 1:
            guesses.append(f"the first of {columns} columns of labels (data.label_column)")
        return labels

    def _files(self, guesses: list[str]) -> tuple[list[Path], str]:
        """The four files in the order of `FILES`, and the word before their names."""
        if not self.download:
            hint = ", or fetch them with data.root=DIR data.download=true" if self.name in MIRRORS else ""
            root = existing_path(self.root, "the folder of the four IDX files", hint)
            return _find(root, self.name, self.prefix, guesses)
        if self.prefix is not None:
            raise DataError(f"data.prefix={self.prefix} chooses among files that are there: leave out data.download")
        if not self.root:
            raise DataError("data.download=true needs data.root=DIR: the folder to put the files into")
        if self.name not in MIRRORS:
            raise DataError(
                f"nowhere to download data.name={self.name} from: choose {' or '.join(MIRRORS)}, or data.download=false"
            )
        folder = Path(str(self.root)).expanduser().absolute()
        url, sums = MIRRORS[self.name]
        missing = zip(FILES, sums, strict=True)
        return [_local_file(folder, file) or _fetch(url, f"{file}.gz", md5, folder) for file, md5 in missing], ""


def read_idx(path: Path, num_dims: tuple[int, ...]) -> np.ndarray:
    """The values of one IDX file, which has one of the numbers of dimensions `num_dims`; read only.

    Raises:
        DataError: not such a file, or cut short.
    """
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if gzipped else file
            return _values(path, cast(BinaryIO, content), os.fstat(file.fileno()).st_size, gzipped, num_dims)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}): fetch it again") from error


def _values(path: Path, file: BinaryIO, packed_bytes: int, gzipped: bool, num_dims: tuple[int, ...]) -> np.ndarray:
    """The header decides how much is read, and the size of the file how much the header may say."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise DataError(f"{path} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}; fetch it again")
    if magic[3] not in num_dims:
        raise DataError(
            f"{path} is an IDX file of {magic[3]} dimensions; images have 3 dimensions, or 4 with channels, and "
            "labels 1: see which files were put under these names"
        )
    dtype, start = np.dtype(TYPES[magic[2]]), 4 + 4 * magic[3]
    shape = tuple(int(n) for n in np.frombuffer(file.read(4 * magic[3]).ljust(4 * magic[3], b"\0"), dtype=">u4"))
    num_bytes = dtype.itemsize * math.prod(shape)
    needed = start + num_bytes
    if 0 in shape or (not gzipped and needed > packed_bytes):
        state = "empty" if 0 in shape else "truncated"
        raise DataError(f"{path} is {state}: {packed_bytes} bytes where {shape} needs {needed}; fetch it again")
    try:
        check_unpacked(path.name, needed, packed_bytes)
    except ValueError as error:
        raise DataError(f"{path} is refused: {error}; fetch it again, or take a machine with more memory") from error
    content = file.read(num_bytes)
    if len(content) < num_bytes:
        raise DataError(
            f"{path} is truncated: {start + len(content)} bytes where {shape} needs {needed}; fetch it again"
        )
    if file.read(1):  # of a gzipped file this also compares the checksum
        raise DataError(f"{path} is too long: more than the {needed} bytes that {shape} needs; fetch it again")
    values = np.frombuffer(content, dtype=dtype).reshape(shape)
    return values if dtype.itemsize == 1 else values.astype(dtype.newbyteorder("="))


def bytes_if_whole(images: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 255 are bytes, whatever type they were written in."""
    if images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        return images
    return images.astype(np.uint8)


def _local_file(folder: Path, file: str) -> Path | None:
    dotted = file.replace("-idx", ".idx")  # some mirrors unpack them under this name
    candidates = (folder / name for name in (file, f"{file}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _find(root: Path, name: str, prefix: str | None, guesses: list[str]) -> tuple[list[Path], str]:
    """The four files of one set, and the word before their names."""
    if not root.is_dir():
        raise DataError(f"{root} is a file: name the folder of the four IDX files with data.root=DIR")
    folder, sets = root, _sets(root)
    if not sets:
        inside = [path for depth in ("*", "*/*") for path in sorted(root.glob(depth)) if path.is_dir()]  # as MNIST/raw
        below = [path for path in inside if _sets(path)]
        if len(below) > 1:
            raise DataError(
                f"{root} has several folders of IDX files below it: name one of them, data.root="
                f"{' or '.join(str(path) for path in below[:3])}"
            )
        for folder in below:
            sets = _sets(folder)
            guesses.append(f"files from {folder.relative_to(root)}/ below data.root")
    if prefix is None and len(sets) > 1 and "" not in sets:
        raise DataError(
            f"{folder} holds the files of {len(sets)} sets: choose one with data.prefix={min(sets)} "
            f"(there are {', '.join(sorted(sets))})"
        )
    word = prefix if prefix is not None else min(sets, default="")
    files = sets.get(word, {})
    if missing := [f"{word}-{file}" if word else file for i, file in enumerate(FILES) if i not in files]:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        there = f" (it holds {', '.join(others[:3])}{', ...' * (len(others) > 3)})" if others else ""
        fetch = "add data.download=true, or " if name in MIRRORS and not any(sets) else ""
        prefixes = sorted(other for other in sets if other and not missing[0].startswith(f"{other}-"))
        choose = f"data.prefix={' or '.join(prefixes)}, or " if prefixes else ""
        remedy = f"{fetch}{choose}name the folder of the IDX files with data.root=DIR"
        raise DataError(f"{folder} has no {missing[0]} or {missing[0]}.gz{there}: {remedy}")
    return [files[i] for i in range(len(FILES))], word


def _sets(folder: Path) -> dict[str, dict[int, Path]]:
    """The word before the file names -> place in `FILES` -> the file; an unpacked one before its gzipped copy."""
    sets: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := NAME.fullmatch(path.name)) and path.is_file():
            prefix, split, what = match.group(1) or "", match.group(2).lower(), match.group(3).lower()
            place = 2 * (not split.startswith("train")) + (what != "images")
            sets.setdefault(prefix, {}).setdefault(place, path)
    return sets


def _fetch(url: str, file: str, md5: str, folder: Path) -> Path:
    import pooch  # only where something is downloaded
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(url + file, known_hash=f"md5:{md5}", fname=file, path=folder))
    except (RequestException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot download {url}{file} to {folder} ({reason}): put the files there by hand") from error
