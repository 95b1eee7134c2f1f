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
from typing import BinaryIO, ClassVar, cast

import numpy as np
import torch

from stage1_vae.data.images import DataError, Domain, ImageData, InMemory, fingerprint
from stage1_vae.data.labels import Labels, is_one_hot, read_labels
from stage1_vae.data.layout import arrange
from stage1_vae.data.pixels import Pixels, read_pixels
from stage1_vae.data.splits import MIN_PER_SPLIT, check_total, existing_path, hold_out
from stage1_vae.files.archives import check_unpacked

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Mirror:
    """Where the four gzipped files can be had, and their MD5 sums in the order of `FILES`."""

    url: str
    md5: tuple[str, str, str, str]


MIRRORS = {
    "mnist": Mirror(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": Mirror(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
}
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
class Files:
    """The four files in the order of `FILES`, the word before their names, and what was guessed to find them."""

    paths: tuple[Path, ...]
    prefix: str = ""
    guesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Idx:
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

    version: ClassVar[int] = 1

    def load(self) -> ImageData:
        """Read all four files.

        Raises:
            DataError: a file is missing, truncated, not IDX, or does not fit the others; a download fails.
        """
        if not isinstance(self.transpose, bool):
            raise DataError(f"data.transpose={self.transpose}: give true or false")
        files = self._files()
        prefix = files.prefix
        pixels, images, test_images = self._read_images(files.paths[0], files.paths[2])
        labels = self._read_labels(files.paths, (len(images), len(test_images)))
        check_total(len(images) + len(test_images))
        if len(test_images) < MIN_PER_SPLIT:
            raise DataError(f"{files.paths[2]} holds {len(test_images)} images; at least {MIN_PER_SPLIT} are needed")
        rows, test_rows = hold_out(len(images), self.num_val, "data.num_val"), np.arange(len(test_images))
        of_train, of_test = labels.numbers[: len(images)], labels.numbers[len(images) :]
        train, val, test = (
            InMemory(pixels.tensor(values[chosen]), torch.from_numpy(numbers[chosen]))
            for values, numbers, chosen in (
                (images, of_train, rows[0]),
                (images, of_train, rows[1]),
                (test_images, of_test, test_rows),
            )
        )
        names = labels.names
        if labels.are_plain and len(class_names := CLASS_NAMES.get(self.name, ())) == len(names) and not prefix:
            names = class_names
        further = [fact for fact in (pixels.facts, None if labels.are_plain else repr(labels.names)) if fact]
        on_side = (UPRIGHT,) if prefix.lower().startswith("emnist") and not self.transpose else ()
        return ImageData(
            name=prefix or self.name,
            train=train,
            val=val,
            test=test,
            shape=tuple(images.shape[1:]),
            levels=pixels.levels,
            domain=Domain.UNIT,
            num_classes=len(names),
            class_names=names,
            fingerprint=fingerprint(("idx", train, val, test, *further)),
            value_range=pixels.value_range,
            guesses=(*files.guesses, *pixels.guesses, *labels.guesses, *on_side),
        )

    def _read_images(self, path: Path, test_path: Path) -> tuple[Pixels, np.ndarray, np.ndarray]:
        """What the pixels mean, and the images of both files [N, C, H, W]."""
        arrays = []
        for file in (path, test_path):
            images = read_idx(file, (3, 4))
            arrays.append(arrange(str(file), images, None, Domain.UNIT)[0])
        if self.transpose:
            arrays = [images.swapaxes(2, 3) for images in arrays]
        if arrays[0].shape[1:] != arrays[1].shape[1:] or arrays[0].dtype != arrays[1].dtype:
            raise DataError(
                f"{path.name} holds {_size(arrays[0])} images and {test_path.name} {_size(arrays[1])} ones: "
                "put files of one data set into data.root"
            )
        arrays = [_bytes_if_whole(images) for images in arrays]
        pixels = read_pixels(str(path), np.concatenate(arrays), Domain.UNIT, self.levels, self.range, may_be_real=False)
        return pixels, arrays[0], arrays[1]

    def _read_labels(self, paths: tuple[Path, ...], nums: tuple[int, int]) -> Labels:
        """Labels of the training images, and behind them those of the test images."""
        path, test_path = paths[1], paths[3]
        parts = []
        for images_path, num, labels_path in zip(paths[::2], nums, paths[1::2], strict=True):
            part = read_idx(labels_path, (1, 2))
            if len(part) != num:
                raise DataError(
                    f"{images_path} holds {num} images but {labels_path.name} {len(part)} labels: "
                    "put files of one data set into data.root"
                )
            parts.append(part.reshape(len(part), -1))
        if parts[0].shape[1] != parts[1].shape[1]:
            raise DataError(
                f"{path.name} has {parts[0].shape[1]} columns of labels and {test_path.name} "
                f"{parts[1].shape[1]}: put files of one data set into data.root"
            )
        columns, rows = parts[0].shape[1], np.concatenate(parts)
        column = self.label_column
        if column is None and not is_one_hot(rows):
            column = 0
        labels = read_labels(str(path), rows, sum(nums), column, may_be_left_out=False)
        if columns > 1 and column is not None and self.label_column is None:
            guess = f"the first of {columns} columns of labels (data.label_column)"
            return Labels(labels.numbers, labels.names, (*labels.guesses, guess))
        return labels

    def _files(self) -> Files:
        if not self.download:
            hint = ", or fetch them with data.root=DIR data.download=true" if self.name in MIRRORS else ""
            return _find(existing_path(self.root, "the folder of the four IDX files", hint), self.name, self.prefix)
        if self.prefix is not None:
            raise DataError(f"data.prefix={self.prefix} chooses among files that are there: leave out data.download")
        if not self.root:
            raise DataError("data.download=true needs data.root=DIR: the folder to put the files into")
        if self.name not in MIRRORS:
            raise DataError(
                f"nowhere to download data.name={self.name} from: choose {' or '.join(MIRRORS)}, or data.download=false"
            )
        folder = Path(str(self.root)).expanduser().absolute()
        mirror = MIRRORS[self.name]
        return Files(
            tuple(
                _local_file(folder, file) or _fetch(mirror.url, f"{file}.gz", md5, folder)
                for file, md5 in zip(FILES, mirror.md5, strict=True)
            )
        )


def read_idx(path: Path, num_dims: tuple[int, ...]) -> np.ndarray:
    """The values of one IDX file, which has one of the numbers of dimensions `num_dims`; read only.

    Raises:
        DataError: not such a file, or cut short.
    """
    try:
        with path.open("rb") as file:
            packed_bytes = os.fstat(file.fileno()).st_size
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if gzipped else file
            return _values(path, cast(BinaryIO, content), packed_bytes, gzipped, num_dims)
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


def _bytes_if_whole(images: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 255 are bytes, whatever type they were written in."""
    if images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        return images
    return images.astype(np.uint8)


def _local_file(folder: Path, file: str) -> Path | None:
    dotted = file.replace("-idx", ".idx")  # some mirrors unpack them under this name
    candidates = (folder / name for name in (file, f"{file}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _find(root: Path, name: str, prefix: str | None) -> Files:
    """The four files of one set.

    Raises:
        DataError: they are not there, or those of several sets are.
    """
    if not root.is_dir():
        raise DataError(f"{root} is a file: name the folder of the four IDX files with data.root=DIR")
    folder = root
    guesses: tuple[str, ...] = ()
    sets = _sets(folder)
    below = [] if sets else [inner for inner in _folders_below(root) if _sets(inner)]
    if len(below) > 1:
        raise DataError(
            f"{root} has several folders of IDX files below it: name one of them, data.root="
            f"{' or '.join(str(inner) for inner in below[:3])}"
        )
    if below:
        folder, sets = below[0], _sets(below[0])
        guesses = (f"files from {folder.relative_to(root)}/ below data.root",)
    if prefix is None and len(sets) > 1 and "" not in sets:
        raise DataError(
            f"{folder} holds the files of {len(sets)} sets: choose one with data.prefix={min(sets)} "
            f"(there are {', '.join(sorted(sets))})"
        )
    word = prefix if prefix is not None else "" if "" in sets or not sets else min(sets)
    files = sets.get(word, {})
    missing = next((i for i in range(len(FILES)) if i not in files), None)
    if missing is not None:
        raise DataError(_missing_message(folder, f"{word}-{FILES[missing]}" if word else FILES[missing], name, sets))
    return Files(tuple(files[i] for i in range(len(FILES))), word, guesses)


def _missing_message(folder: Path, file: str, name: str, sets: dict[str, dict[int, Path]]) -> str:
    """What to say where `file` is missing: what is there, and, in a folder that holds nothing, how to fetch it."""
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    there = f" (it holds {', '.join(others[:3])}{', ...' * (len(others) > 3)})" if others else ""
    prefixes = [prefix for prefix in sets if prefix and not file.startswith(f"{prefix}-")]
    fetch = "add data.download=true, or " if name in MIRRORS and not any(sets) else ""
    choose = f"data.prefix={' or '.join(sorted(prefixes))}, or " if prefixes else ""
    remedy = f"{fetch}{choose}name the folder of the IDX files with data.root=DIR"
    return f"{folder} has no {file} or {file}.gz{there}: {remedy}"


def _folders_below(root: Path) -> list[Path]:
    """Folders one and two below `root`, as MNIST/raw is."""
    return [path for depth in ("*", "*/*") for path in sorted(root.glob(depth)) if path.is_dir()]


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


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[2:]))
