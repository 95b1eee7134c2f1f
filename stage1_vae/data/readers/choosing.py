"""Which arrays of a file are its images, its labels and its splits: by their names.

Of several arrays the one called `x` is taken, or the one that goes by another common name, and `label` or its like;
`data.x` and `data.label` name others. Official splits are kept: `x_train`, `y_train`, `x_test`, `y_test` as Keras has
them, `train_images`, `train_labels`, `val_images`, ... as MedMNIST does, `train/images` of an HDF5 file, `data` and
`testdata`, `target` and `testtarget`, as Omniglot's pictures of 28x28 pixels have been passed on, or a file a split in
one folder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.readers.named import NamedArrays, OnDisk
from stage1_vae.data.readers.opening import NAMES, SUFFIXES, NpyFolder, open_arrays
from stage1_vae.data.splits import SPLITS, split_in

IMAGES = ("x", "images", "imgs", "image", "img", "data", "arr_0")
LABELS = ("label", "labels", "y", "target", "targets")
"""What arrays are called, in lower case; the first of them that is there is meant."""
MOST_NAMED = 5
MAX_LABEL_BYTES = 2**30


@dataclass
class Content:
    """What lies in a file: images as they lie there, of each split or (called "all") of none, and their labels.

    Attributes:
        images: split -> array.
        labels: split -> array; of some splits, or of none.
        guesses, left_out: see `ImageData`.
        files: that were read.
        is_matlab: see `NamedArrays`.
    """

    images: dict[str, np.ndarray | OnDisk]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    guesses: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    is_matlab: bool = False

    @property
    def unlabelled(self) -> list[str]:
        """Splits without labels, where others have some."""
        return [split for split in self.images if split not in self.labels] if self.labels else []


def read_content(path: Path, x: str | None, label: str | bool | None, limit_bytes: float) -> Content:
    """What lies in a file, or in the files of a folder.

    Args:
        path: of either.
        x, label: of `data.x` and `data.label`.
        limit_bytes: where the format allows it, larger arrays stay on the disk.

    Raises:
        DataError: it cannot be read, or nothing in it is called as images are.
    """
    if path.is_dir():
        return _read_folder(path, x, label, limit_bytes)
    if not path.is_file():
        raise DataError(f"{path} is no plain file: name {NAMES} with data.root=FILE")
    with open_arrays(path, limit_bytes) as arrays:
        content = _choose(str(path), arrays, x, label)
    content.files.append(path)
    return content


def _read_folder(path: Path, x: str | None, label: str | bool | None, limit_bytes: float) -> Content:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    arrays = [file for file in files if file.suffix.lower() == ".npy"]
    stems = [file.stem for file in arrays]
    if x in stems or _first_common(stems, IMAGES) or "train" in _names_by_split(stems, IMAGES):
        try:
            content = _choose(str(path), NpyFolder(arrays), x, label)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read ({' '.join(str(error).split())[:200]}): save it again") from error
        content.files = arrays
        return content
    of_split: dict[str, list[Path]] = {}
    for file in files:
        of_split.setdefault(split_in(file.stem)[0], []).append(file)
    others = of_split.pop("", [])
    if "train" not in of_split or len(of_split) < 2:
        inside = [file.name for file in files[:MOST_NAMED]]
        holds = f" (it holds {', '.join(inside)})" if inside else ""
        remedy = "stack an array an image into one by numpy.stack" if len(inside) > 1 else "choose data=image_folder"
        raise DataError(f"{path} is a folder{holds}: name {NAMES} with data.root=FILE, or {remedy}")
    if twice := next((of_one for of_one in of_split.values() if len(of_one) > 1), None):
        raise DataError(
            f"{path} holds {twice[0].name} and {twice[1].name}, of one split: name one file with data.root=FILE, or "
            "move the others away"
        )
    whole = Content({})
    for split in (split for split in SPLITS if split in of_split):
        part = read_content(of_split[split][0], x, label, limit_bytes)
        if set(part.images) != {"all"}:
            raise DataError(f"{part.files[0]} holds splits of its own: name this file with data.root=FILE")
        whole.images[split] = part.images["all"]
        whole.labels |= {split: part.labels["all"]} if part.labels else {}
        whole.files += part.files
        whole.is_matlab |= part.is_matlab
        whole.guesses += [words for words in part.guesses if words not in whole.guesses]
        whole.left_out += [words for words in part.left_out if words not in whole.left_out]
    whole.guesses.append(f"{', '.join(file.name for file in whole.files)} as splits")
    if others:
        whole.left_out.append(f"{_first_few([file.name for file in others])}, beside the splits")
    return whole


def _choose(path: str, arrays: NamedArrays, x: str | None, label: str | bool | None) -> Content:
    """The arrays of a file that are meant."""
    names = arrays.names
    if arrays.is_bare:
        if x is not None or isinstance(label, str):
            raise DataError(f"{path} is one array without a name: leave out data.x and data.label")
        return Content({"all": arrays.read(names[0])}, is_matlab=arrays.is_matlab)
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
        {split: arrays.read(name) for split, name in images.items()},
        {split: _in_memory(path, name, arrays.read(name)) for split, name in labels.items()},
        guesses=list(arrays.guesses),
        is_matlab=arrays.is_matlab,
    )
    used = {*images.values(), *labels.values()}
    if not used <= {"x", "label"}:
        sources = f"images from {_first_few(list(images.values()))}"
        sources += f", labels from {_first_few(list(labels.values()))}" if labels else ""
        content.guesses.append(f"{sources} (data.x, data.label)")
    if unused := [name for name in names if name not in used]:
        content.left_out.append(f"arrays {_first_few(unused)} (data.x=NAME, data.label=NAME)")
    return content


def pass_over_unlabelled(content: Content) -> None:
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
        num = images.pop("val").shape[0]
        left_out.append(f"{num:,} validation images, which have no labels (data.label=false takes them)")
    if "test" in content.unlabelled:
        left_out.append("figures of classes on test images, which have no labels")


def _in_memory(path: str, name: str, labels: np.ndarray | OnDisk) -> np.ndarray:
    if isinstance(labels, np.ndarray):
        return labels
    if labels.dtype.itemsize * math.prod(labels.shape) > MAX_LABEL_BYTES:
        raise DataError(
            f"{path}: {name} is taken for labels, and has shape {labels.shape}: name the labels with data.label=NAME, "
            "or set data.label=false"
        )
    return labels.take(0, slice(None))


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
    found = {split: name for name, (split, rest) in parsed.items() if split and rest in (*common, *may_be_unsaid)}
    if "train" in found:
        return found
    return next(({"train": name, "test": f"test{name}"} for name in common if {name, f"test{name}"} <= {*names}), found)


def _names_like(names: Sequence[str], example: str) -> dict[str, str]:
    """Split -> the array called as `example` but for the split, as y_test_fine and y_train_fine; or none."""
    split, rest = _parse(example)
    parsed = {name: _parse(name) for name in names if split}
    return {of_split: name for name, (of_split, other) in parsed.items() if of_split and other == rest}


def _first_few(names: Sequence[str]) -> str:
    listed = " ".join(", ".join(names[:MOST_NAMED]).split())
    return listed + ", ..." * (len(names) > MOST_NAMED) if names else "nothing"
