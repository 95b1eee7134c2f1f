"""Any folder of images, with or without class folders.

`stage1_vae.data.folders.layout` tells splits and classes from folders. A split that has no folder is cut from the
training images at random, and a folder without splits is cut three ways. Every page of a TIFF stack is an image; the
pages of a stack are near repeats, so a stack goes to one split as a whole wherever there are enough files.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from stage1_vae.data.folders.cells import Cell
from stage1_vae.data.folders.files import CONVERT, KIND, TO_BYTES, Files, Header, Target, decode_all, scan
from stage1_vae.data.folders.layout import HEAP, SPLITS, ImageFile, Layout, find_layout, walk
from stage1_vae.data.folders.suffixes import describe_unread
from stage1_vae.data.folders.tables import Choice, find_tables, read_tables
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, Source, fingerprint
from stage1_vae.data.pixels import BYTE, ends_of, levels_of, white_of
from stage1_vae.data.splits import (
    MIN_IMAGES,
    MIN_PER_SPLIT,
    check_fraction,
    check_total,
    existing_path,
    fits_in_memory,
    random_order,
    sides_of,
    split_rows,
)
from stage1_vae.data.watched import Watched
from stage1_vae.rows import spread_rows

LOOKED_AT = 64
"""Images of each split on the disk whose values are looked at."""
RARE, SMALL = 0.1, 0.25
"""The most common size is asked for where less than so many have it, and its area is less than so much of the
median."""


class Picture(NamedTuple):
    """One image: the file it is in, and what is known of it."""

    file: ImageFile
    header: Header


@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder of images.

    Args:
        root: the folder.
        size: None for the most common size, a number for squares, or [height, width].
        mode: None to take the images as they are, "rgb" or "grey" to convert them.
        val_fraction, test_fraction: what random splits hold out, where there are no folders for them.
        memory_limit_gib: a set that is larger when decoded is read from disk batch by batch.
        splits: "auto", or "none" where folders called train, test and so on are no splits.
        classes: "auto", or "none" to take all images without labels.
        pages: None for every page of a TIFF and the first frame of an animation, "all" or "first".
        x, label: of Parquet tables, the columns of pictures and of labels; None: those with a common name.
        levels: how many levels the values have; None to find it out (see `stage1_vae.data.pixels`).
        range: of images of 9 to 16 bits a channel, which become floats: which numbers are black and white.
    """

    root: str | None
    size: int | Sequence[int] | None = None
    mode: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    memory_limit_gib: float = 2.0
    splits: str = "auto"
    classes: str = "auto"
    pages: str | None = None
    x: str | None = None
    label: str | None = None
    levels: int | None = None
    range: Sequence[float] | None = None

    def load(self) -> ImageData:
        self._check_keys()
        root, began_ns = existing_path(self.root, "a folder of images"), time.time_ns()
        layout = self._layout(root)
        splits = self._split(root, layout)
        pictures = [picture for images in splits.values() for picture in images]
        bits = self.bits_of(pictures)
        target = Target(self._kind(pictures), self._size(root, pictures, layout.guesses), bits, self.ends_of_bits(bits))
        num_bytes = len(pictures) * math.prod(target.shape) * target.dtype.itemsize
        keep = fits_in_memory(num_bytes, self.memory_limit_gib)
        sets = [_image_set(images, target, layout, name, keep) for name, images in splits.items()]
        low, high = _value_range(sets, target)
        complete = keep or max(map(len, splits.values())) <= LOOKED_AT
        levels = None
        if target.is_deep:
            self._tell_depth(root, target, high, layout.guesses)
        else:
            levels = levels_of(str(root), int(high), self.levels, layout.guesses, complete)
        for images in sets:
            if isinstance(images, Files) and levels is not None:
                images.levels = levels
        content = b"".join(picture.header.digest for picture in pictures)  # in the order of the splits
        facts = f"image_folder {target} {[len(images) for images in sets]} {layout.classes}"
        facts += f" {levels} levels" * (levels not in (None, BYTE))
        return ImageData(
            root.resolve().name,
            *sets,
            shape=target.shape,
            levels=levels,
            class_names=layout.classes,
            check_unchanged=Watched(() if keep else {_file_of(picture) for picture in pictures}, began_ns).check,
            fingerprint=fingerprint((facts, content, *(images.labels for images in sets))),
            value_range=(low, high),
            guesses=tuple(layout.guesses),
            left_out=(*layout.left_out, *_dropped_channels(pictures, target)),
        )

    def _layout(self, root: Path) -> Layout:
        files, others = walk(root) if root.is_dir() else ([], Counter())
        tables = find_tables(root) if not files else []
        choice = Choice(self.x, self.label, self.splits != "none", self.classes != "none")
        if tables:
            return read_tables(root, tables, choice, self.memory_limit_gib * 2**30)
        if not root.is_dir():
            raise DataError(f"{root} is a file: name a folder of images with data.root=DIR, or choose data=arrays")
        if self.x is not None or self.label is not None:
            raise DataError(
                f"data.x and data.label name columns of Parquet tables, and {root} holds none: leave them out"
            )
        words = describe_unread(others)
        if not files:
            hint = f"there are {'; '.join(words)}" if words else "there is no .png, .jpg, .tif or other image file"
            state = "holds no image that is read" if words else "is empty"
            raise DataError(f"{root} {state}: {hint} below data.root")
        layout = find_layout(root, files, self.splits != "none", self.classes != "none")
        layout.left_out.extend(words)
        return layout

    def _check_keys(self) -> None:
        fits_in_memory(0, self.memory_limit_gib)
        check_fraction("val_fraction", self.val_fraction)
        check_fraction("test_fraction", self.test_fraction)
        if self.mode is not None and self.mode not in CONVERT:
            raise DataError(f"data.mode={self.mode} is unknown: choose rgb, grey or null")
        for key, choices in (
            ("splits", ("auto", "none")),
            ("classes", ("auto", "none")),
            ("pages", (None, "all", "first")),
        ):
            if (value := getattr(self, key)) not in choices:
                words = [choice or "null" for choice in choices]
                raise DataError(f"data.{key}={value} is unknown: choose {', '.join(words[:-1])} or {words[-1]}")
        if self.size is not None:
            sides_of(self.size)

    def _split(self, root: Path, layout: Layout) -> dict[str, list[Picture]]:
        """The images of each split, in random order."""
        files = {name: pictures_in(files, self.pages) for name, files in layout.images.items()}
        all_files = [of_file for of_files in files.values() for of_file in of_files]
        _tell_pages(all_files, layout)
        check_total(sum(map(len, all_files)))
        if HEAP in files:
            heap = _units(files[HEAP], layout)
            rows = split_rows(len(heap), self.val_fraction, self.test_fraction)
            return {name: _mix([heap[i] for i in rows[name]]) for name in SPLITS}
        units = {name: [of_files[i] for i in random_order(len(of_files))] for name, of_files in files.items()}
        for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            if name not in units:
                train = _units(units["train"], layout)
                num = max(MIN_PER_SPLIT, round(len(train) * fraction))
                units[name], units["train"] = train[:num], train[num:]
        splits = {name: _mix(units[name]) for name in SPLITS}
        for name, images in splits.items():
            if len(images) < MIN_PER_SPLIT:
                raise DataError(
                    f"{root} has {len(images)} images for the {name} split; at least {MIN_PER_SPLIT} are "
                    f"needed: add images to {layout.folders.get(name, layout.folders['train'])}/"
                )
        return splits

    def _size(self, root: Path, pictures: list[Picture], guesses: list[str]) -> tuple[int, int]:
        if self.size is not None:
            return sides_of(self.size)
        counts = Counter(picture.header.size for picture in pictures)
        common = min(counts, key=lambda size: (-counts[size], size))  # the smaller one of equally common sizes
        if len(counts) == 1:
            return common
        num, total = counts[common], len(pictures)
        by_area = sorted(counts.elements(), key=math.prod)
        middle = by_area[total // 2]
        words = f"{common[0]}x{common[1]}, the size of {num:,} of {total:,} images"
        if num < RARE * total and math.prod(common) < SMALL * math.prod(middle):
            first, last = by_area[0], by_area[-1]
            raise DataError(
                f"{root} holds images of {len(counts):,} sizes, {first[0]}x{first[1]} to {last[0]}x{last[1]} (height x "
                f"width), and the most common is {words}: say what to scale them to with data.size=[height,width], "
                f"such as data.size={min(middle)}"
            )
        guesses.append(f"scaled to {words}, and cut about the centre (data.size=[height,width])")
        return common

    def bits_of(self, pictures: list[Picture]) -> int:
        """Bits of a channel: 8, or 9 to 16 of all pictures."""
        for picture in pictures:
            if picture.header.deep and not picture.header.bits:
                raise DataError(
                    f"{_place(picture)} holds {picture.header.deep} (mode {picture.header.mode}): {TO_BYTES}"
                )
        first = {picture.header.bits or 8: _place(picture) for picture in reversed(pictures)}
        if len(first) > 1:
            (one, place), (other, elsewhere) = sorted(first.items())[:2]
            raise DataError(
                f"images of differing depths: {place} has {one} bits a channel, {elsewhere} {other}: save all alike"
            )
        return next(iter(first))

    def ends_of_bits(self, bits: int) -> tuple[float, float]:
        """What is black and what is white."""
        ends = ends_of(self.range, Domain.UNIT)
        if bits == 8 and ends is not None:
            raise DataError("data.range is for images of more than 8 bits a channel, and these have 8: see data.levels")
        if bits > 8 and self.levels is not None:
            raise DataError(
                f"data.levels={self.levels} is for images of 8 bits a channel, and these have {bits}: see data.range"
            )
        return ends or (0, 2**bits - 1)

    def _tell_depth(self, root: Path, target: Target, high: float, guesses: list[str]) -> None:
        """
        Raises:
            DataError: they are next to black.
        """
        words = f"values reach {high:g} of {target.bits} bits"
        if self.range is None and high < 2**target.bits / 8:
            raise DataError(
                f"{root}: {words}, next to black: set data.range=[0,{white_of(high)}] if that is white, or "
                f"data.range=[0,{2**target.bits - 1}] if the images are that dark"
            )
        guesses.append(f"{words}, floats of which {target.ends[1]:g} is white (data.range)")

    def _kind(self, pictures: list[Picture]) -> str:
        first = {picture.header.mode: _place(picture) for picture in reversed(pictures)}
        odd = next((mode for mode in first if mode not in KIND), None)
        if odd is not None and self.mode is None:
            raise DataError(f"{first[odd]} has the unsupported mode {odd}: set data.mode=rgb or data.mode=grey")
        if self.mode is not None:
            return CONVERT[self.mode]
        kinds = {KIND[mode]: mode for mode in sorted(first, reverse=True)}
        if len(kinds) > 1:
            one, other = sorted(kinds.values())[:2]
            raise DataError(
                f"images of differing modes: {first[one]} is {one}, {first[other]} is {other}; "
                "set data.mode=rgb or data.mode=grey to convert them"
            )
        return next(iter(kinds))


def pictures_in(files: list[ImageFile], pages: str | None) -> list[list[Picture]]:
    """The images of each file."""
    if not files:
        return []
    headers = scan([file.path for file in files], pages)
    return [[Picture(file, header) for header in of_file] for file, of_file in zip(files, headers, strict=True)]


def _tell_pages(files: list[list[Picture]], layout: Layout) -> None:
    """Say how many files hold several images, and what is left of them."""
    stacks = [len(of_file) for of_file in files if len(of_file) > 1]
    if stacks:
        layout.guesses.append(
            f"{sum(stacks):,} images are the pages or frames of {len(stacks):,} files (data.pages=first: one a file)"
        )
    short = [of_file[0].header for of_file in files if of_file[0].header.further]
    for words, is_meant in (
        ("smaller copies and masks inside {} TIFF files", lambda h: h.kind == "TIFF" and h.page is not None),
        ("further pages of {} TIFF stacks (data.pages=all)", lambda h: h.kind == "TIFF" and h.page is None),
        ("further pictures inside {} JPEG files", lambda h: h.kind == "MPO"),
        ("further frames of {} animations (data.pages=all)", lambda h: h.kind not in ("TIFF", "MPO")),
    ):
        counts = [header.further for header in short if is_meant(header)]
        if counts:
            layout.left_out.append(f"{sum(counts):,} {words.format(f'{len(counts):,}')}")


def _units(files: list[list[Picture]], layout: Layout) -> list[list[Picture]]:
    """What goes to one split as a whole: a file, or a page where there are too few files."""
    if len(files) >= MIN_IMAGES or all(len(of_file) == 1 for of_file in files):
        return files
    layout.guesses.append(f"pages of one stack lie in several splits, for there are fewer than {MIN_IMAGES} files")
    return [[picture] for of_file in files for picture in of_file]


def _mix(files: list[list[Picture]]) -> list[Picture]:
    """The images of files that are in random order, in random order."""
    images = [picture for of_file in files for picture in of_file]
    return images if len(images) == len(files) else [images[i] for i in random_order(len(images))]


def _file_of(picture: Picture) -> Path:
    place = picture.file.path
    return place.column.path if isinstance(place, Cell) else place


def _place(picture: Picture) -> str:
    page = picture.header.page
    return f"{picture.file.path}" + (f", page {page.number + 1}," if page and page.number else "")


def _dropped_channels(pictures: list[Picture], target: Target) -> list[str]:
    """Channels that images have and their `target` has not, in words."""
    modes = Counter(picture.header.mode for picture in pictures)
    transparent = sum(picture.header.transparent for picture in pictures) if target.kind != "RGBA" else 0
    coloured = len(pictures) - modes["L"] - modes["1"] - modes["LA"] if target.kind == "L" else 0
    channels = {"transparency": (transparent, "which are put on white"), "colour": (coloured, "data.mode=grey")}
    return [f"{what} of {num:,} image{'s' * (num != 1)} ({how})" for what, (num, how) in channels.items() if num]


def _image_set(images: list[Picture], target: Target, layout: Layout, split: str, keep: bool) -> ImageSet:
    labels = None
    if layout.classes and not (split in layout.unlabelled and split in layout.images):
        number = {name: i for i, name in enumerate(layout.classes)}
        labels = torch.tensor([number[picture.file.inside[0]] for picture in images], dtype=torch.int64)
    paths, pages = [picture.file.path for picture in images], [picture.header.page for picture in images]
    decoded = InMemory(decode_all(paths, target, pages), labels) if keep else Files(paths, target, labels, pages)
    decoded.places = paths
    return decoded


def _value_range(sets: list[ImageSet], target: Target) -> tuple[float, float]:
    """The smallest and the largest number in the files: of all images in memory, of some of those on the disk."""
    ends: list[torch.Tensor] = []
    for images in sets:
        if isinstance(images, InMemory):
            ends.extend(images.images.aminmax())
            continue
        for row in spread_rows(len(images), min(len(images), LOOKED_AT)):
            with suppress(DataError):  # a damaged file is named when it is read
                ends.extend(images.batch(row[None]).aminmax())
    if not ends:
        return 0, target.ends[1]
    low, high = min(ends).item(), max(ends).item()
    if not target.is_deep:
        return int(low), int(high)
    black, white = target.ends
    return round(black + low * (white - black), 3), round(black + high * (white - black), 3)
