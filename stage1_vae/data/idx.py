"""MNIST and its relatives in the IDX format (LeCun, Cortes & Burges, "The MNIST database of handwritten digits", 1998).

An IDX file is two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, one
big-endian uint32 a dimension, then the values. It may be gzipped; the content decides, not the suffix.
"""

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

import numpy as np
import torch

from stage1_vae.archives import check_unpacked
from stage1_vae.data.images import DataError, Domain, ImageData, InMemory, fingerprint
from stage1_vae.data.splits import check_total, existing, hold_out

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
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
}


@dataclass(frozen=True)
class Idx:
    """Four IDX files in one folder: images and labels, for training and (t10k) for the test.

    Args:
        root: the folder.
        name: of the data set; decides what `download` fetches.
        num_val: random training images held out for validation.
        download: fetch the files that are missing, with checksums.
    """

    root: str | None
    name: str = "mnist"
    num_val: int = 5000
    download: bool = False

    version: ClassVar[int] = 1

    def load(self) -> ImageData:
        """Read all four files.

        Raises:
            DataError: a file is missing, truncated, not IDX, or does not fit the others; a download fails.
        """
        paths = self._paths()
        images, labels = read_idx(paths[0], num_dims=3), read_idx(paths[1], num_dims=1)
        test_images, test_labels = read_idx(paths[2], num_dims=3), read_idx(paths[3], num_dims=1)
        _check_pair(paths[0], images, paths[1], labels)
        _check_pair(paths[2], test_images, paths[3], test_labels)
        if images.shape[1:] != test_images.shape[1:]:
            raise DataError(
                f"{paths[0].name} holds {_size(images)} images and {paths[2].name} {_size(test_images)} ones: "
                "put files of one data set into data.root"
            )
        check_total(len(images) + len(test_images))
        train_rows, val_rows = hold_out(len(images), self.num_val, "data.num_val")
        train = _in_memory(images[train_rows], labels[train_rows])
        val = _in_memory(images[val_rows], labels[val_rows])
        test = _in_memory(test_images, test_labels)
        num_classes = int(max(labels.max(), test_labels.max())) + 1
        names = CLASS_NAMES.get(self.name, ())
        return ImageData(
            name=self.name,
            train=train,
            val=val,
            test=test,
            shape=(1, *images.shape[1:]),
            levels=256,
            domain=Domain.UNIT,
            num_classes=num_classes,
            class_names=names if len(names) == num_classes else tuple(map(str, range(num_classes))),
            fingerprint=fingerprint(("idx", train, val, test)),
        )

    def _paths(self) -> list[Path]:
        if not self.download:
            hint = ", or fetch them with data.root=DIR data.download=true" if self.name in MIRRORS else ""
            folder = existing(self.root, "the folder of the four IDX files", hint)
            return [_find(folder, file, self.name) for file in FILES]
        if not self.root:
            raise DataError("data.download=true needs data.root=DIR: the folder to put the files into")
        if self.name not in MIRRORS:
            raise DataError(
                f"nowhere to download data.name={self.name} from: choose {' or '.join(MIRRORS)}, or data.download=false"
            )
        folder = Path(str(self.root)).expanduser().absolute()
        mirror = MIRRORS[self.name]
        return [
            _present(folder, file) or _fetch(mirror.url, f"{file}.gz", md5, folder)
            for file, md5 in zip(FILES, mirror.md5, strict=True)
        ]


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """The values of one IDX file of unsigned bytes, with `num_dims` dimensions.

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


def _values(path: Path, file: BinaryIO, packed_bytes: int, gzipped: bool, num_dims: int) -> np.ndarray:
    """The header decides how much is read, and the size of the file how much the header may say."""
    magic = bytes((0, 0, 8, num_dims))
    start = 4 + 4 * num_dims
    header = file.read(start)
    if header[:4] != magic:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes in {num_dims} dimensions: it starts with "
            f"{header[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}; fetch it again"
        )
    shape = tuple(int(n) for n in np.frombuffer(header[4:].ljust(4 * num_dims, b"\0"), dtype=">u4"))
    needed = start + math.prod(shape)
    if 0 in shape or (not gzipped and needed > packed_bytes):
        state = "empty" if 0 in shape else "truncated"
        raise DataError(f"{path} is {state}: {packed_bytes} bytes where {shape} needs {needed}; fetch it again")
    try:
        check_unpacked(path.name, needed, packed_bytes)
    except ValueError as error:
        raise DataError(f"{path} is refused: {error}; fetch it again, or take a machine with more memory") from error
    content = header + file.read(needed - start)
    if len(content) < needed:
        raise DataError(f"{path} is truncated: {len(content)} bytes where {shape} needs {needed}; fetch it again")
    if file.read(1):  # of a gzipped file this also compares the checksum
        raise DataError(f"{path} is too long: more than the {needed} bytes that {shape} needs; fetch it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _present(folder: Path, file: str) -> Path | None:
    dotted = file.replace("-idx", ".idx")  # some mirrors unpack them under this name
    candidates = (folder / name for name in (file, f"{file}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _find(folder: Path, file: str, name: str) -> Path:
    path = _present(folder, file)
    if path is None:
        remedy = "add data.download=true, or " if name in MIRRORS else ""
        raise DataError(
            f"{folder} has no {file} or {file}.gz: {remedy}name the folder of the IDX files with data.root=DIR"
        )
    return path


def _fetch(url: str, file: str, md5: str, folder: Path) -> Path:
    import pooch  # only where something is downloaded
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(pooch.retrieve(url + file, known_hash=f"md5:{md5}", fname=file, path=folder))
    except (RequestException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot download {url}{file} to {folder} ({reason}): put the files there by hand") from error


def _check_pair(images_path: Path, images: np.ndarray, labels_path: Path, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images but {labels_path.name} {len(labels)} labels: "
            "put files of one data set into data.root"
        )


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))


def _in_memory(images: np.ndarray, labels: np.ndarray) -> InMemory:
    return InMemory(torch.tensor(images).unsqueeze(1), torch.tensor(labels, dtype=torch.int64))
