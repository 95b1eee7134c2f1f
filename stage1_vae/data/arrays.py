"""Images in files of arrays: NumPy's, HDF5, MATLAB's, tensors, text, TIFF stacks.

Which array is which: `stage1_vae.data.readers.choosing`; how files are read: the other modules there. A split that is
not there is cut from the training images at random. Axes, values and labels: see `stage1_vae.data.layout`,
`stage1_vae.data.pixels` and `stage1_vae.data.labels`.

`.npy` and HDF5 files are read where they lie: one that exceeds the memory limit is never read as a whole.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, Source, fingerprint
from stage1_vae.data.labels import Labels, read_labels
from stage1_vae.data.layout import Axes, Hints, find_axes
from stage1_vae.data.pixels import Pixels, read_pixels
from stage1_vae.data.readers.choosing import Content, pass_over_unlabelled, read_content
from stage1_vae.data.readers.named import OnDisk
from stage1_vae.data.readers.opening import NAMES
from stage1_vae.data.readers.stack import Stack, Turned
from stage1_vae.data.splits import (
    MIN_PER_SPLIT,
    SPLITS,
    check_fraction,
    check_total,
    existing_path,
    fits_in_memory,
    hold_out,
    sides_of,
    split_rows,
)
from stage1_vae.data.watched import Watched

HOUSE_NUMBERS = ((3, 32, 32), tuple(map(str, range(1, 11))))
"""Shape and classes of SVHN, whose digit 0 has the label 10 (Netzer et al., "Reading Digits in Natural Images with
Unsupervised Feature Learning", 2011)."""


class Mapped(ImageSet):
    """Rows of an array on the disk, read a batch at a time.

    Args:
        array: [M, C, H, W], a view of the file.
        rows: the rows of this split, int64 [N].
        labels: int64 [N], or None.
        pixels: what its numbers mean.
    """

    def __init__(self, array: np.ndarray | Stack, rows: np.ndarray, labels: Tensor | None, pixels: Pixels) -> None:
        self.array, self.rows, self.labels, self.pixels = array, rows, labels, pixels

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Tensor:
        return self.pixels.tensor(self.array[self.rows[index.cpu().numpy()]])


@dataclass(frozen=True)
class Arrays(Source):
    """Images in a file of arrays, or in a folder of such files.

    Args:
        root: the file or folder.
        x, label: which arrays hold images and labels; None: those with a common name; `label` False: none.
        label_column: of labels in several columns, the one to take.
        layout: the axes in the order of the file, such as NHWC; None: to be found out.
        size: (height, width) of rows of pixels, or a number for squares; None: they make squares.
        levels: how many values unsigned bytes take; None: 256, or fewer where the images are next to black.
        range: the numbers that are black and white, where they are not 0 and 1 (floats) or 0 and 255 (bytes).
        val_fraction, test_fraction: what the fixed random split holds out, where the file has none.
        domain: "unit" for values in [0, 1] or uint8, "real" for any numbers.
        memory_limit_gib: files with more than this stay on disk (`.npy` and HDF5).
    """

    root: str | None
    x: str | None = None
    label: str | bool | None = None
    label_column: int | None = None
    layout: str | None = None
    size: int | Sequence[int] | None = None
    levels: int | None = None
    range: Sequence[float] | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    domain: str = "unit"
    memory_limit_gib: float = 2.0

    def load(self) -> ImageData:
        if self.domain not in ("unit", "real"):
            raise DataError(f"data.domain={self.domain} is unknown: choose unit or real")
        path, domain = existing_path(self.root, NAMES), Domain(self.domain)
        began_ns = time.time_ns()
        content = read_content(path, self.x, self.label, self._limit_bytes)
        pass_over_unlabelled(content)
        images, nums = self.images_of(path, content, domain)
        pixels = read_pixels(str(path), images, domain, content.guesses, self.levels, self.range)
        labels = self._labels(path, content, nums)
        numbers = torch.from_numpy(labels.numbers) if labels.names else None
        rows = self._rows(nums, content.guesses)
        is_on_disk = isinstance(images, (np.memmap, Stack))
        keep = fits_in_memory(images.nbytes, self.memory_limit_gib) or not is_on_disk
        sets: list[ImageSet] = []
        for split, own in rows.items():
            own_labels = None if numbers is None or split in content.unlabelled else numbers[own]
            if keep:
                sets.append(InMemory(pixels.tensor(images[own]), own_labels))
            else:
                sets.append(Mapped(images, own, own_labels, pixels))
        assignment = [torch.from_numpy(own) for own in rows.values()]
        further = pixels.facts + labels.facts
        if content.is_matlab and (images.shape[1:], labels.names) == HOUSE_NUMBERS:
            content.guesses.append("class 10 is the digit 0, if these are street view house numbers")
        return ImageData(
            path.stem,
            *sets,
            shape=tuple(images.shape[1:]),
            levels=pixels.levels,
            domain=domain,
            class_names=labels.names,
            check_unchanged=Watched([] if keep else content.files, began_ns).check,
            fingerprint=fingerprint(("arrays", self.domain, pixels.digest, numbers, *assignment, *further)),
            value_range=pixels.value_range,
            guesses=tuple(content.guesses),
            left_out=tuple(content.left_out),
        )

    @property
    def _limit_bytes(self) -> float:
        fits_in_memory(0, self.memory_limit_gib)  # which refuses what is no number
        return self.memory_limit_gib * 2**30

    def find_axes(self, what: str, shape: tuple[int, ...], domain: Domain, guesses: list[str], hints: Hints) -> Axes:
        """See `stage1_vae.data.layout.find_axes`."""
        return find_axes(what, shape, domain, guesses, hints)

    def images_of(self, path: Path, content: Content, domain: Domain) -> tuple[np.ndarray | Stack, dict[str, int]]:
        """All images [N, C, H, W], one split behind the other, and how many each has; labels get an image a row."""
        parts: dict[str, np.ndarray | Turned] = {}
        size = None if self.size is None else sides_of(self.size)
        for split, images in content.images.items():
            guesses: list[str] = []  # the same of each
            hints = Hints(self.layout, size, _count(content.labels.get(split), images.shape), content.is_matlab)
            axes = self.find_axes(_place(path, split), images.shape, domain, guesses, hints)
            parts[split] = _turned(images, axes)
            labels = content.labels.get(split)
            if labels is not None and labels.ndim == 2 and len(labels) != len(parts[split]) == labels.shape[1]:
                content.labels[split] = labels.T
        content.guesses += guesses
        kinds = {split: f"{images.dtype} {images.shape[1:]}" for split, images in parts.items()}
        first, *others = kinds
        for split in others:
            if kinds[first] != kinds[split]:
                raise DataError(
                    f"{path}: {first} holds {kinds[first]} and {split} {kinds[split]}: save all splits alike"
                )
        arrays = [images for images in parts.values() if isinstance(images, np.ndarray)]
        nums = {split: len(images) for split, images in parts.items()}
        if len(arrays) == len(parts) == 1:
            return arrays[0], nums
        stack = Stack(list(parts.values()))
        is_in_memory = not any(isinstance(images, (Turned, np.memmap)) for images in parts.values())
        return stack[:] if is_in_memory or stack.nbytes <= self._limit_bytes else stack, nums

    def _labels(self, path: Path, content: Content, nums: dict[str, int]) -> Labels:
        """Labels of all images but those of splits that have none, which come last."""
        no_labels = Labels(np.zeros(0, np.int64), ())
        if not content.labels:
            if self.label_column is not None:
                raise DataError(f"data.label_column={self.label_column}: {path} has no labels; leave the key out")
            return no_labels
        columns = set()
        for split, labels in content.labels.items():
            num_images = nums[split]
            if labels.ndim not in (1, 2) or len(labels) != num_images:
                raise DataError(
                    f"{_place(path, split)} holds {num_images} images but label has shape {labels.shape}: give one "
                    "label an image, or set data.label=false"
                )
            columns.add(labels.shape[1] if labels.ndim == 2 else 1)
        if len(columns) > 1:
            raise DataError(
                f"{path}: labels of its splits have {' and '.join(map(str, sorted(columns)))} columns: "
                "save all splits alike, or set data.label=false"
            )
        parts = [content.labels[split] for split in content.images if split in content.labels]
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts]) if len(parts) > 1 else parts[0]
        read = read_labels(
            str(path), rows, nums["all"] if "all" in nums else len(rows), self.label_column, content.guesses
        )
        if "train" in content.labels and (unseen := sorted(set(read.numbers) - set(read.numbers[: len(parts[0])]))):
            raise DataError(
                f"{path}: class {read.names[unseen[0]]} has no training images: add some, or set data.label=false"
            )
        if read.are_identities and self.label is None:
            content.left_out.append(
                f"labels of {len(read.names):,} values for {sum(nums.values()):,} images (data.label=NAME keeps them)"
            )
            return no_labels
        return read

    def _rows(self, sizes: dict[str, int], guesses: list[str]) -> dict[str, np.ndarray]:
        """Rows of each split; what the file has none of is cut from the training images."""
        if "all" in sizes:
            return split_rows(sizes["all"], self.val_fraction, self.test_fraction)
        check_total(sum(sizes.values()))
        if few := next((name for name, num in sizes.items() if num < MIN_PER_SPLIT), None):
            raise DataError(f"{sizes[few]} images in the {few} split; at least {MIN_PER_SPLIT} are needed: add images")
        ends = np.cumsum([*sizes.values()])
        rows = dict(zip(sizes, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
        for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            if name not in rows:
                check_fraction(f"{name}_fraction", fraction)
                train, key = rows["train"], f"data.{name}_fraction"
                rest, held = hold_out(len(train), max(MIN_PER_SPLIT, round(len(train) * fraction)), key)
                rows[name], rows["train"] = train[held], train[rest]
                guesses.append(f"{name} cut from train ({key})")
        return {name: rows[name] for name in SPLITS}


def _place(path: Path, split: str) -> str:
    return str(path) if split == "all" else f"{path} ({split})"


def _count(labels: np.ndarray | None, shape: tuple[int, ...]) -> int | None:
    """How many labels there are, if an axis of the images is as long."""
    if labels is None or labels.ndim > 2 or (labels.ndim == 2 and 1 not in labels.shape):
        return None
    return labels.size if labels.size in (shape[0], shape[-1]) else None


def _turned(images: np.ndarray | OnDisk, axes: Axes) -> np.ndarray | Turned:
    """Images [N, C, H, W]."""
    return axes.turn(images) if isinstance(images, np.ndarray) else Turned(images, axes)
