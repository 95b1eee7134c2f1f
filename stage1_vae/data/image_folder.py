"""Any folder of images, with or without class folders.

Splits: if the folder holds `train/` and `test/`, these are the splits, and `val/`, `valid/` or `validation/` the third;
`train/` and a validation folder without any other likewise. A split that has no folder is cut from the training images
at random. Anything else is one heap of images, cut three ways.

Classes: if every image of the set lies below a first-level folder, and there are at least two of these, they are the
classes, in alphabetical order. Hidden files and folders are passed over.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from stage1_vae.data.image_files import CONVERT, KIND, SUFFIXES, Files, Header, Target, decode_all, scan
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, fingerprint
from stage1_vae.data.splits import (
    MIN_PER_SPLIT,
    check_fraction,
    check_total,
    existing,
    fits_in_memory,
    shuffled,
    split_rows,
)
from stage1_vae.data.watched import Watched

VAL_FOLDERS = ("val", "valid", "validation")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Found:
    """One image file: where it is, and its path below the folder that holds its split."""

    path: Path
    inside: tuple[str, ...]


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images.

    Args:
        root: the folder.
        size: None for the most common size, a number for squares, or [height, width].
        mode: None to take the images as they are, "rgb" or "grey" to convert them.
        val_fraction, test_fraction: what random splits hold out, where there are no folders for them.
        memory_limit_gib: a set that is larger when decoded is read from disk batch by batch.
    """

    root: str | None
    size: int | Sequence[int] | None = None
    mode: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    memory_limit_gib: float = 2.0

    version: ClassVar[int] = 1

    def load(self) -> ImageData:
        """Find, check and, where they fit in memory, decode the images.

        Raises:
            DataError: the folder is missing, empty, too small, or holds damaged images or images of differing modes.
        """
        self._check_keys()
        root = existing(self.root, "a folder of images")
        splits = _split(root, self.val_fraction, self.test_fraction)
        classes = _class_names(splits)
        files = {name: [found.path for found in splits[name]] for name in SPLITS}
        paths = [path for name in SPLITS for path in files[name]]
        began_ns = time.time_ns()
        headers = scan(paths)
        target = Target(self._kind(paths, headers), self._size(headers))
        labels = {name: _labels(splits[name], classes) for name in SPLITS}
        keep = fits_in_memory(len(paths) * math.prod(target.shape), self.memory_limit_gib)
        sets: dict[str, ImageSet] = {
            name: InMemory(decode_all(files[name], target), labels[name])
            if keep
            else Files(files[name], target, labels[name])
            for name in SPLITS
        }
        content = b"".join(header.digest for header in headers)  # in the order of the splits
        facts = f"image_folder {target} {[len(files[name]) for name in SPLITS]} {classes}"
        return ImageData(
            name=root.resolve().name,
            train=sets["train"],
            val=sets["val"],
            test=sets["test"],
            shape=target.shape,
            levels=256,
            domain=Domain.UNIT,
            num_classes=len(classes),
            class_names=classes,
            check_unchanged=(lambda: None) if keep else Watched(paths, began_ns).check,
            fingerprint=fingerprint((facts, content, *labels.values())),
        )

    def _check_keys(self) -> None:
        check_fraction("val_fraction", self.val_fraction)
        check_fraction("test_fraction", self.test_fraction)
        if self.mode is not None and self.mode not in CONVERT:
            raise DataError(f"data.mode={self.mode} is unknown: choose rgb, grey or null")
        if self.size is None:
            return
        sides = (
            list(self.size) if isinstance(self.size, Sequence) and not isinstance(self.size, str) else [self.size] * 2
        )
        if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise DataError(f"data.size={self.size} is no size: give null, a whole number or [height,width]")

    def _size(self, headers: list[Header]) -> tuple[int, int]:
        if self.size is None:
            counts = Counter(header.size for header in headers)
            return min(counts, key=lambda size: (-counts[size], size))  # the smaller one of equally common sizes
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])

    def _kind(self, paths: list[Path], headers: list[Header]) -> str:
        first = {header.mode: path for path, header in zip(reversed(paths), reversed(headers), strict=True)}
        odd = next((mode for mode in first if mode not in KIND), None)
        if odd is not None and (self.mode is None or odd.startswith(("I", "F"))):
            remedy = (
                "convert it to 8 bits a channel"
                if odd.startswith(("I", "F"))
                else "set data.mode=rgb or data.mode=grey"
            )
            raise DataError(f"{first[odd]} has the unsupported mode {odd}: {remedy}")
        if self.mode is not None:
            return CONVERT[self.mode]
        if len(first) > 1:
            one, other = sorted(first)[:2]
            raise DataError(
                f"images of differing modes: {first[one]} is {one}, {first[other]} is {other}; "
                "set data.mode=rgb or data.mode=grey to convert them"
            )
        return KIND[next(iter(first))]


def _split(root: Path, val_fraction: float, test_fraction: float) -> dict[str, list[Found]]:
    """The images of each split, in random order."""
    if not root.is_dir():
        raise DataError(f"{root} is a file: name a folder of images with data.root=DIR, or choose data=arrays")
    heap = [Found(path, path.relative_to(root).parts) for path in _images(root)]
    if not heap:
        raise DataError(f"{root} is empty: there is no {', '.join(sorted(SUFFIXES))} file below data.root")
    check_total(len(heap))
    tops = {found.inside[0] for found in heap if len(found.inside) > 1}
    val_folders = [name for name in VAL_FOLDERS if name in tops]
    has_test = "test" in tops
    if "train" not in tops or not (has_test or (val_folders and len(tops) == 2)):
        rows = split_rows(len(heap), val_fraction, test_fraction)
        return {name: [heap[i] for i in getattr(rows, name)] for name in SPLITS}
    given = {"train": "train", "test": "test" if has_test else None, "val": val_folders[0] if val_folders else None}
    splits = {name: _below(heap, folder) for name, folder in given.items() if folder is not None}
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if name not in splits:
            num = max(MIN_PER_SPLIT, round(len(splits["train"]) * fraction))
            splits[name], splits["train"] = splits["train"][:num], splits["train"][num:]
    for name in SPLITS:
        if len(splits[name]) < MIN_PER_SPLIT:
            raise DataError(
                f"{root} has {len(splits[name])} images for the {name} split; "
                f"at least {MIN_PER_SPLIT} are needed: add images to {given[name] or 'train'}/"
            )
    return splits


def _images(root: Path) -> Iterator[Path]:
    """Image files below `root` in alphabetical order; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for file in sorted(files):
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES:
                yield Path(folder, file)


def _below(heap: list[Found], folder: str) -> list[Found]:
    inside = [
        Found(found.path, found.inside[1:]) for found in heap if found.inside[0] == folder and len(found.inside) > 1
    ]
    return [inside[i] for i in shuffled(len(inside))]


def _class_names(splits: Mapping[str, list[Found]]) -> tuple[str, ...]:
    """Names of the class folders in alphabetical order; none unless every image lies in one."""
    if any(len(found.inside) < 2 for images in splits.values() for found in images):
        return ()
    names = {split: {found.inside[0] for found in images} for split, images in splits.items()}
    known = set().union(*names.values())
    if len(known) < 2:
        return ()
    unseen = sorted(known - names["train"])
    if unseen:
        raise DataError(
            f"class folder {unseen[0]} has no training images: add some, or use the name of a training class"
        )
    return tuple(sorted(known))


def _labels(images: list[Found], classes: tuple[str, ...]) -> torch.Tensor | None:
    if not classes:
        return None
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[found.inside[0]] for found in images], dtype=torch.int64)
