"""Caches of one file an image, as public repositories write them, each file with several draws of its image.

`moments_npz` (https://github.com/LTH14/mar, `main_cache.py`): an .npz an image in a folder a class, with `moments` and
`moments_flip` [2C, h, w], mean and log-variance of an image and of its mirrored copy. `code_crops`
(https://github.com/FoundationVision/LlamaGen, `extract_codes_c2i.py`): an .npy an image, codes [1, crops, T], and its
label in a file of the same name in a folder called `..._labels` beside.

A million such files are listed by name alone and opened when their rows are asked for; each must be as the first.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import overload

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.arrays import Found
from stage1_vae.data.latents.columns import Stack
from stage1_vae.data.latents.names import natural, parse
from stage1_vae.data.latents.stored import Shelf, Stored, list_keys, open_arrays, unreadable
from stage1_vae.data.splits import SPLITS
from stage1_vae.files.archives import open_archive
from stage1_vae.files.npy import NumpyArchive, map_array

MOMENTS, MOMENTS_FLIP = "moments", "moments_flip"


class Paths(Sequence[Path]):
    """Files of a folder by their names, so that a million of them take little memory."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The file, without the cost of a path."""
        return f"{self.folder}/{self.names[index]}"

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return Paths(self.folder, self.names[index])
        return self.folder / self.names[index]


class Singles:
    """Draws of images that have a file each: row r is draw r % draws of image r // draws.

    Args:
        paths: of the files.
        keys: of an .npz, the arrays that are a draw each; none for an .npy, whose second axis counts them.
    """

    def __init__(self, paths: Paths, keys: tuple[str, ...] = ()) -> None:
        self.paths, self.keys = paths, keys
        first = self._read(0)
        self.draws, self.dtype = len(first), str(first.dtype)
        self._last: tuple[bytes, np.ndarray] = (b"", first)
        self._size, self._headers = self._template()
        self.shape = (len(paths) * self.draws, *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def place(self, row: int) -> str:
        """Where a row is, for the user."""
        image, draw = divmod(row, self.draws)
        return f"{self.paths[image]} ({self.keys[draw]})" if self.keys else f"{self.paths[image]}: crop {draw}"

    def origin(self, row: int) -> tuple[Path, int]:
        """The file of a row, and its number in there."""
        image, draw = divmod(row, self.draws)
        return self.paths[image], draw

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        name = numbers.tobytes()
        if name == self._last[0] and len(numbers):  # mean and log-variance are asked for in turn
            return self._last[1]
        values = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        images, places = np.unique(numbers // self.draws, return_inverse=True)
        order = np.argsort(places, kind="stable")
        ends = np.cumsum(np.bincount(places, minlength=len(images)))
        start = 0
        for image, end in zip(images.tolist(), ends.tolist(), strict=True):
            own = order[start:end]
            values[own] = self._checked(image)[numbers[own] % self.draws]
            start = end
        self._last = (name, values)
        return values

    def _template(self) -> tuple[int, list[tuple[int, bytes]]]:
        """Size of the first file, and for each of its arrays the byte where the numbers start and the header before
        it; no headers where numbers are compressed or not in their own order."""
        path = self.paths[0]
        stored = open_arrays(path, Shelf(1.0))
        content = path.read_bytes()
        headers = []
        for each in (stored[key] for key in self.keys or ("",)):
            if each.offset is None or each.is_fortran:
                return len(content), []
            start = content.rfind(np.lib.format.MAGIC_PREFIX, 0, each.offset)
            headers.append((each.offset, content[start : each.offset]))
        return len(content), headers

    def _same(self, image: int) -> np.ndarray | None:
        """[draws, *shape] of a file with the headers of the first at the same places, which is most of them; None of
        another."""
        if not self._headers:
            return None
        with suppress(OSError), open(self.paths.name(image), "rb") as file:
            if os.fstat(file.fileno()).st_size != self._size:
                return None
            content = file.read(self._size)
            if any(content[start - len(header) : start] != header for start, header in self._headers):
                return None
            count = int(np.prod(self.shape[1:]))
            if not self.keys:
                draws = np.frombuffer(content, self.dtype, self.draws * count, self._headers[0][0])
                return draws.reshape(self.draws, *self.shape[1:])
            arrays = [np.frombuffer(content, self.dtype, count, start) for start, _ in self._headers]
            return np.stack(arrays).reshape(self.draws, *self.shape[1:])
        return None

    def _checked(self, image: int) -> np.ndarray:
        if (same := self._same(image)) is not None:
            return same
        draws = self._read(image)
        if draws.shape != (self.draws, *self.shape[1:]) or str(draws.dtype) != self.dtype:
            raise DataError(
                f"{self.paths[image]} holds {draws.dtype} {draws.shape} and {self.paths[0]} {self.dtype} "
                f"{(self.draws, *self.shape[1:])}: save all images alike"
            )
        return draws

    def _read(self, image: int) -> np.ndarray:
        """[draws, *shape]."""
        path = self.paths[image]
        try:
            if not self.keys:
                return np.asarray(map_array(path))[0]
            with path.open("rb") as file, open_archive(file) as archive:
                arrays = NumpyArchive(archive)
                if missing := [key for key in self.keys if key not in arrays.names]:
                    raise DataError(
                        f"{path} has no {missing[0]}, and other images do; it holds {list_keys(arrays.names)}: save "
                        "all images alike"
                    )
                draws = [arrays.read(key) for key in self.keys]
        except (OSError, ValueError, IndexError) as error:
            raise unreadable(path, error) from error
        if len({draw.shape for draw in draws}) > 1:
            raise DataError(f"{path}: {' and '.join(self.keys)} are of different shapes: save all images alike")
        return np.stack(draws)


def scan(folder: Path, suffix: str) -> tuple[list[str], list[str]]:
    """Names of the files with that suffix in a folder, in the order of their numbers, and of the folders in it."""
    names, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(suffix):
                names.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
    names.sort()
    if all(name[: -len(suffix)].isdecimal() for name in names):
        names.sort(key=len)
    return names, sorted(folders, key=natural)


def recognise(root: Path, shelf: Shelf) -> str | None:
    """Which of the two layouts a folder has, by the first file of it; None for neither."""
    if not root.is_dir():
        return None
    if (path := _first(root, ".npz")) and MOMENTS in (arrays := open_arrays(path, shelf)):
        return "moments_npz" if len(arrays[MOMENTS].shape) == 3 else None
    codes = code_folder(root)
    if codes and (path := _first(codes, ".npy")):
        first = open_arrays(path, shelf)[""]
        return "code_crops" if _is_crops(first) else None
    return None


def _first(folder: Path, suffix: str, depth: int = 2) -> Path | None:
    """A file with that suffix in a folder, or in the folders in it, or in theirs."""
    names, folders = scan(folder, suffix)
    if names:
        return folder / names[0]
    inside = (_first(folder / name, suffix, depth - 1) for name in folders) if depth else iter(())
    return next((path for path in inside if path), None)


def code_folder(root: Path) -> Path | None:
    """The folder of codes: itself, or the one in it whose name ends in codes."""
    names, folders = scan(root, ".npy")
    if names:
        return root
    ends = [name for name in folders if name.lower().endswith("codes")]
    return root / ends[0] if len(ends) == 1 else None


def _is_crops(stored: Stored) -> bool:
    return len(stored.shape) == 3 and stored.shape[0] == 1 and stored.dtype.startswith(("int", "uint"))


def find_moments(root: Path, label: str | bool | None, shelf: Shelf) -> Found:
    """Moments of an .npz an image; labels are the folders' names.

    Raises:
        DataError: in one line, with the remedy.
    """
    folders = scan(root, ".npz")[1]
    splits = {parse(name).split: root / name for name in folders if parse(name).split}
    if "train" not in splits:
        splits = {"all": root}
    splits = {split: splits[split] for split in ("all", *SPLITS) if split in splits}
    found = Found({}, {}, MOMENTS, ".npz", [], axes="NCHW")
    paths: list[Paths] = []
    for split, folder in splits.items():
        names, classes = scan(folder, ".npz")
        labels: list[str] = []
        if not names:
            for name in classes:
                inside = scan(folder / name, ".npz")[0]
                names += [f"{name}/{file}" for file in inside]
                labels += [name] * len(inside)
        if not names:
            raise DataError(f"{folder} holds no .npz file of moments: name the folder of such with data.root=DIR")
        paths.append(Paths(folder, names))
        first = open_arrays(paths[-1][0], shelf)
        if MOMENTS not in first:
            raise DataError(f"{paths[-1][0]} holds {list_keys(list(first))} and no moments: set data.layout=arrays")
        singles = Singles(paths[-1], (MOMENTS, MOMENTS_FLIP) if MOMENTS_FLIP in first else (MOMENTS,))
        found.columns[split] = {"moments": Stack([singles])}
        found.groups[split] = np.repeat(np.arange(len(names)), singles.draws)
        if labels and label is not False:
            found.labels[split] = np.repeat(np.array(labels), singles.draws)
    found.paths = paths[0] if len(paths) == 1 else [path for some in paths for path in some]
    draws = "two draws, an image and its mirrored copy," if MOMENTS_FLIP in first else "one draw"
    found.guesses.append(f"a file an image, each with {draws} as moments (data.layout=arrays otherwise)")
    return found


def find_crops(root: Path, label: str | bool | None, shelf: Shelf) -> Found:
    """Codes of an .npy an image, and labels of the same file names in a folder beside.

    Raises:
        DataError: in one line, with the remedy.
    """
    folder = code_folder(root)
    names = scan(folder, ".npy")[0] if folder else []
    if folder is None or not names or not _is_crops(open_arrays(folder / names[0], shelf)[""]):
        raise DataError(
            f"{root} holds no .npy files of codes [1, crops, T]: set data.layout=arrays, or name their folder"
        )
    paths = Paths(folder, names)
    singles = Singles(paths)
    found = Found({"all": {"codes": Stack([singles])}}, {}, "codes", ".npy", paths)
    found.groups["all"] = np.repeat(np.arange(len(names)), singles.draws)
    found.guesses.append(
        f"a file an image, each with {singles.draws} crops, which are draws of one image (data.layout=arrays otherwise)"
    )
    beside = folder.parent / re.sub("codes$", "labels", folder.name, flags=re.IGNORECASE)
    if isinstance(label, str):
        beside = (root / Path(label).expanduser()).absolute()
        if not beside.is_dir():
            raise DataError(f"data.label={label} is no folder: name the one with an .npy file an image")
    if label is not False and beside != folder and beside.is_dir():
        found.labels["all"] = np.repeat(_labels(Paths(beside, names)), singles.draws)
        found.label_name = "labels"
    return found


def _labels(paths: Paths) -> np.ndarray:
    labels = np.empty(len(paths), np.int64)
    for i in range(len(paths)):
        try:
            value = np.asarray(map_array(paths[i])).reshape(-1)
        except (OSError, ValueError) as error:
            raise unreadable(paths[i], error) from error
        if value.shape != (1,) or value.dtype.kind not in "iu":
            raise DataError(
                f"{paths[i]} holds {value.dtype} {value.shape}: save one whole number, or set data.label=false"
            )
        labels[i] = value[0]
    return labels
