"""Images in one NumPy file: `.npy`, or `.npz` with images and, if there are any, labels.

Of an `.npz` the array called `x` is taken, or the one that goes by another common name, and `label` or its like; with
several that could be meant, `data.x` and `data.label` name them. Official splits are kept: `x_train`, `y_train`,
`x_test`, `y_test` as Keras has them, `train_images`, `train_labels`, `val_images`, ... as MedMNIST does; a split that
is not there is cut from the training images at random. Axes, values and labels: see `stage1_vae.data.layout`,
`stage1_vae.data.pixels` and `stage1_vae.data.labels`.

A `.npy` file is memory-mapped: one that exceeds the memory limit is never read as a whole.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, Source, fingerprint
from stage1_vae.data.labels import Labels, read_labels
from stage1_vae.data.layout import arrange
from stage1_vae.data.pixels import Pixels, read_pixels
from stage1_vae.data.splits import (
    MIN_PER_SPLIT,
    SPLITS,
    check_fraction,
    check_total,
    existing_path,
    fits_in_memory,
    hold_out,
    split_in,
    split_rows,
)
from stage1_vae.data.watched import Watched
from stage1_vae.files.archives import open_archive
from stage1_vae.files.npy import NumpyArchive, map_array

IMAGES = ("x", "images", "imgs", "image", "img", "data", "arr_0")
LABELS = ("label", "labels", "y", "target", "targets")
"""What the arrays of an .npz file are called, in lower case; the first of them that is there is meant."""
MOST_NAMED = 5


class Mapped(ImageSet):
    """Rows of a memory-mapped array, read a batch at a time.

    Args:
        array: [M, C, H, W], a view of the file.
        rows: the rows of this split, int64 [N].
        labels: int64 [N], or None.
        pixels: what its numbers mean.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray, labels: Tensor | None, pixels: Pixels) -> None:
        self.array, self.rows, self.labels, self.pixels = array, rows, labels, pixels

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Tensor:
        return self.pixels.tensor(self.array[self.rows[index.cpu().numpy()]])


@dataclass
class Content:
    """What lies in a file: images as they lie there, of each split or (called "all") of none, and their labels.

    Attributes:
        images: split -> array.
        labels: split -> array; of some splits, or of none.
        guesses, left_out: see `ImageData`.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    guesses: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def unlabelled(self) -> list[str]:
        """Splits without labels, where others have some."""
        return [split for split in self.images if split not in self.labels] if self.labels else []


@dataclass(frozen=True)
class Arrays(Source):
    """Images in a NumPy file.

    Args:
        root: the file.
        x, label: which arrays of an .npz hold images and labels; None: those with a common name; `label` False: none.
        label_column: of labels in several columns, the one to take.
        layout: the axes in the order of the file, such as NHWC; None: to be found out.
        levels: how many values unsigned bytes take; None: 256, or fewer where the images are next to black.
        range: the numbers that are black and white, where they are not 0 and 1 (floats) or 0 and 255 (bytes).
        val_fraction, test_fraction: what the fixed random split holds out, where the file has none.
        domain: "unit" for values in [0, 1] or uint8, "real" for any numbers.
        memory_limit_gib: files with more than this stay on disk (`.npy` only).
    """

    root: str | None
    x: str | None = None
    label: str | bool | None = None
    label_column: int | None = None
    layout: str | None = None
    levels: int | None = None
    range: Sequence[float] | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    domain: str = "unit"
    memory_limit_gib: float = 2.0

    def load(self) -> ImageData:
        if self.domain not in ("unit", "real"):
            raise DataError(f"data.domain={self.domain} is unknown: choose unit or real")
        path, domain = existing_path(self.root, "a .npy or .npz file of images"), Domain(self.domain)
        began_ns = time.time_ns()
        content = self._content(path)
        _pass_over_unlabelled(content)
        images = self._images(path, content, domain)
        pixels = read_pixels(str(path), images, domain, content.guesses, self.levels, self.range)
        labels = self._labels(path, content, len(images))
        numbers = torch.from_numpy(labels.numbers) if labels.names else None
        rows = self._rows(content)
        keep = fits_in_memory(images.nbytes, self.memory_limit_gib) or not isinstance(images, np.memmap)
        sets: list[ImageSet] = []
        for split, own in rows.items():
            own_labels = None if numbers is None or split in content.unlabelled else numbers[own]
            if keep:
                sets.append(InMemory(pixels.tensor(images[own]), own_labels))
            else:
                sets.append(Mapped(images, own, own_labels, pixels))
        assignment = [torch.from_numpy(own) for own in rows.values()]
        further = pixels.facts + labels.facts
        return ImageData(
            path.stem,
            *sets,
            shape=tuple(images.shape[1:]),
            levels=pixels.levels,
            domain=domain,
            class_names=labels.names,
            check_unchanged=Watched([] if keep else [path], began_ns).check,
            fingerprint=fingerprint(("arrays", self.domain, pixels.digest, numbers, *assignment, *further)),
            value_range=pixels.value_range,
            guesses=tuple(content.guesses),
            left_out=tuple(content.left_out),
        )

    def _content(self, path: Path) -> Content:
        if path.is_dir():
            inside = sorted(file.name for file in path.iterdir() if file.suffix in (".npy", ".npz"))[:MOST_NAMED]
            holds = f" (it holds {', '.join(inside)})" if inside else ""
            remedy = (
                "stack an array an image into one by numpy.stack" if len(inside) > 1 else "choose data=image_folder"
            )
            raise DataError(f"{path} is a folder{holds}: name a .npy or .npz file with data.root=FILE, or {remedy}")
        if path.suffix.lower() not in (".npy", ".npz"):
            raise DataError(f"{path} is neither .npy nor .npz: save the images with numpy.save or numpy.savez")
        if not path.is_file():
            raise DataError(f"{path} is no plain file: name a .npy or .npz file with data.root=FILE")
        try:
            if path.suffix.lower() == ".npz":
                with path.open("rb") as file, open_archive(file) as archive:
                    return _choose(path, NumpyArchive(archive), self.x, self.label)
            array = map_array(path)
        except DataError:
            raise
        except Exception as error:  # numpy's and zip's readers raise many kinds on a damaged file
            reason = " ".join(str(error).split())[:200]
            if "Python objects" in reason:
                raise DataError(
                    f"{path} holds Python objects, which are not loaded: save images as uint8 or float32, and labels "
                    "as numbers or by labels.astype(str)"
                ) from error
            raise DataError(f"{path} cannot be read as a NumPy file ({reason}): save it again") from error
        if self.x is not None or isinstance(self.label, str):
            raise DataError(f"{path} is one array without a name: leave out data.x and data.label")
        return Content({"all": array})

    def _images(self, path: Path, content: Content, domain: Domain) -> np.ndarray:
        """All images [N, C, H, W], one split behind the other; those of `content` get the same axes."""
        for split, images in content.images.items():
            guesses: list[str] = []  # the same of each
            content.images[split] = arrange(_place(path, split), images, self.layout, domain, guesses)
        content.guesses += guesses
        kinds = {split: f"{images.dtype} {images.shape[1:]}" for split, images in content.images.items()}
        first, *others = kinds
        for split in others:
            if kinds[first] != kinds[split]:
                raise DataError(
                    f"{path}: {first} holds {kinds[first]} and {split} {kinds[split]}: save all splits alike"
                )
        return np.concatenate(list(content.images.values())) if others else content.images[first]

    def _labels(self, path: Path, content: Content, num: int) -> Labels:
        """Labels of all images but those of splits that have none, which come last."""
        no_labels = Labels(np.zeros(0, np.int64), ())
        if not content.labels:
            if self.label_column is not None:
                raise DataError(f"data.label_column={self.label_column}: {path} has no labels; leave the key out")
            return no_labels
        columns = set()
        for split, labels in content.labels.items():
            num_images = len(content.images[split])
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
            str(path), rows, num if len(content.images) == 1 else len(rows), self.label_column, content.guesses
        )
        if "train" in content.labels and (unseen := sorted(set(read.numbers) - set(read.numbers[: len(parts[0])]))):
            raise DataError(
                f"{path}: class {read.names[unseen[0]]} has no training images: add some, or set data.label=false"
            )
        if read.are_identities and self.label is None:
            content.left_out.append(
                f"labels of {len(read.names):,} values for {num:,} images (data.label=NAME keeps them)"
            )
            return no_labels
        return read

    def _rows(self, content: Content) -> dict[str, np.ndarray]:
        """Rows of each split; what the file has none of is cut from the training images."""
        sizes = {split: len(images) for split, images in content.images.items()}
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
                content.guesses.append(f"{name} cut from train ({key})")
        return {name: rows[name] for name in SPLITS}


def _place(path: Path, split: str) -> str:
    return str(path) if split == "all" else f"{path} ({split})"


def _choose(path: Path, archive: NumpyArchive, x: str | None, label: str | bool | None) -> Content:
    """The arrays of an .npz file that are meant."""
    names = archive.names
    for key, name in (("x", x), ("label", label)):
        if isinstance(name, str) and name not in names:
            raise DataError(f"data.{key}={name}: {path} holds {_first_few(names)}")
    in_splits = _names_by_split(names, IMAGES) if x is None else _names_like(names, x)
    unsplit = x or _first_common(names, IMAGES)
    if "train" in in_splits and unsplit not in ("x", "images"):
        images = {
            split: in_splits[split] for split in SPLITS if split in in_splits
        }  # test, which may lack labels, last
        labels = _names_like(names, label) if isinstance(label, str) else _names_by_split(names, LABELS)
        if isinstance(label, str) and not labels:
            raise DataError(
                f"data.label={label} names no split, and the images are in splits: name one such as y_train"
            )
    elif unsplit is not None:
        of_all = label if isinstance(label, str) else _first_common(names, LABELS)
        images, labels = {"all": unsplit}, {} if of_all is None or of_all == unsplit else {"all": of_all}
    else:
        raise DataError(
            f"{path} holds {_first_few(names)}; the images must be called x, labels label, or be named with "
            "data.x=NAME data.label=NAME"
        )
    labels = {} if label is False else {split: labels[split] for split in images if split in labels}
    content = Content(
        {split: archive.read(name) for split, name in images.items()},
        {split: archive.read(name) for split, name in labels.items()},
    )
    used = {*images.values(), *labels.values()}
    if not used <= {"x", "label"}:
        sources = f"images from {_first_few(list(images.values()))}"
        sources += f", labels from {_first_few(list(labels.values()))}" if labels else ""
        content.guesses.append(f"{sources} (data.x, data.label)")
    if unused := [name for name in names if name not in used]:
        content.left_out.append(f"arrays {_first_few(unused)} (data.x=NAME, data.label=NAME)")
    return content


def _pass_over_unlabelled(content: Content) -> None:
    """Keep what can be used of labels that not every split has: test images may lack them, others are left out."""
    images, labels, left_out = content.images, content.labels, content.left_out
    if {"train", "test"} <= labels.keys() and labels["test"].size > 1:
        value = labels["test"].flat[0]
        if (labels["test"] == value).all() and value not in labels["train"]:  # whoever made the set keeps the answers
            left_out.append(f"labels of test, which are all {value}")
            del labels["test"]
    if "train" in content.unlabelled:
        left_out.append(f"labels of {' and '.join(labels)}, for the training images have none")
        labels.clear()
    if "val" in content.unlabelled:
        num = len(images.pop("val"))
        left_out.append(f"{num:,} validation images, which have no labels (data.label=false takes them)")
    if "test" in content.unlabelled:
        left_out.append("figures of classes on test images, which have no labels")


def _first_common(names: Sequence[str], common: Sequence[str]) -> str | None:
    """The array with the first of the common names."""
    spellings = {name.lower(): name for name in reversed(names)} | {name: name for name in names}
    return next((spellings[name] for name in common if name in spellings), None)


def _parse(name: str) -> tuple[str, str]:
    """The split that a name says, empty for none or several, and its other words: x_train, trainX, train_set_x."""
    split, words = split_in(name)
    return split, "_".join(word.lower() for word in words if word.lower() != "set")


def _names_by_split(names: Sequence[str], common: Sequence[str]) -> dict[str, str]:
    """Split -> the array of its images (or labels, if `common` are those), the first of several."""
    parsed = {name: _parse(name) for name in reversed(names)}
    may_be_unsaid = [""] if common is IMAGES else []
    return {split: name for name, (split, rest) in parsed.items() if split and rest in (*common, *may_be_unsaid)}


def _names_like(names: Sequence[str], example: str) -> dict[str, str]:
    """Split -> the array called as `example` but for the split, as y_test_fine and y_train_fine; or none."""
    split, rest = _parse(example)
    parsed = {name: _parse(name) for name in names if split}
    return {of_split: name for name, (of_split, other) in parsed.items() if of_split and other == rest}


def _first_few(names: Sequence[str]) -> str:
    listed = " ".join(", ".join(names[:MOST_NAMED]).split())
    return listed + ", ..." * (len(names) > MOST_NAMED) if names else "nothing"
