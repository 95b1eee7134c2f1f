"""How the images of a folder lie: their splits, their classes, and what is none of them.

Splits: folders whose names say so (`stage1_vae.data.folders.split_names`), at the top or inside each class folder.
Classes: first-level folders, if there are at least two. A root that lies too high is walked down while one folder holds
all images. What can be read in two ways is refused, with the key that decides; what is passed over is said.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stage1_vae.data.folders.cells import Cell
from stage1_vae.data.folders.split_names import splits_of, words_of
from stage1_vae.data.folders.suffixes import STARTS, SUFFIXES, suffix_of
from stage1_vae.data.images import DataError
from stage1_vae.data.labels import sort_names
from stage1_vae.data.splits import PARTS, SPLITS

HEAP = "all"
SYSTEM = ("@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information", "__macosx")
"""Folders of a desktop or a NAS, in lower case: some hold small copies of the images."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos")
BESIDE = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "ground", "groundtruth", "manual"),
    *("segmentation", "segmentations", "trimap", "trimaps", "thumbnail", "thumbnails"),
}
"""Words of folders that lie beside one of images and hold none."""
NOT_TRAINED_ON = ("unlabeled", "unlabelled", "extra", "pred", "predict", "submission")
FEW, SHARE = 3, 100
"""So many images beside class folders are strays, or one in so many of those inside."""


class ImageFile(NamedTuple):
    """One image: where its file is, or its cell of a table, and its path below the folder that holds its split."""

    path: Path | Cell
    inside: tuple[str, ...]


@dataclass
class Layout:
    """Images by split, or all under `HEAP`.

    Attributes:
        images: split -> images; the first part of `inside` is the class where there are classes.
        folders: split -> name of its folder.
        classes: their names, in order.
        unlabelled: splits whose images lie in no class folder.
        guesses, left_out: see `stage1_vae.data.images.ImageData`.
    """

    images: dict[str, list[ImageFile]]
    folders: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    guesses: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def walk(root: Path) -> tuple[list[ImageFile], Counter[str]]:
    """Image files below `root` in alphabetical order, and how many other files there are of each suffix.

    Links are followed, but no folder is entered twice; hidden files and folders, and those of the system, are passed
    over.
    """
    images: list[ImageFile] = []
    others: Counter[str] = Counter()
    entered: set[str] = set()
    base = len(root.parts)
    for folder, subfolders, files in os.walk(root, onerror=_refuse_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name.lower() not in SYSTEM)
        parts = Path(folder).parts[base:]
        for file in sorted(files):
            if file.startswith("."):
                continue
            suffix = os.path.splitext(file)[1].lower()
            if suffix in SUFFIXES or (not suffix and _begins_as_image(Path(folder, file))):
                images.append(ImageFile(Path(folder, file), (*parts, file)))
            elif file.lower() not in SYSTEM_FILES:
                others[suffix_of(file)] += 1
    return images, others


def _begins_as_image(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(STARTS) and (start[:4] != b"RIFF" or start[8:] == b"WEBP")


def find_layout(root: Path, images: list[ImageFile], use_splits: bool, use_classes: bool) -> Layout:
    """What the folders of `images` mean.

    Raises:
        DataError: they can be read in two ways.
    """
    images, path, left_out = _descend(images)
    where = root.joinpath(*path)
    layout = (_find_splits(where, images) if use_splits else None) or Layout({HEAP: images})
    layout.left_out[:0] = left_out
    if use_classes:
        find_classes(where, layout)
    if path and (layout.classes or HEAP not in layout.images or left_out):
        layout.guesses.insert(0, f"{'/'.join(path)}/ is taken as the root")
    return layout


def _tops(images: Sequence[ImageFile]) -> dict[str, int]:
    """First-level folders, with their numbers of images, in order."""
    return Counter(file.inside[0] for file in images if len(file.inside) > 1)


def _below(images: Sequence[ImageFile], folder: str) -> list[ImageFile]:
    return [
        ImageFile(file.path, file.inside[1:]) for file in images if file.inside[0] == folder and len(file.inside) > 1
    ]


def _descend(images: list[ImageFile]) -> tuple[list[ImageFile], tuple[str, ...], list[str]]:
    """The images as seen from the deepest folder that holds all of them, its path, and what lies beside it.

    Masks in a folder beside that of the images lie beside it, and so do a few loose images above splits or classes.
    """
    tops, loose = _tops(images), _loose_images(images)
    if loose and tops and not _are_few(loose, images) and all(_words(name) & BESIDE for name in tops):
        return loose, (), [f"{_images(num)} in {name}/, beside the images" for name, num in tops.items()]
    if len(tops) > 1 and not loose:
        folder, beside = _images_beside_masks(tops)
        if not folder:
            return images, (), []
    elif len(tops) == 1 and _are_few(loose, images):
        folder = next(iter(tops))
        beside = [f"{_name_files(loose)}, beside {folder}/"] if loose else []
    else:
        return images, (), []
    inner, path, left_out = _descend(_below(images, folder))
    if loose and len(_tops(inner)) < 2:
        return images, (), []  # nothing is lost by taking all of them
    return inner, (folder, *path), beside + left_out


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}; make it readable, or move it away") from error


def _images_beside_masks(tops: Mapping[str, int]) -> tuple[str, list[str]]:
    """The folder of images where all others are of masks or labels, and these in words; empty where that is not so."""
    of_images = [name for name in tops if name.lower() in IMAGE_FOLDERS or _words(name) & {*IMAGE_FOLDERS}]
    if len(of_images) != 1 or any(not _words(name) & BESIDE for name in tops if name not in of_images):
        return "", []
    return of_images[0], [
        f"{_images(num)} in {name}/, beside {of_images[0]}/" for name, num in tops.items() if name not in of_images
    ]


def _words(name: str) -> set[str]:
    return {word.lower() for word in PARTS.findall(name)}


def _are_few(loose: Sequence[ImageFile], images: Sequence[ImageFile]) -> bool:
    return len(loose) <= max(FEW, len(images) // SHARE)


def _loose_images(images: Sequence[ImageFile]) -> list[ImageFile]:
    return [file for file in images if len(file.inside) == 1]


def _name_files(loose: Sequence[ImageFile]) -> str:
    return loose[0].inside[-1] + (f" and {len(loose) - 1:,} more" if len(loose) > 1 else "")


def _images(num: int) -> str:
    return f"{num:,} image{'s' * (num != 1)}"


def _find_splits(where: Path, images: list[ImageFile]) -> Layout | None:
    """The images of each split, in the order in which they were found; None where folders are no splits."""
    tops = _tops(images)
    if top_splits := splits_of(tops, str(where)):
        return _split_at_top(where, images, top_splits)
    inside: dict[str, set[str]] = {top: set() for top in tops}
    for file in images:
        if len(file.inside) > 2:
            inside[file.inside[0]].add(file.inside[1])
    inner = {top: splits_of(folders, top) for top, folders in inside.items()}
    holding = [top for top, splits in inner.items() if splits]
    if holding and len(holding) == len(tops) and _are_few(_loose_images(images), images):
        return _split_in_classes(images, inner)
    if holding:
        beside = next((top for top in tops if top not in holding), "loose images")
        raise DataError(
            f"{where / holding[0]} holds splits ({', '.join(sorted(inner[holding[0]]))}) and {beside} beside it does "
            f"not: set data.root={where / holding[0]}, or data.splits=none if these folders are no splits"
        )
    _refuse_half_a_split(where, inside)
    return None


def _refuse_half_a_split(where: Path, tops: Mapping[str, set[str]]) -> None:
    """`tops`: first-level folders, with the folders in them."""
    parsed = {top: words_of(top) for top in tops}
    if len(tops) > 1 and all(words and words[0] != "train" and not words[1] for words in parsed.values()):
        raise DataError(
            f"{where} has {', '.join(f'{top}/' for top in tops)} and no train/: name the folder of the training images "
            "train, or set data.splits=none if these are classes"
        )
    for train in (top for top, words in parsed.items() if words == ("train", "") and len(tops) > 1):
        has_classes = len(tops[train]) > 1
        if rest := [top for top in tops if top.lower() in NOT_TRAINED_ON or (has_classes and not tops[top])]:
            raise DataError(
                f"{where} has {train}/ and {rest[0]}/, which may be a split and a rest, or classes: set data.root="
                f"{where / train} to read it alone, or data.splits=none if these are classes"
            )


def _split_at_top(where: Path, images: list[ImageFile], splits: Mapping[str, tuple[str, str]]) -> Layout:
    layout = Layout({})
    for folder, (split, domain) in splits.items():
        files = _below(images, folder)
        if domain:
            files = [ImageFile(file.path, (domain, *file.inside)) for file in files]
        layout.images.setdefault(split, []).extend(files)
        layout.folders[split] = f"{layout.folders[split]}/, {folder}" if split in layout.folders else folder
    for top, num in _tops(images).items():
        if top not in splits:
            layout.left_out.append(f"{_images(num)} in {top}/, beside the splits (data.root={where / top} reads them)")
    if loose := _loose_images(images):
        layout.left_out.append(f"{_name_files(loose)}, beside the splits")
    for split, files in layout.images.items():
        folder_of_images, beside = _images_beside_masks(_tops(files))
        if beside and not _loose_images(files):
            layout.images[split] = _below(files, folder_of_images)
            layout.left_out += [f"{words} of {layout.folders[split]}/" for words in beside]
    _strip(layout.images)
    if any(folder not in (*SPLITS, "valid", "validation") for folder in layout.folders.values()):
        layout.guesses.append(f"{_as_splits(layout.folders)} (data.splits=none if they are classes)")
    return layout


def _split_in_classes(images: list[ImageFile], inner: Mapping[str, Mapping[str, tuple[str, str]]]) -> Layout:
    layout, beside = Layout({}), 0
    for file in images:
        if len(file.inside) > 2 and file.inside[1] in inner[file.inside[0]]:
            top, folder = file.inside[:2]
            split = inner[top][folder][0]
            layout.images.setdefault(split, []).append(ImageFile(file.path, (top, *file.inside[2:])))
            layout.folders[split] = folder
        else:
            beside += 1
    if beside:
        layout.left_out.append(f"{_images(beside)} beside the splits inside the class folders")
    layout.guesses.append(f"{_as_splits(layout.folders)} inside each class folder (data.splits=none to cut at random)")
    return layout


def _as_splits(folders: Mapping[str, str]) -> str:
    return ", ".join(f"{folders[split]}/ as {split}" for split in SPLITS if split in folders)


def _strip(splits: dict[str, list[ImageFile]]) -> None:
    """Take away a folder that holds all images of a split, such as train/images/, unless it is a class of another."""
    tops = {split: set(_tops(images)) for split, images in splits.items()}
    single = [split for split, names in tops.items() if len(names) == 1 and not _loose_images(splits[split])]
    elsewhere = {split: set().union(*(tops[other] for other in tops if other != split)) for split in single}
    are_alike = len(single) == len(splits)
    if to_strip := [split for split in single if are_alike or not tops[split] & elsewhere[split]]:
        splits.update({split: _below(splits[split], *tops[split]) for split in to_strip})
        _strip(splits)


def find_classes(where: Path, layout: Layout) -> None:
    """Fill in the classes, and take away the images that lie in none.

    Raises:
        DataError: it is not clear whether the folders are classes, or a class has no training images.
    """
    main = HEAP if HEAP in layout.images else "train"
    tops = {split: set(_tops(images)) for split, images in layout.images.items()}
    if len(set().union(*tops.values())) < 2:
        return
    if not tops[main]:
        layout.left_out.append(f"labels, for {layout.folders[main]}/ has no class folders")
        return
    if 2 * len(_loose_images(layout.images[main])) > len(layout.images[main]):
        layout.left_out.append(f"labels, for most images lie beside {sorted(tops[main])[0]}/ and the other folders")
        return
    for split in layout.images:
        if split == main or tops[split] & tops[main]:
            continue
        if len(tops[split]) > 1:
            break  # refused below
        layout.unlabelled += (split,)
        tops[split] = set()
    for split in layout.images:
        if split not in layout.unlabelled:
            layout.images[split] = _in_folders(where, layout, split)
    unseen = sorted(set().union(*tops.values()) - tops[main])
    if unseen:
        raise DataError(
            f"class folder {unseen[0]} has no training images: add some, use the name of a training class, or set "
            "data.classes=none to take all images without labels"
        )
    if len(tops[main]) < 2:
        return
    layout.classes = sort_names(tops[main])
    if split_like := [name for name in layout.classes if words_of(name)]:
        layout.guesses.append(f"{', '.join(f'{name}/' for name in split_like)} taken as a class, not as a split")
    if nested := _nested(layout.images[main]):
        layout.guesses.append(f"folders inside a class are no classes ({nested}; data.root=DIR reads one class)")
    pass_over_unlabelled(layout)


def _nested(images: Sequence[ImageFile]) -> str:
    """A class whose images lie in several folders, in words; empty where there is none."""
    inner: dict[str, set[str]] = {}
    for file in images:
        if len(file.inside) > 2:
            inner.setdefault(file.inside[0], set()).add(file.inside[1])
    folder = next((top for top, folders in inner.items() if len(folders) > 1), "")
    return f"{', '.join(f'{folder}/{name}/' for name in sorted(inner[folder])[:2])} are {folder}" if folder else ""


def _in_folders(where: Path, layout: Layout, split: str) -> list[ImageFile]:
    images = layout.images[split]
    if not (loose := _loose_images(images)):
        return images
    if not _are_few(loose, images):
        raise DataError(
            f"{loose[0].path} and {len(loose) - 1:,} other images lie beside class folders below {where}: move them "
            "into one, or set data.classes=none to take all images without labels"
        )
    inside = "" if split == HEAP else f" of {layout.folders[split]}/"
    layout.left_out.append(
        f"{_name_files(loose)}, beside the class folders{inside} (data.classes=none takes all images, without labels)"
    )
    return [file for file in images if len(file.inside) > 1]


def pass_over_unlabelled(layout: Layout) -> None:
    for split in layout.unlabelled:
        num, folder = len(layout.images[split]), layout.folders[split]
        if split == "val":
            del layout.images["val"]
            layout.left_out.append(
                f"{_images(num)} of {folder}/, which lie in no class folder; validation is cut from the training "
                "images (data.classes=none takes them, without labels)"
            )
        else:
            layout.left_out.append(f"labels of {folder}/, whose {_images(num)} lie in no class folder")
