"""Latents in arrays of many rows: one file, or a folder of shards, which may lie in folders called train, val, test.

In .npz and .safetensors arrays have names; an .npy file is called as its array is: `train_loc.npy`. Files of one split
are shards of the same arrays, end to end in the order of the numbers in their names.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.columns import Stack
from stage1_vae.data.latents.names import Name, choose, natural, parse
from stage1_vae.data.latents.stored import SUFFIXES, Shelf, Stored, list_keys, open_arrays
from stage1_vae.data.splits import SPLITS
from stage1_vae.latents.files import HEADER
from stage1_vae.latents.numbers import SPREADS
from stage1_vae.latents.spec import PARAMETERS


@dataclass
class Found:
    """What lies in files, by split, "all" where they name none.

    Attributes:
        columns: split -> kind -> rows as files hold them: one of `EVENTS`, and a spread where there is one.
        labels, groups: split -> one a row, as the files hold them; of some splits, or of none.
        name, label_name: what files call the latents and the labels.
        suffix: of the files.
        paths: of the files.
        axes: of maps, where the layout knows them.
        guesses, left_out: see `Data`.
    """

    columns: dict[str, dict[str, Stack]]
    labels: dict[str, np.ndarray]
    name: str
    suffix: str
    paths: Sequence[Path]
    label_name: str = ""
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    axes: str | None = None
    guesses: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


Arrays = dict[str, list[Stored]]
"""Name of an array -> its shards."""


def find_arrays(
    root: Path, keys: Mapping[str, str | bool], groups: str | None, shelf: Shelf, has_train: bool = True
) -> Found:
    """What a file or a folder of shards holds; headers are read, and labels.

    Args:
        root: the file or folder.
        keys: kind of array -> the name that the user gives for it; of labels, an .npy file beside may be given too.
        groups: the name of the array that says which rows belong together, or an .npy file; None: no rows do.
        shelf: where arrays are opened.
        has_train: whether some of it must be to train on.

    Raises:
        DataError: in one line, with the remedy.
    """
    wanted = dict(keys) if groups is None else {**keys, "groups": groups}
    beside = {kind: path for kind in ("label", "groups") if (path := _file_beside(root, wanted.get(kind)))}
    files = [(path, split) for path, split in _files(root) if path not in beside.values()]
    if not files:
        raise DataError(f"{root} holds nothing but {list_keys([path.name for path in beside.values()])}")
    _check_no_draws(files)
    by_split = _by_split(root, files, shelf)
    found = Found({}, {}, "", files[0][0].suffix.lower(), [*(path for path, _ in files), *beside.values()])
    if "train" in by_split or "all" not in by_split:
        if (unsplit := by_split.pop("all", None)) and (names := [name for name, is_flip in unsplit if not is_flip]):
            found.left_out.append(f"arrays {list_keys(names)}, which name no split")
    elif len(by_split) > 1:
        by_split = {"train": by_split.pop("all"), **by_split}
    first = "train" if "train" in by_split else "all"
    if first not in by_split and not has_train:
        first = next(iter(by_split))
    if first not in by_split:
        raise DataError(f"{root} holds latents of {' and '.join(by_split)} and none to train on: add such, or rename")
    plain = {name: shards[0] for (name, is_flip), shards in by_split[first].items() if not is_flip}
    in_files = {kind: name for kind, name in wanted.items() if kind not in beside} | dict.fromkeys(beside, False)
    chosen = choose(str(root), plain, in_files, found.guesses, found.left_out)
    for split in (split for split in ("all", *SPLITS) if split in by_split):  # an order that no file decides
        arrays = by_split[split]
        _take(root, split, arrays, chosen, found)
    for kind, path in beside.items():
        _take_beside(path, kind, first, found, shelf)
    found.name, found.label_name = next(iter(chosen.values())), chosen.get("label", "")
    return found


def _file_beside(root: Path, name: str | bool | None) -> Path | None:
    """The .npy file that a key names, beside the file or in the folder that is read; None where it names no file."""
    if not isinstance(name, str) or not name.lower().endswith(".npy"):
        return None
    path = ((root if root.is_dir() else root.parent) / Path(name).expanduser()).absolute()
    if not path.is_file():
        raise DataError(f"{path} does not exist: name an .npy file, or an array of {root}")
    return path


def _files(root: Path) -> list[tuple[Path, str]]:
    """Every file, in the order of the numbers in their names, and the split that its folder says."""
    if not root.is_dir():
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{root} is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file: save latents as one of these"
            )
        return [(root, "")]
    inside = sorted(root.iterdir(), key=lambda path: natural(path.name))
    folders = {path: parse(path.name).split for path in inside if path.is_dir()}
    places = [(root, ""), *((path, split) for path, split in folders.items() if split)]
    files = [
        (path, split)
        for folder, split in places
        for path in (inside if folder == root else sorted(folder.iterdir(), key=lambda path: natural(path.name)))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not files:
        raise DataError(
            f"{root} holds {list_keys([path.name for path in inside])} and no {', '.join(SUFFIXES[:-1])} or "
            f"{SUFFIXES[-1]} file: name a folder that does, or a file, with data.root=PATH"
        )
    return files


def _check_no_draws(files: Sequence[tuple[Path, str]]) -> None:
    """Several draws of one posterior are no shards: end to end, each image would count as often."""
    draws = defaultdict(list)
    for path, _ in files:
        if path.stem in PARAMETERS["draws"]:
            draws[path.parent].append(path)
    for folder, paths in draws.items():
        if len(paths) > 1 and (folder / HEADER).is_file():
            raise DataError(
                f"{folder} holds {len(paths)} draws of each posterior, as a flow posterior leaves them: fit priors to "
                f"them by the command that trained their VAE, or give one draw, data.root={paths[0]}"
            )


def _by_split(
    root: Path, files: Sequence[tuple[Path, str]], shelf: Shelf
) -> dict[str, dict[tuple[str, bool], list[Stored]]]:
    """Split -> (name of an array, whether of mirrored copies) -> its shards."""
    kinds = sorted({path.suffix.lower() for path, _ in files})
    if len(kinds) > 1:
        raise DataError(f"{root} holds {' and '.join(kinds)} files: name one of them, or a folder of one kind")
    by_split: dict[str, dict[tuple[str, bool], list[Stored]]] = defaultdict(lambda: defaultdict(list))
    for path, folder_split in files:
        of_file = parse(path.stem) if root.is_dir() else Name("", False, "")
        taken = set()
        for key, stored in open_arrays(path, shelf).items():
            said = parse(key) if key else of_file
            rest = said.rest if key else "_".join(word for word in said.rest.split("_") if not word.isdecimal())
            split = said.split or of_file.split or folder_split or "all"
            is_flip = said.is_flip or of_file.is_flip
            if (split, rest, is_flip) in taken:
                rest = key.lower()
            taken.add((split, rest, is_flip))
            by_split[split][rest, is_flip].append(stored)
    return {split: dict(arrays) for split, arrays in by_split.items()}


def _take(
    root: Path, split: str, arrays: Mapping[tuple[str, bool], list[Stored]], chosen: Mapping[str, str], found: Found
) -> None:
    """Put the arrays of a split into `found`, mirrored copies behind their images."""
    event, *_ = chosen
    columns, copies = {}, 1
    shards = _shards(root, split, arrays, chosen)
    for kind in (event, *(spread for spread in SPREADS if spread in chosen)):
        parts = list(shards[kind])
        if flipped := arrays.get((chosen[kind], True)):
            if len(flipped) != len(parts):
                raise DataError(f"{root}: some shards have no mirrored copies of {chosen[kind]}: save all shards alike")
            for part, flip in zip(parts, flipped, strict=True):
                _check_alike(part, flip, whole=True)
            parts, copies = parts + flipped, 2
        columns[kind] = Stack(parts)
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError(
            f"{root}: only some of {list_keys([chosen[k] for k in columns])} have mirrored copies: save all"
        )
    for known in found.columns.values():
        for kind, column in columns.items():
            _check_alike(known[kind].parts[0], column.parts[0], whole=False)  # type: ignore[arg-type]
    found.columns[split] = columns
    num = len(columns[event]) // copies
    if "label" in shards:
        found.labels[split] = np.concatenate([part[:] for part in shards["label"]] * copies)
    if "groups" in shards:
        found.groups[split] = np.tile(_group_numbers(np.concatenate([part[:] for part in shards["groups"]])), copies)
    elif copies > 1:
        found.groups[split] = np.tile(np.arange(num), copies)
    if copies > 1 and len(found.columns) == 1:
        found.guesses.append(f"{chosen[event]} and its mirrored copies are two draws of one image")


def _shards(
    root: Path, split: str, arrays: Mapping[tuple[str, bool], list[Stored]], chosen: Mapping[str, str]
) -> dict[str, list[Stored]]:
    """Kind -> its shards, which are as many and as long as those of the latents."""
    event, *others = chosen
    where = str(root) if split == "all" else f"{root} ({split})"
    shards = {kind: arrays.get((name, False), []) for kind, name in chosen.items()}
    for kind in (event, *others):
        if not shards[kind] and kind == "label" and split != "train":
            del shards[kind]
            continue
        if not shards[kind]:
            names = [name for name, is_flip in arrays if not is_flip]
            raise DataError(f"{where} has no {chosen[kind]}; it holds {list_keys(names)}: save all splits alike")
        if shards[kind][0].problem:
            raise DataError(shards[kind][0].problem)
        if len(shards[kind]) != len(shards[event]):
            have = {part.path for part in shards[kind]} ^ {part.path for part in shards[event]}
            odd = min(have, key=lambda path: natural(path.name))
            lacks = chosen[event] if odd in {part.path for part in shards[kind]} else chosen[kind]
            raise DataError(f"{odd} has no {lacks or 'latents'}, and other shards do: save all shards alike")
        for part, latent in zip(shards[kind], shards[event], strict=True):
            if kind not in ("label", "groups"):
                _check_alike(shards[kind][0], part, whole=False)
            if kind in SPREADS and part.shape != latent.shape:
                raise DataError(
                    f"{part.words} has shape {part.shape} and {latent.key or latent.path.name} {latent.shape}: save "
                    "one number of it for each of those"
                )
            if part.shape[:1] != latent.shape[:1]:
                raise DataError(
                    f"{part.words} has shape {part.shape} for {latent.shape[0]:,} latents: give one a latent"
                    + ", or set data.label=false" * (kind == "label")
                )
    return shards


def _check_alike(one: Stored, other: Stored, whole: bool) -> None:
    """Whether two shards are of one type and, but for their length or as a `whole`, of one shape."""
    start = 0 if whole else 1
    if (one.dtype, one.shape[start:]) != (other.dtype, other.shape[start:]):
        raise DataError(
            f"{other.words} holds {other.dtype} {other.shape} and {one.words} {one.dtype} {one.shape}: save all alike"
        )


def _group_numbers(groups: np.ndarray) -> np.ndarray:
    return np.unique(groups.reshape(len(groups), -1)[:, 0], return_inverse=True)[1].reshape(-1)


def _take_beside(path: Path, kind: str, split: str, found: Found, shelf: Shelf) -> None:
    """Labels or groups in an .npy file of their own: of all rows, or of the training rows, of which others are cut."""
    values = open_arrays(path, shelf)[""][:]
    copies = 2 if split in found.groups else 1
    num = len(next(iter(found.columns[split].values()))) // copies
    if values.shape[:1] != (num,):
        raise DataError(f"{path} has shape {values.shape} for {num:,} latents: give one a latent (data.{kind})")
    if kind == "label":
        found.labels[split] = np.concatenate([values] * copies)
    else:
        found.groups[split] = np.tile(_group_numbers(values), copies)
