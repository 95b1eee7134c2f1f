"""Pictures in Parquet tables, as data sets are kept on the Hugging Face hub: shards called train-00000-of-00002.

A picture is a structure of its encoded bytes and a path, which is not followed, or the bytes alone. Names of classes
are in the metadata; a label of -1 stands for none.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stage1_vae.data.folders.cells import Cell, Column, check_group, open_table
from stage1_vae.data.folders.layout import HEAP, ImageFile, Layout, pass_over_unlabelled
from stage1_vae.data.images import DataError
from stage1_vae.data.labels import sort_names
from stage1_vae.data.splits import SPLITS, split_in

PICTURES = ("image", "img", "images", "picture", "pixels", "x", "jpg", "png")
LABELS = ("label", "labels", "y", "target", "class", "cls", "digit")
SHARD = re.compile(r"-of-0*(\d+)")
FIRST_NAMED = 5


@dataclass
class _Shard:
    """One file: which of its columns holds the pictures, and what label each row has."""

    path: Path
    split: str
    column: Column
    labels: list[str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """What the configuration says: names of columns (None: to be found out), and what is not to be used."""

    x: str | None
    label: str | None
    use_splits: bool
    use_classes: bool


def find_tables(root: Path) -> list[Path]:
    """Parquet files: `root` itself, or all below it."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".parquet" else []
    return sorted(path for path in root.rglob("*.parquet") if path.is_file() and not path.name.startswith("."))


def read_tables(root: Path, paths: list[Path], choice: Choice, limit_bytes: float) -> Layout:
    """The layout of the pictures in Parquet files; each is a `Cell`.

    Args:
        root: a folder that holds them, or the only one.
        paths: of the files.
        choice: what the configuration says.
        limit_bytes: encoded pictures of more than this stay on the disk.

    Raises:
        DataError: no table of pictures, or one that is damaged; nobody knows which files belong together.
    """
    splits = _split_files(root, paths) if choice.use_splits else {HEAP: paths}
    layout = Layout({}, left_out=_missing_shards(splits))
    stays = sum(path.stat().st_size for path in paths) <= limit_bytes
    if not stays:
        layout.guesses.append(
            "encoded pictures stay on the disk, a group of rows is read for one of them: slow, unless "
            "data.memory_limit_gib has room for all"
        )
    names: list[str] = []
    shards = [
        _read(path, split, choice, stays, layout, names) for split, of_split in splits.items() for path in of_split
    ]
    for shard in shards:
        for row, label in enumerate(shard.labels):
            layout.images.setdefault(shard.split, []).append(
                ImageFile(Cell(shard.column, row), (label or "", str(row)))
            )
        layout.folders[shard.split] = shard.split
    if choice.use_classes:
        _find_classes(root, layout, names)
    return layout


def _split_files(root: Path, paths: list[Path]) -> dict[str, list[Path]]:
    """The files of each split, in order; all under `HEAP` where no name says any."""
    found: dict[str, list[Path]] = {}
    places = set()
    for path in paths:
        parts = path.relative_to(root).parts[:-1] if root.is_dir() else ()
        said = [split for split, _ in map(split_in, (path.stem, *reversed(parts))) if split]
        found.setdefault(said[0] if said else "", []).append(path)
        places.add(tuple(part for part in parts if not split_in(part)[0]))
    if len(places) > 1:
        some = " or ".join(str(root.joinpath(*place)) for place in sorted(places)[:2])
        raise DataError(f"{root} holds tables in several folders: name one of them, data.root={some}")
    if "" in found and len(found) > 1:
        raise DataError(
            f"{root} holds {found[''][0].name} beside splits: move it away, or set data.splits=none to take all"
        )
    if "" in found or "train" not in found:
        return {HEAP: paths}
    return {split: found[split] for split in SPLITS if split in found}


def _missing_shards(splits: dict[str, list[Path]]) -> list[str]:
    words = []
    for split, paths in splits.items():
        promised = [int(match[1]) for path in paths if (match := SHARD.search(path.stem))]
        if promised and max(promised) > len(paths):
            words.append(f"{max(promised) - len(paths)} of {max(promised)} shards of {split}, which are not there")
    return words


def _read(path: Path, split: str, choice: Choice, stays: bool, layout: Layout, names: list[str]) -> _Shard:
    try:
        file = open_table(path)
        features = _features(file)
        pictures, in_structure = _pictures(path, file, features, choice.x)
        column = Column(path, pictures, in_structure, stays, file.metadata.num_rows)
        label = _label(path, file, features, choice, layout) if choice.use_classes else None
        if label is None:
            return _Shard(path, split, column, [None] * file.metadata.num_rows)
        for group in range(file.num_row_groups):
            check_group(file, group, label)
        of_classes = features.get(label, {}).get("names") or []
        names += [str(name) for name in of_classes if str(name) not in names]
        values = file.read(columns=[label], use_threads=False).column(0).to_pylist()
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read as a Parquet table ({reason}): fetch it again") from error
    words = {value: _class_name(path, value, of_classes) for value in set(values)}
    return _Shard(path, split, column, [words[value] for value in values])


def _features(file: Any) -> dict[str, dict[str, Any]]:
    """What the `datasets` library wrote down of each column, if it did."""
    try:
        found = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: facts for name, facts in found.items() if isinstance(facts, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _pictures(path: Path, file: Any, features: dict[str, dict[str, Any]], x: str | None) -> tuple[str, bool]:
    """The column of the pictures, and whether they are structures."""
    kinds = {}
    for column in file.schema_arrow:
        words = str(column.type)
        if words.startswith("struct<") and {inner.name for inner in column.type} in ({"bytes", "path"}, {"bytes"}):
            kinds[column.name] = True
        elif words in ("binary", "large_binary"):
            kinds[column.name] = False
    said = [name for name in kinds if features.get(name, {}).get("_type") == "Image"]
    common = [name for name in PICTURES if name in kinds]
    structures = [name for name in kinds if kinds[name]]
    names = [column.name for column in file.schema_arrow]
    if x is not None and x not in kinds:
        raise DataError(f"data.x={x}: {path} holds {_first_few(names)}, and pictures in {_first_few(list(kinds))}")
    chosen = x or next(iter((*said, *common, *structures, *kinds)), None)
    if chosen is None:
        raise DataError(
            f"{path} is a table without pictures: it holds {_first_few(names)}, and none is a structure of bytes and "
            "path; save numbers as arrays (data=arrays, data=vectors)"
        )
    return chosen, kinds[chosen]


def _label(path: Path, file: Any, features: dict[str, dict[str, Any]], choice: Choice, layout: Layout) -> str | None:
    """The column of the labels."""
    names = [column.name for column in file.schema_arrow]
    if choice.label is not None:
        if choice.label not in names:
            raise DataError(f"data.label={choice.label}: {path} holds {_first_few(names)}")
        return choice.label
    said = [name for name in names if features.get(name, {}).get("_type") == "ClassLabel"]
    found = next((name for name in LABELS if name in names), None) or (said[0] if len(said) == 1 else None)
    others = [name for name in said if name != found]
    words = f"labels {_first_few(others)} (data.label=NAME)"
    if others and words not in layout.left_out:
        layout.left_out.append(words)
    return found


def _class_name(path: Path, value: object, names: list[Any]) -> str | None:
    if value is None or value == -1:
        return None
    if isinstance(value, (list, dict, float, bytes)):
        raise DataError(
            f"{path}: a label is {str(value)[:40]}: classes are whole numbers or words; set data.classes=none"
        )
    if isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return str(int(value)) if isinstance(value, bool) else str(value)


def _find_classes(root: Path, layout: Layout, names: list[str]) -> None:
    """Fill in the classes, and take away the pictures without a label."""
    found = {split: Counter(file.inside[0] for file in files) for split, files in layout.images.items()}
    main = HEAP if HEAP in found else "train"
    classes = set(found[main]) - {""}
    if len(classes) < 2:
        return
    for split, counts in found.items():
        if set(counts) == {""}:
            layout.unlabelled += (split,)
        elif counts[""]:
            layout.images[split] = [file for file in layout.images[split] if file.inside[0]]
            layout.left_out.append(f"{counts['']:,} pictures without a label (data.classes=none takes them)")
    if unseen := sorted(set().union(*found.values()) - classes - {""}):
        raise DataError(
            f"{root}: class {unseen[0]} has no training images: add some, or set data.classes=none to take all images "
            "without labels"
        )
    layout.classes = tuple(name for name in names if name in classes) if classes <= set(names) else sort_names(classes)
    pass_over_unlabelled(layout)


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:FIRST_NAMED]) + ", ..." * (len(names) > FIRST_NAMED) if names else "nothing"
