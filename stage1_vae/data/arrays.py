"""Images in one NumPy file: `.npy`, or `.npz` with images and, if there are any, labels.

Of an `.npz` the array called `x` is taken, or the one that goes by another common name, and `label` or its like; with
several that could be meant, `data.x` and `data.label` name them. Official splits are kept: `x_train`, `y_train`,
`x_test`, `y_test` as Keras has them, `train_images`, `train_labels`, `val_images`, ... as MedMNIST does; a split that
is not there is cut from the training images at random. Axes, values and labels: see `stage1_vae.data.layout`,
`stage1_vae.data.pixels` and `stage1_vae.data.labels`.

A `.npy` file is memory-mapped: one that exceeds the memory limit is never read as a whole.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, fingerprint
from stage1_vae.data.labels import Labels, are_identities, read_labels
from stage1_vae.data.layout import arrange
from stage1_vae.data.pixels import Pixels, read_pixels
from stage1_vae.data.splits import (
    MIN_PER_SPLIT,
    PARTS,
    SPLIT_WORDS,
    SPLITS,
    check_fraction,
    check_total,
    existing_path,
    fits_in_memory,
    hold_out,
    split_rows,
)
from stage1_vae.data.watched import Watched
from stage1_vae.files.npy import NumpyArchive, map_array, open_npz

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


@dataclass(frozen=True)
class Content:
    """What lies in a file: images as they lie there, of each split or (called "all") of none, and their labels.

    Attributes:
        images: split -> array.
        labels: split -> array; of some splits, or of none.
        guesses, left_out: see `ImageData`.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    guesses: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> list[str]:
        """Splits without labels, where others have some."""
        return [split for split in self.images if split not in self.labels] if self.labels else []


@dataclass(frozen=True)
class Arrays:
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

    version: ClassVar[int] = 1

    def load(self) -> ImageData:
        """Open and check the file.

        Raises:
            DataError: the file is missing, unreadable, or holds something else than images.
        """
        if self.domain not in ("unit", "real"):
            raise DataError(f"data.domain={self.domain} is unknown: choose unit or real")
        path, domain = existing_path(self.root, "a .npy or .npz file of images"), Domain(self.domain)
        began_ns = time.time_ns()
        content = _with_usable_labels(self._content(path))
        images, ends, axes = self._images(path, content, domain)
        pixels = read_pixels(str(path), images, domain, self.levels, self.range)
        labels, unread = self._labels(path, content, len(images))
        rows, cut = self._rows(ends)
        keep = fits_in_memory(images.nbytes, self.memory_limit_gib) or not isinstance(images, np.memmap)
        sets: dict[str, ImageSet] = {}
        for name in SPLITS:
            set_labels = (
                None if labels is None or name in content.unlabelled else torch.from_numpy(labels.numbers[rows[name]])
            )
            sets[name] = (
                InMemory(pixels.tensor(images[rows[name]]), set_labels)
                if keep
                else Mapped(images, rows[name], set_labels, pixels)
            )
        names = () if labels is None else labels.names
        numbers = None if labels is None else torch.from_numpy(labels.numbers)
        assignment = (torch.from_numpy(rows[name]) for name in SPLITS)
        further = [fact for fact in (pixels.facts, None if labels is None or labels.are_plain else repr(names)) if fact]
        return ImageData(
            name=path.stem,
            train=sets["train"],
            val=sets["val"],
            test=sets["test"],
            shape=tuple(images.shape[1:]),
            levels=pixels.levels,
            domain=domain,
            num_classes=len(names),
            class_names=names,
            check_unchanged=(lambda: None) if keep else Watched([path], began_ns).check,
            fingerprint=fingerprint(("arrays", self.domain, pixels.digest, numbers, *assignment, *further)),
            value_range=pixels.value_range,
            guesses=(*content.guesses, *axes, *pixels.guesses, *(() if labels is None else labels.guesses), *cut),
            left_out=(*content.left_out, *unread),
        )

    def _content(self, path: Path) -> Content:
        with _open(path) as file:
            if isinstance(file, NumpyArchive):
                return _choose(path, file, self.x, self.label)
            if self.x is not None or isinstance(self.label, str):
                raise DataError(f"{path} is one array without a name: leave out data.x and data.label")
            return Content({"all": file}, {})

    def _images(
        self, path: Path, content: Content, domain: Domain
    ) -> tuple[np.ndarray, dict[str, int], tuple[str, ...]]:
        """All images [N, C, H, W], one split behind the other; how many each has; what was guessed of their axes."""
        arrays: dict[str, np.ndarray] = {}
        guesses: tuple[str, ...] = ()
        for split, images in content.images.items():
            where = str(path) if split == "all" else f"{path} ({split})"
            arrays[split], guesses = arrange(where, images, self.layout, domain)
        first, *others = arrays
        for split in others:
            kinds = [f"{array.dtype} {array.shape[1:]}" for array in (arrays[first], arrays[split])]
            if kinds[0] != kinds[1]:
                raise DataError(f"{path}: {first} holds {kinds[0]} and {split} {kinds[1]}: save all splits alike")
        whole = np.concatenate(list(arrays.values())) if others else arrays[first]
        return whole, {split: len(array) for split, array in arrays.items()}, guesses

    def _labels(self, path: Path, content: Content, num: int) -> tuple[Labels | None, tuple[str, ...]]:
        """Labels of all images, and what was left out."""
        if not content.labels:
            if self.label_column is not None:
                raise DataError(f"data.label_column={self.label_column}: {path} has no labels; leave the key out")
            return None, ()
        columns = set()
        for split, labels in content.labels.items():
            images, where = content.images[split], str(path) if split == "all" else f"{path} ({split})"
            if labels.ndim not in (1, 2) or len(labels) != len(images):
                raise DataError(
                    f"{where} holds {len(images)} images but label has shape {labels.shape}: give one label an image, "
                    "or set data.label=false"
                )
            columns.add(labels.shape[1] if labels.ndim == 2 else 1)
        if len(columns) > 1:
            raise DataError(
                f"{path}: labels of its splits have {' and '.join(map(str, sorted(columns)))} columns: "
                "save all splits alike, or set data.label=false"
            )
        parts = [content.labels[split] for split in content.images if split in content.labels]
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts]) if len(parts) > 1 else parts[0]
        read = read_labels(str(path), rows, num if len(content.images) == 1 else len(rows), self.label_column)
        if "train" in content.labels and (unseen := sorted(set(read.numbers) - set(read.numbers[: len(parts[0])]))):
            raise DataError(
                f"{path}: class {read.names[unseen[0]]} has no training images: add some, or set data.label=false"
            )
        if are_identities(read) and self.label is None:
            return None, (f"labels of {len(read.names):,} values for {num:,} images (data.label=NAME keeps them)",)
        return read, ()

    def _rows(self, sizes: dict[str, int]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Rows of each split, and what was cut from the training images because the file has none of it."""
        if "all" in sizes:
            split = split_rows(sizes["all"], self.val_fraction, self.test_fraction)
            return {name: getattr(split, name) for name in SPLITS}, ()
        check_total(sum(sizes.values()))
        ends = np.cumsum([0, *sizes.values()])
        rows = {name: np.arange(start, end) for name, start, end in zip(sizes, ends, ends[1:], strict=False)}
        if few := next((name for name, num in sizes.items() if num < MIN_PER_SPLIT), None):
            raise DataError(f"{sizes[few]} images in the {few} split; at least {MIN_PER_SPLIT} are needed: add images")
        cut: tuple[str, ...] = ()
        for name in ("test", "val"):
            if name not in rows:
                key = f"{name}_fraction"
                check_fraction(key, getattr(self, key))
                train = rows["train"]
                rest, held = hold_out(
                    len(train), max(MIN_PER_SPLIT, round(len(train) * getattr(self, key))), f"data.{key}"
                )
                rows[name], rows["train"] = train[held], train[rest]
                cut += (f"{name} cut from train (data.{key})",)
        return rows, cut


@contextmanager
def _open(path: Path) -> Iterator[np.memmap | NumpyArchive]:
    """The array in the file, or its arrays.

    Raises:
        DataError: it is no file of arrays.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in (".npy", ".npz"))[:MOST_NAMED]
        holds = f" (it holds {', '.join(inside)})" if inside else ""
        remedy = "stack an array an image into one by numpy.stack" if len(inside) > 1 else "choose data=image_folder"
        raise DataError(f"{path} is a folder{holds}: name a .npy or .npz file with data.root=FILE, or {remedy}")
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise DataError(f"{path} is neither .npy nor .npz: save the images with numpy.save or numpy.savez")
    if not path.is_file():
        raise DataError(f"{path} is no plain file: name a .npy or .npz file with data.root=FILE")
    try:
        if suffix == ".npy":
            yield map_array(path)
        else:
            with open_npz(path) as archive:
                yield archive
    except DataError:
        raise
    except Exception as error:  # numpy's and zip's readers raise many kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        if "Python objects" in reason:
            raise DataError(
                f"{path} holds Python objects, which are not loaded: save images as uint8 or float32, and labels as "
                "numbers or by labels.astype(str)"
            ) from error
        raise DataError(f"{path} cannot be read as a NumPy file ({reason}): save it again") from error


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
    used = {*images.values(), *labels.values()}
    unused = [name for name in names if name not in used]
    sources = f"images from {_first_few(list(images.values()))}"
    sources += f", labels from {_first_few(list(labels.values()))}" if labels else ""
    return Content(
        {split: archive.read(name) for split, name in images.items()},
        {split: archive.read(name) for split, name in labels.items()},
        () if used <= {"x", "label"} else (f"{sources} (data.x, data.label)",),
        (f"arrays {_first_few(unused)} (data.x=NAME, data.label=NAME)",) if unused else (),
    )


def _with_usable_labels(content: Content) -> Content:
    """What can be used of labels that not every split has: test images may lack them, others are left out."""
    images, labels, left_out = dict(content.images), dict(content.labels), content.left_out
    if {"train", "test"} <= labels.keys() and _are_hidden(labels["test"], labels["train"]):
        left_out += (f"labels of test, which are all {labels.pop('test').flat[0]}",)
        content = replace(content, labels=labels)
    if labels and "train" in content.unlabelled:
        labels, left_out = {}, (*left_out, f"labels of {' and '.join(labels)}, for the training images have none")
    if "val" in content.unlabelled and labels:
        left_out += (
            f"{len(images.pop('val')):,} validation images, which have no labels (data.label=false takes them)",
        )
    if "test" in content.unlabelled and labels:
        left_out += ("figures of classes on test images, which have no labels",)
    return replace(content, images=images, labels=labels, left_out=left_out)


def _are_hidden(labels: np.ndarray, of_training: np.ndarray) -> bool:
    """Whether test labels are one value that no training image has: whoever made the set keeps the answers."""
    return labels.size > 1 and bool((labels == labels.flat[0]).all()) and labels.flat[0] not in of_training


def _first_common(names: Sequence[str], common: Sequence[str]) -> str | None:
    """The array with the first of the common names."""
    spellings = {name.lower(): name for name in reversed(names)} | {name: name for name in names}
    return next((spellings[name] for name in common if name in spellings), None)


def _parse(name: str) -> tuple[str, str]:
    """The split that a name says, empty for none or several, and its other words: x_train, trainX, train_set_x."""
    words = [word.lower() for word in PARTS.findall(name)]
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return splits[0] if len(splits) == 1 else "", "_".join(w for w in words if w not in SPLIT_WORDS and w != "set")


def _names_by_split(names: Sequence[str], common: Sequence[str]) -> dict[str, str]:
    """Split -> the array of its images (or labels, if `common` are those), the first of several."""
    by_split: dict[str, str] = {}
    for name in names:
        split, rest = _parse(name)
        if split and (rest in common or (not rest and common is IMAGES)):
            by_split.setdefault(split, name)
    return by_split


def _names_like(names: Sequence[str], example: str) -> dict[str, str]:
    """Split -> the array called as `chosen` but for the split, as y_test_fine and y_train_fine; or none."""
    split, rest = _parse(example)
    return {_parse(name)[0]: name for name in names if split and _parse(name)[0] and _parse(name)[1] == rest}


def _first_few(names: Sequence[str]) -> str:
    listed = " ".join(", ".join(names[:MOST_NAMED]).split())
    return listed + ", ..." * (len(names) > MOST_NAMED) if names else "nothing"
