"""Reading image files: one pass over the headers, and decoding to a common mode and size.

Modes become channels as they are (grey 1, colour 3, colour with transparency 4); palette and CMYK images become colour.
PNG and TIFF files of 9 to 16 bits a channel become floats. With `mode` "rgb" or "grey" every image is converted,
transparent ones on a white ground. An image of another size is scaled with an antialiasing filter until it covers the
target, and cut to it about the centre. The camera's orientation tag is obeyed. A file of several images, a TIFF stack
or an animation, is read at a `Page`.
"""

import functools
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stage1_vae.data.folders.cells import Cell
from stage1_vae.data.folders.deep import decode_deep
from stage1_vae.data.folders.depth import beyond_bytes, deep_bits, tiff_in_words
from stage1_vae.data.folders.pages import Page, frames_of, images_without_directory, open_at, pages_of
from stage1_vae.data.folders.suffixes import BY_SUFFIX, FORMATS
from stage1_vae.data.images import DataError, ImageSet

KIND = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "RGBA": "RGBA"}
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
CONVERT = {"grey": "L", "rgb": "RGB"}
MAX_FILE_BYTES = 2**30
ORIENTATION = 0x0112  # the EXIF tag; values above 4 swap height and width
FILES_A_TASK = 64
# Below these, threads only wait for the interpreter's lock: 32x32 files decode 1.6 times faster in one.
LARGE_BYTES = 2**17
LARGE_PIXELS = 96 * 96
TO_BYTES = (
    "save it with 8 bits a channel, grey or RGB, or all images as one array of floats (data=arrays, where data.range= "
    "tells what is black and white)"
)
MARKS = {
    b"ftypheic": ("HEIC", "convert it to .png or .jpg"),
    b"ftypheix": ("HEIC", "convert it to .png or .jpg"),
    b"ftypmif1": ("HEIF", "convert it to .png or .jpg"),
    b"JXL \r\n\x87\n": ("JPEG XL", "convert it to .png or .jpg"),
    b"\xff\x0a": ("JPEG XL", "convert it to .png or .jpg"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the images with git lfs pull"),
    b"<!doctype": ("a web page", "fetch it again"),
    b"<html": ("a web page", "fetch it again"),
}
"""How other files begin, what they are and what to do."""
T = TypeVar("T")


class Header(NamedTuple):
    """What one pass over a file tells.

    Attributes:
        mode: Pillow's.
        size: (height, width) as displayed.
        digest: sha256 of the bytes, and of the page.
        page: where in a file of several images; None for the first, or the only one.
        further: images of the file that are passed over, of its first header.
        kind: TIFF, GIF and so on, of a file of several images; else empty.
        deep: the samples in words if they are no unsigned numbers of at most 8 bits, else empty.
        bits: of a channel, if they are 9 to 16 that can be read; else 0.
        transparent: whether some of it may be.
    """

    mode: str
    size: tuple[int, int]
    digest: bytes
    page: Page | None = None
    further: int = 0
    kind: str = ""
    deep: str = ""
    bits: int = 0
    transparent: bool = False


@dataclass(frozen=True)
class Target:
    """What every image becomes.

    Attributes:
        kind: "L", "RGB" or "RGBA".
        size: (height, width).
        bits: of a channel of the files; 8 for bytes, more for floats.
        ends: which of their numbers become 0 and 1, of floats.
    """

    kind: str
    size: tuple[int, int]
    bits: int = 8
    ends: tuple[float, float] = (0, 255)

    def __repr__(self) -> str:  # a fingerprint holds it
        deep = f", bits={self.bits}, ends={self.ends}" if self.is_deep else ""
        return f"Target(kind={self.kind!r}, size={self.size!r}{deep})"

    @property
    def is_deep(self) -> bool:
        return self.bits > 8

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.is_deep else torch.uint8

    @property
    def shape(self) -> tuple[int, int, int]:
        return (CHANNELS[self.kind], *self.size)


class Files(ImageSet):
    """Image files decoded when a batch asks for them.

    Args:
        paths: one file an image.
        target: what they become.
        labels: int64 [N], or None.
        pages: where each image lies in its file; empty: all are the first of theirs.

    Attributes:
        levels: all values are below it; 256 until somebody has looked.
    """

    levels = 256

    def __init__(
        self, paths: Sequence[Path | Cell], target: Target, labels: Tensor | None, pages: Sequence[Page | None] = ()
    ) -> None:
        self.paths, self.target, self.labels = tuple(paths), target, labels
        self.pages = tuple(pages) if any(pages) else ()

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, index: Tensor) -> Tensor:
        images = torch.empty((len(index), *self.target.shape), dtype=self.target.dtype)
        with _quiet_pillow():
            asked, rows = index.tolist(), images.numpy()
            for place in _reading_order([self.paths[i] for i in asked]):
                i, row = asked[place], rows[place]
                row[...] = decode(self.paths[i], self.target, self.pages[i] if self.pages else None)
                if self.levels < 256 and row.max() >= self.levels:
                    raise DataError(f"{self.paths[i]} holds {row.max()}: set data.levels={row.max() + 1} or more")
        return images


def scan(paths: Sequence[Path | Cell], pages: str | None = None) -> list[list[Header]]:
    """Read all files once: the headers of the images of each file.

    Args:
        paths: of the files.
        pages: "all" for every image of a file, "first" for one a file, None for every page of a TIFF and the first
            frame of an animation.

    Raises:
        DataError: one of them is not an image.
    """
    work = functools.partial(_headers, pages=pages)
    first = paths[0]
    num_bytes = first.typical_bytes if isinstance(first, Cell) else first.stat().st_size
    return _for_each(work, paths, threads=num_bytes >= LARGE_BYTES)


def decode_all(paths: Sequence[Path | Cell], target: Target, pages: Sequence[Page | None] = ()) -> Tensor:
    """All images [N, C, H, W], uint8, or float32 in [0, 1] of deep ones.

    Raises:
        DataError: one of them is damaged.
    """
    images = torch.empty((len(paths), *target.shape), dtype=target.dtype)
    rows = images.numpy()

    def place(i: int) -> None:
        rows[i] = decode(paths[i], target, pages[i] if pages else None)

    _for_each(place, _reading_order(paths), threads=target.size[0] * target.size[1] >= LARGE_PIXELS)
    return images


def decode(path: Path | Cell, target: Target, page: Page | None = None) -> np.ndarray:
    """One image [C, H, W], uint8, or float32 in [0, 1] of a deep one.

    Raises:
        DataError: it is damaged.
    """
    try:
        at_page = None if page is None or isinstance(path, Cell) else open_at(path, page, FORMATS)
        # Many small reads are cheaper in memory.
        with at_page or Image.open(io.BytesIO(_content(path)), formats=_formats(path)) as opened:
            if target.is_deep:
                white = 2**target.bits - 1
                return _scaled(
                    path, decode_deep(opened, lambda: _content(path), page, target.kind, target.size, white), target
                )
            image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
            if image.mode != target.kind:
                if image.has_transparency_data and target.kind != "RGBA":
                    ground = Image.new("RGBA", image.size, "white")
                    ground.alpha_composite(image.convert("RGBA"))
                    image = ground
                image = image.convert(target.kind)
            if image.size != target.size[::-1]:
                image = ImageOps.fit(image, target.size[::-1], method=Image.Resampling.BICUBIC)
            values = np.asarray(image)  # [H, W] or [H, W, C]
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on a damaged file
        raise _refusal(path, error) from error
    return values.reshape(*target.size, -1).transpose(2, 0, 1)


def _reading_order(paths: Sequence[Path | Cell]) -> Sequence[int]:
    """Places in the order in which cells of tables are read: neighbours together, for they are read in groups."""
    cells = [path for path in paths if isinstance(path, Cell)]
    return sorted(range(len(cells)), key=lambda i: (str(cells[i].column.path), cells[i].row)) or range(len(paths))


def _scaled(path: Path | Cell, values: np.ndarray, target: Target) -> np.ndarray:
    """Numbers of a deep picture in [0, 1]."""
    low, high = target.ends
    if values.min() < low or values.max() > high:
        raise DataError(
            f"{path} holds values from {values.min():g} to {values.max():g}, outside data.range=[{low:g},{high:g}]"
        )
    return (values - np.float32(low)) / np.float32(high - low)


def _headers(path: Path | Cell, pages: str | None) -> list[Header]:
    try:
        content = _content(path)
        digest = hashlib.sha256(content).digest()
        with Image.open(io.BytesIO(content), formats=_formats(path)) as image:
            num = frames_of(image)
            first = _header(image, content, digest)
            kind = image.format or ""
            if further := images_without_directory(image, content):
                if pages != "first":
                    raise DataError(
                        f"{path} is a stack of {further + 1:,} images with one TIFF directory, that of the first: save "
                        "it with a directory an image, or as one array (data=arrays), or take the first of each file "
                        "by data.pages=first"
                    )
                return [first._replace(further=further, kind=kind)]
            if num == 1:
                return [first]
            if isinstance(path, Cell) or pages == "first" or kind == "MPO" or (pages is None and kind != "TIFF"):
                return [first._replace(further=num - 1, kind=kind)]
            headers = [
                _header(image, content, hashlib.sha256(digest + b"%d" % page.number).digest())._replace(page=page)
                for page in pages_of(image, content)
            ]
            return [headers[0]._replace(further=num - len(headers), kind=kind), *headers[1:]]
    except DataError:
        raise
    except Exception as error:  # as in `decode`
        raise _refusal(path, error) from error


def _header(image: Image.Image, content: bytes, digest: bytes) -> Header:
    width, height = image.size
    if "exif" in image.info and image.getexif().get(ORIENTATION, 1) > 4:
        width, height = height, width
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    bits = deep_bits(image, content)
    mode = "L" if bits and image.mode.startswith("I") else image.mode
    deep = beyond_bytes(image, content)
    return Header(mode, (height, width), digest, deep=deep, bits=bits, transparent=transparent)


def _formats(path: Path | Cell) -> tuple[str, ...]:
    if isinstance(path, Cell):
        return FORMATS
    return BY_SUFFIX.get(os.fspath(path)[-4:].lower(), FORMATS)  # pathlib takes its time over a suffix


def _content(path: Path | Cell) -> bytes:
    if isinstance(path, Cell):
        return path.content()
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for, a device has no end
        raise ValueError("no plain file")
    if facts.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{facts.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are expected")
    with open(path, "rb", buffering=0) as file:  # a buffer of its own costs more than it saves
        return file.readall()


def _refusal(path: Path | Cell, error: Exception) -> DataError:
    if not isinstance(error, Image.UnidentifiedImageError):
        return DataError(f"{path} cannot be read as an image ({' '.join(str(error).split())}): repair or remove it")
    content = _content(path)
    for mark, (words, remedy) in MARKS.items():
        if content[:64].lstrip().lower().startswith(mark.lower()) or content[4:12] == mark:
            return DataError(f"{path} cannot be read as an image ({words}): {remedy}")
    if content[:2] in (b"II", b"MM") and (words := tiff_in_words(content)):
        return DataError(f"{path} cannot be read as an image ({words}): {TO_BYTES}")
    if isinstance(path, Cell) and not content:
        return DataError(f"{path} holds no picture, at most the path of one, which is not followed: embed all pictures")
    reason = "not an image" if content else "not an image: it is empty"
    return DataError(f"{path} cannot be read as an image ({reason}): repair or remove it")


def _for_each(work: Callable[..., T], items: Sequence[object], threads: bool) -> list[T]:
    """`work` of each item, in order; the first error ends it."""
    if not threads:
        with _quiet_pillow():
            return [work(item) for item in items]
    Image.init()  # once, before the threads race for it

    def run(start: int) -> list[T]:
        return [work(item) for item in items[start : start + FILES_A_TASK]]

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with _quiet_pillow():
            return [result for results in pool.map(run, range(0, len(items), FILES_A_TASK)) for result in results]
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Oddities of single files (broken metadata, very large pictures) are no news to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
