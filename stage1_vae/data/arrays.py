"""Images in one NumPy file: `.npy`, or `.npz` with `x` and optional `label`.

Layouts: (N, H, W), (N, C, H, W) and (N, H, W, C). The channel axis of a rank-4 array is the one of size 1, 3 or 4;
where both ends qualify, an axis of size 1 wins (an image one pixel high is no image), else channels-first does.

A `.npy` file is memory-mapped: one that exceeds the memory limit is never read as a whole.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, fingerprint
from stage1_vae.data.splits import existing, fits_in_memory, split_rows
from stage1_vae.data.watched import Watched
from stage1_vae.numpy_files import mapped, opened_npz

CHANNELS = (1, 3, 4)
CHUNK_BYTES = 64 * 2**20
MOST_NAMED = 5


class Mapped(ImageSet):
    """Rows of a memory-mapped array, read a batch at a time.

    Args:
        array: [M, C, H, W], a view of the file.
        rows: the rows of this split, int64 [N].
        labels: int64 [N], or None.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray, labels: Tensor | None) -> None:
        self.array, self.rows, self.labels = array, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Tensor:
        return _tensor(self.array[self.rows[index.cpu().numpy()]])


@dataclass(frozen=True)
class Arrays:
    """Images in a NumPy file.

    Args:
        root: the file.
        val_fraction, test_fraction: what the fixed random split holds out.
        domain: "unit" for values in [0, 1] or uint8, "real" for any numbers.
        memory_limit_gib: files with more than this stay on disk (`.npy` only).
    """

    root: str | None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    domain: str = "unit"
    memory_limit_gib: float = 2.0

    version: ClassVar[int] = 1

    def load(self) -> ImageData:
        """Open and check the file.

        Raises:
            DataError: the file is missing, unreadable, or holds something else than images.
        """
        if self.domain not in ("unit", "real"):
            raise DataError(f"data.domain={self.domain} is unknown: choose unit or real")
        domain = Domain(self.domain)
        path = existing(self.root, "a .npy or .npz file of images")
        began_ns = time.time_ns()
        images, labels = _open(path)
        images = _channels_first(path, images)
        _check_type(path, images, domain)
        digest = _check_values(path, images, domain)
        num_classes = 0 if labels is None else _check_labels(path, labels, len(images))
        split = split_rows(len(images), self.val_fraction, self.test_fraction)
        keep = fits_in_memory(images.nbytes, self.memory_limit_gib) or not isinstance(images, np.memmap)
        train, val, test = (_image_set(images, rows, labels, keep) for rows in (split.train, split.val, split.test))
        assignment = (torch.from_numpy(rows) for rows in (split.train, split.val, split.test))
        return ImageData(
            name=path.stem,
            train=train,
            val=val,
            test=test,
            shape=tuple(images.shape[1:]),
            levels=256 if images.dtype == np.uint8 else None,
            domain=domain,
            num_classes=num_classes,
            class_names=tuple(map(str, range(num_classes))),
            check_unchanged=(lambda: None) if keep else Watched([path], began_ns).check,
            fingerprint=fingerprint(
                (
                    "arrays",
                    self.domain,
                    digest,
                    None if labels is None else torch.from_numpy(labels.astype(np.int64)),
                    *assignment,
                )
            ),
        )


def _open(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels as they lie in the file."""
    if path.is_dir():
        raise DataError(
            f"{path} is a folder: name a .npy or .npz file with data.root=FILE, or choose data=image_folder"
        )
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"{path} is neither .npy nor .npz: save the images with numpy.save or numpy.savez")
    if not path.is_file():
        raise DataError(f"{path} is no plain file: name a .npy or .npz file with data.root=FILE")
    try:
        if path.suffix == ".npy":
            return mapped(path), None
        with opened_npz(path) as archive:
            _check_names(path, archive.names)
            return archive.read("x"), archive.read("label") if "label" in archive.names else None
    except DataError:
        raise
    except Exception as error:  # numpy's and zip's readers raise many kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        if "Python objects" in reason:
            raise DataError(
                f"{path} holds Python objects, which are not loaded: save one uint8 or float32 array"
            ) from error
        raise DataError(f"{path} cannot be read as a NumPy file ({reason}): save it again") from error


def _check_names(path: Path, names: list[str]) -> None:
    if "x" not in names:
        found = " ".join(", ".join(names[:MOST_NAMED]).split()) + ", ..." * (len(names) > MOST_NAMED)
        raise DataError(f"{path} holds {found or 'nothing'}; the images must be called x, labels label")
    stray = {"labels", "y", "target", "targets"} & set(names)
    if stray and "label" not in names:
        raise DataError(f"{path} holds {', '.join(sorted(stray))}; labels must be called label: rename the key")


def _channels_first(path: Path, images: np.ndarray) -> np.ndarray:
    """A view [N, C, H, W]."""
    shape = images.shape
    if images.ndim not in (3, 4) or 0 in shape[1:]:
        raise DataError(f"{path} has shape {shape}: images are (N, H, W), (N, C, H, W) or (N, H, W, C)")
    if images.ndim == 3:
        return images[:, None]
    if shape[1] not in CHANNELS and shape[3] not in CHANNELS:
        raise DataError(f"{path} has shape {shape}: no channel axis of size 1, 3 or 4 in (N, C, H, W) or (N, H, W, C)")
    last = shape[3] in CHANNELS and (shape[1] not in CHANNELS or (shape[3] == 1 and shape[1] != 1))
    return images.transpose(0, 3, 1, 2) if last else images


def _check_type(path: Path, images: np.ndarray, domain: Domain) -> None:
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise DataError(f"{path} is {images.dtype}: save it as uint8 (0 to 255) or as float32 in [0, 1]")
    if images.dtype == np.uint8 and domain is Domain.REAL:
        raise DataError(f"{path} is uint8, level numbers and no real numbers: set data.domain=unit")


def _chunks(images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        yield start, np.ascontiguousarray(images[start : start + rows])


def _check_values(path: Path, images: np.ndarray, domain: Domain) -> str:
    """Look at each value once, in chunks; the sha256 of all, in hexadecimal."""
    digest = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    low, high = np.inf, -np.inf
    for start, chunk in _chunks(images):
        digest.update(chunk.tobytes())
        chunk_low, chunk_high = float(chunk.min()), float(chunk.max())  # NaN travels through both
        if not (np.isfinite(chunk_low) and np.isfinite(chunk_high)):
            bad = int(np.argmin(np.isfinite(chunk).all(axis=(1, 2, 3))))
            raise DataError(
                f"{path} holds NaN or infinite values (first in image {start + bad}): remove or replace them"
            )
        low, high = min(low, chunk_low), max(high, chunk_high)
    if images.dtype == np.uint8 and len(images) and high <= 1:
        raise DataError(f"{path} is uint8 but holds only 0 and 1: multiply by 255, or save it as float32")
    if images.dtype != np.uint8 and domain is Domain.UNIT and (low < 0 or high > 1):
        raise DataError(
            f"{path} holds values from {low:g} to {high:g}, outside [0, 1]: divide by 255, or set data.domain=real"
        )
    if images.dtype == np.float64 and max(abs(low), abs(high)) > float(np.finfo(np.float32).max):
        raise DataError(f"{path} holds values up to {max(abs(low), abs(high)):g}, beyond float32: rescale them")
    return digest.hexdigest()


def _check_labels(path: Path, labels: np.ndarray, num_images: int) -> int:
    """The number of classes."""
    if labels.shape != (num_images,):
        raise DataError(f"{path} holds {num_images} images but label has shape {labels.shape}: give one label an image")
    present = np.unique(labels) if labels.dtype.kind in "iu" else None
    if present is None or not np.array_equal(present, np.arange(len(present))):
        raise DataError(
            f"{path}: label must hold integers 0..K-1, each at least once: "
            "numpy.unique(label, return_inverse=True)[1] renumbers them"
        )
    return len(present)


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.uint8 if images.dtype == np.uint8 else np.float32))


def _image_set(images: np.ndarray, rows: np.ndarray, labels: np.ndarray | None, keep: bool) -> ImageSet:
    kept = None if labels is None else torch.from_numpy(labels[rows].astype(np.int64))
    return InMemory(_tensor(images[rows]), kept) if keep else Mapped(images, rows, kept)
