"""Images that somebody has, read as the images of a model were: of their shape, levels and domain.

What lies at the path decides who reads it: pictures, whatever reads folders of them; an IDX file; any other file, what
reads arrays. Where the model's own images came through that reader, its keys hold here too.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from stage1_vae.data.arrays import Arrays, Mapped
from stage1_vae.data.folders.cells import Cell
from stage1_vae.data.folders.files import CHANNELS, KIND, Files, Target, decode_all
from stage1_vae.data.folders.layout import HEAP, ImageFile, walk
from stage1_vae.data.folders.suffixes import SUFFIXES, describe_unread, suffix_of
from stage1_vae.data.folders.tables import Choice, find_tables, read_tables
from stage1_vae.data.given.data import GivenImages, existing_root, of_score
from stage1_vae.data.idx import TYPES, Idx, bytes_if_whole, read_idx
from stage1_vae.data.image_folder import ImageFolder, Picture, pictures_in
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, fingerprint
from stage1_vae.data.layout import Hints, find_axes
from stage1_vae.data.pixels import ROUNDING, Pixels, ends_of, survey
from stage1_vae.data.readers.choosing import read_content
from stage1_vae.data.readers.opening import SUFFIXES as ARRAY_SUFFIXES
from stage1_vae.data.readers.stack import Stack
from stage1_vae.data.splits import fits_in_memory
from stage1_vae.data.vectors import Vectors, in_units
from stage1_vae.data.watched import Watched

WHAT = "a file or folder of images, such as score.root=new_images/"
VERSION = 1
"""Of the fingerprint."""
Reader = TypeVar("Reader", Arrays, Idx, ImageFolder)


def read_given_images(source: object, root: str, like: ImageData) -> GivenImages:
    """All images of the file or folder `root`.

    Args:
        source: what read the images of the model.
        root: of `score.root`.
        like: the images of the model.

    Raises:
        DataError: there are none, they cannot be read, or they are of another shape, number of levels or domain.
    """
    path = existing_root(root, WHAT)
    try:
        if isinstance(source, Vectors):
            given = _read_arrays(replace(source, root=str(path)).in_arrays, path, like)
            return given if like.units is None else replace(given, images=in_units(given.images, like.units))
        if _are_pictures(path, isinstance(source, Arrays)):
            return _read_pictures(_as(ImageFolder, source, path), path, like, isinstance(source, ImageFolder))
        if _is_idx(path):
            images = read_idx(path, (3, 4))
            turned = find_axes(str(path), images.shape, like.domain, [], Hints(num=len(images))).turn(images)
            idx = _as(Idx, source, path)
            turned = bytes_if_whole(turned.swapaxes(2, 3) if idx.transpose else turned)
            return _of_array(path, turned, {"all": len(turned)}, like, idx.range, [path], ([], []), 0)
        return _read_arrays(_as(Arrays, source, path), path, like)
    except DataError as error:
        raise of_score(error) from error


def _as(cls: type[Reader], source: object, path: Path) -> Reader:
    """A source of that class which reads `path`: with the keys of `source`, where it is one."""
    return replace(source, root=str(path)) if isinstance(source, cls) else cls(root=str(path))


def _are_pictures(path: Path, prefers_arrays: bool) -> bool:
    if not path.is_dir():
        suffix = suffix_of(path.name)
        return suffix == ".parquet" or (suffix in SUFFIXES and not (prefers_arrays and suffix in ARRAY_SUFFIXES))
    if prefers_arrays and any(file.suffix.lower() in ARRAY_SUFFIXES for file in path.iterdir()):
        return False
    files, others = walk(path)
    if not files and not others:
        raise DataError(f"{path} is empty: give {WHAT}")
    return bool(files) or bool(find_tables(path))


def _is_idx(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start[:2] == b"\x1f\x8b" or (len(start) == 4 and start[:2] == b"\0\0" and start[2] in TYPES)


def _read_arrays(source: Arrays, path: Path, like: ImageData) -> GivenImages:
    began_ns = time.time_ns()
    content = read_content(path, source.x, False, source.memory_limit_gib * 2**30)
    one = (like.shape, (*like.shape[1:], like.shape[0]), like.shape[1:] if like.shape[0] == 1 else None)
    for split, array in content.images.items():
        # one image without an axis that counts; of one channel, a third axis of size 1 is read as such an axis anyway
        is_vector = array.shape == like.shape[2:] and like.shape[:2] == (1, 1)
        is_image = array.shape in one and (len(array.shape) == 2 or like.shape[0] > 1) and like.are_pictures
        if isinstance(array, np.ndarray) and (is_vector or is_image):
            content.images[split] = array[None]
    images, nums = source.images_of(path, content, like.domain)
    said = (content.guesses, content.left_out)
    return _of_array(path, images, nums, like, source.range, content.files, said, began_ns, source.memory_limit_gib)


def _of_array(
    path: Path,
    images: np.ndarray | Stack,
    nums: dict[str, int],
    like: ImageData,
    scale: Sequence[float] | None,
    files: list[Path],
    said: tuple[list[str], list[str]],
    began_ns: int,
    limit_gib: float = np.inf,
) -> GivenImages:
    """Images [N, C, H, W] of a file; `nums`: how many each split of it has."""
    if not len(images):
        raise DataError(f"{path} holds no image: give {WHAT}")
    if tuple(images.shape[1:]) != like.shape:
        raise DataError(
            f"{path} holds images of {_by(images.shape[1:])}, and this model is of {_by(like.shape)} (channels x "
            "height x width): bring them to that shape"
        )
    pixels = _pixels(path, images, like, scale)
    is_on_disk = isinstance(images, (np.memmap, Stack))
    keep = not is_on_disk or fits_in_memory(images.nbytes, limit_gib)
    read: ImageSet
    read = InMemory(pixels.tensor(_own(images[:]))) if keep else Mapped(images, np.arange(len(images)), None, pixels)
    names = {split: path.name if split == "all" else f"{path.name} ({split})" for split in nums}
    ends = np.cumsum([*nums.values()])

    def place(row: int) -> tuple[str, int]:
        split = int(np.searchsorted(ends, row, "right"))
        return list(names.values())[split], row - (int(ends[split - 1]) if split else 0)

    return GivenImages(
        path.name,
        place,
        fingerprint(("given", str(VERSION), pixels.digest, like.domain, *pixels.facts)),
        pixels.value_range,
        tuple(said[0]),
        tuple(said[1]),
        Watched([] if keep else files, began_ns).check,
        read,
    )


def _own(images: np.ndarray) -> np.ndarray:
    """The same in memory that may be written to, which torch asks for."""
    return images if images.flags.writeable and not isinstance(images, np.memmap) else np.array(images)


def _pixels(path: Path, images: np.ndarray | Stack, like: ImageData, scale: Sequence[float] | None) -> Pixels:
    """What the numbers of a file mean, which must be what those of the model's images mean."""
    ends, is_bytes = ends_of(scale, like.domain), images.dtype == np.uint8 or images.dtype.kind == "b"
    if like.levels is not None and not is_bytes:
        raise DataError(
            f"{path} holds {images.dtype}, and this model is of images of {like.levels} levels: save them as uint8, "
            f"0 to {like.levels - 1}"
        )
    if like.levels is None and ends is None and images.dtype.kind != "f":
        where = "real numbers" if like.domain is Domain.REAL else "floats in [0, 1]"
        raise DataError(
            f"{path} holds {images.dtype}, and this model is of {where}: save them as float32, scaled alike"
        )
    low, high, digest = survey(str(path), images)
    if like.levels is not None and high >= like.levels:
        raise DataError(_too_high(path, high, like.levels))
    if like.levels is None and like.domain is Domain.UNIT:
        black, white = ends or (0.0, 1.0)
        slack = (ROUNDING if images.dtype.itemsize > 2 else 100 * ROUNDING) * (white - black)
        if low < black - slack or high > white + slack:
            raise DataError(
                f"{path} holds values from {low:g} to {high:g}, and this model is of values from {black:g} to "
                f"{white:g}: scale them as its images were"
            )
    return Pixels(like.levels, like.domain, ends, (low, high), digest)


def _too_high(path: object, high: float, levels: int) -> str:
    return (
        f"{path} holds values up to {high:g}, and this model is of images of {levels} levels: save them as 0 to "
        f"{levels - 1}"
    )


def _read_pictures(source: ImageFolder, path: Path, like: ImageData, may_scale: bool) -> GivenImages:
    """Image files, or pictures in tables; of another size they are scaled where the model's images were."""
    began_ns, base = time.time_ns(), path if path.is_dir() else path.parent
    files, left_out = _picture_files(source, path)
    pictures = [picture for of_file in pictures_in(files, source.pages) for picture in of_file]
    bits = source.bits_of(pictures)
    kind = next((kind for kind, channels in CHANNELS.items() if channels == like.shape[0]), None)
    if kind is None:
        raise DataError(f"pictures have 1, 3 or 4 channels, and this model {like.shape[0]}: give a file of arrays")
    _check_pictures(source, pictures, kind, bits, like, may_scale)
    ends = source.ends_of_bits(bits)
    target = Target(kind, (like.shape[1], like.shape[2]), bits, ends)
    paths, pages = [picture.file.path for picture in pictures], [picture.header.page for picture in pictures]
    keep = fits_in_memory(len(pictures) * int(np.prod(like.shape)) * target.dtype.itemsize, source.memory_limit_gib)
    read: ImageSet
    value_range = (float(ends[0]), float(ends[1]))
    if keep:
        read = InMemory(decode_all(paths, target, pages))
        low, high = (end.item() for end in read.images.aminmax())
        value_range = (low * (ends[1] if target.is_deep else 1), high * (ends[1] if target.is_deep else 1))
        if like.levels is not None and high >= like.levels:
            row = int(read.images.flatten(1).amax(1).argmax())
            raise DataError(_too_high(paths[row], high, like.levels))
    else:
        read = Files(paths, target, None, pages)
        read.levels = like.levels or read.levels
    scaled = sum(picture.header.size != target.size for picture in pictures)
    guesses = [f"{scaled:,} scaled to {target.size[0]}x{target.size[1]} and cut about the centre"] if scaled else []
    on_disk = {place.column.path if isinstance(place, Cell) else place for place in paths}

    def place(row: int) -> tuple[str, int]:
        where, page = paths[row], pages[row]
        file, number = (
            (where.column.path, where.row) if isinstance(where, Cell) else (where, page.number if page else 0)
        )
        return str(file.relative_to(base)) if file.is_relative_to(base) else str(file), number

    content = b"".join(picture.header.digest for picture in pictures)
    return GivenImages(
        path.name,
        place,
        fingerprint(("given", str(VERSION), repr(target), str(like.levels), content)),
        value_range,
        tuple(guesses),
        tuple(left_out),
        Watched(() if keep else on_disk, began_ns).check,
        read,
    )


def _picture_files(source: ImageFolder, path: Path) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Every picture, and what else lies there, in words."""
    if path.is_dir():
        files, others = walk(path)
        if files:
            return files, describe_unread(others)
    elif path.suffix.lower() != ".parquet":
        return [ImageFile(path, (path.name,))], ()
    layout = read_tables(
        path, find_tables(path), Choice(source.x, source.label, False, False), source.memory_limit_gib * 2**30
    )
    return layout.images[HEAP], tuple(layout.left_out)


def _check_pictures(
    source: ImageFolder, pictures: list[Picture], kind: str, bits: int, like: ImageData, may_scale: bool
) -> None:
    """
    Raises:
        DataError: a picture that this model's images could not be, with what to do to it.
    """
    if not pictures:
        raise DataError(f"{source.root} holds no picture: give {WHAT}")
    words = {"L": "grey", "RGB": "RGB", "RGBA": "RGB with transparency"}
    for picture in pictures:
        mode, size = picture.header.mode, picture.header.size
        if source.mode is None and KIND.get(mode) != kind:
            key = f", or set data.mode={'grey' if kind == 'L' else 'rgb'}" if may_scale and kind != "RGBA" else ""
            raise DataError(
                f"{picture.file.path} is {words.get(KIND.get(mode, ''), mode)}, and this model is of {words[kind]} "
                f"images: convert it{key}"
            )
        if not may_scale and size != like.shape[1:]:
            raise DataError(
                f"{picture.file.path} is {size[0]}x{size[1]} (height x width), and this model is of "
                f"{like.shape[1]}x{like.shape[2]}: bring it to that size"
            )
    if (bits > 8) != (like.levels is None) or like.domain is Domain.REAL:
        have = f"of {bits} bits a channel" if bits > 8 else "of 256 levels"
        model = f"{like.levels} levels" if like.levels is not None else f"floats ({like.domain.value})"
        remedy = "save them with 8 bits a channel" if like.levels is not None else "save them as one array of floats"
        raise DataError(f"{source.root} holds pictures {have}, and this model is of {model}: {remedy}")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
