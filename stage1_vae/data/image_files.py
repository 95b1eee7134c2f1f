"""Reading image files: one pass over the headers, and decoding to a common mode and size.

Modes become channels as they are (grey 1, colour 3, colour with transparency 4); palette and CMYK images become colour.
With `mode` "rgb" or "grey" every image is converted, transparent ones on a white ground. An image of another size is
scaled with an antialiasing filter until it covers the target, and cut to it about the centre. The camera's orientation
tag is obeyed; of an animation the first frame counts.
"""

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
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stage1_vae.data.images import DataError, ImageSet

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"))
KIND = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "RGBA": "RGBA"}
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
CONVERT = {"grey": "L", "rgb": "RGB"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""What a file may be, whatever its name says: Pillow would hand PostScript to Ghostscript, which runs it."""
MAX_FILE_BYTES = 2**30
ORIENTATION = 0x0112  # the EXIF tag; values above 4 swap height and width
FILES_A_TASK = 64
# Below these, threads only wait for the interpreter's lock: 32x32 files decode 1.6 times faster in one.
LARGE_BYTES = 2**17
LARGE_PIXELS = 96 * 96
T = TypeVar("T")


@dataclass(frozen=True)
class Header:
    """What one pass over a file tells: Pillow's mode, (height, width) as displayed, sha256 of the bytes."""

    mode: str
    size: tuple[int, int]
    digest: bytes


@dataclass(frozen=True)
class Target:
    """What every image becomes: "L", "RGB" or "RGBA", and (height, width)."""

    kind: str
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (CHANNELS[self.kind], *self.size)


class Files(ImageSet):
    """Image files decoded when a batch asks for them.

    Args:
        paths: one file an image.
        target: what they become.
        labels: int64 [N], or None.
    """

    def __init__(self, paths: Sequence[Path], target: Target, labels: Tensor | None) -> None:
        self.paths, self.target, self.labels = tuple(paths), target, labels

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, index: Tensor) -> Tensor:
        images = torch.empty((len(index), *self.target.shape), dtype=torch.uint8)
        with _quiet_pillow():
            for row, i in zip(images.numpy(), index.tolist(), strict=True):
                row[...] = decode(self.paths[i], self.target)
        return images


def scan(paths: Sequence[Path]) -> list[Header]:
    """Read all files once.

    Raises:
        DataError: one of them is not an image.
    """
    return _for_each(_header, paths, threads=paths[0].stat().st_size >= LARGE_BYTES)


def decode_all(paths: Sequence[Path], target: Target) -> Tensor:
    """All images, uint8 [N, C, H, W].

    Raises:
        DataError: one of them is damaged.
    """
    images = torch.empty((len(paths), *target.shape), dtype=torch.uint8)
    rows = images.numpy()

    def place(i: int) -> None:
        rows[i] = decode(paths[i], target)

    _for_each(place, range(len(paths)), threads=target.size[0] * target.size[1] >= LARGE_PIXELS)
    return images


def decode(path: Path, target: Target) -> np.ndarray:
    """One image, uint8 [C, H, W].

    Raises:
        DataError: it is damaged.
    """
    try:
        content = io.BytesIO(_content(path))  # many small reads are cheaper in memory
        with Image.open(content, formats=FORMATS) as opened:
            image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
            if image.mode != target.kind:
                image = _converted(image, target.kind)
            if image.size != target.size[::-1]:
                image = ImageOps.fit(image, target.size[::-1], method=Image.Resampling.BICUBIC)
            values = np.asarray(image)  # [H, W] or [H, W, C]
    except Exception as error:  # Pillow's decoders raise many kinds on a damaged file
        raise _unreadable(path, error) from error
    return values.reshape(*target.size, -1).transpose(2, 0, 1)


def _converted(image: Image.Image, kind: str) -> Image.Image:
    if image.has_transparency_data and kind != "RGBA":
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        image = ground
    return image.convert(kind)


def _header(path: Path) -> Header:
    try:
        content = _content(path)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if "exif" in image.info and image.getexif().get(ORIENTATION, 1) > 4:
                width, height = height, width
            return Header(image.mode, (height, width), hashlib.sha256(content).digest())
    except Exception as error:  # as in `decode`
        raise _unreadable(path, error) from error


def _content(path: Path) -> bytes:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for, a device has no end
        raise ValueError("no plain file")
    if facts.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{facts.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are expected")
    return path.read_bytes()


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
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
