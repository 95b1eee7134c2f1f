"""Files of several images: where each page of a TIFF stack and each frame of an animation lies.

The pages of a TIFF are a chain of directories. A page is read as though its directory were the first, so that the last
of a thousand costs no more than the first, and no more of the file is read than that page.

Some stacks have one directory for all their images, which only the description counts: ImageJ's beyond 4 GiB, and those
that tifffile writes with `truncate`.
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SUBFILE = 254
"""TIFF tag: of a page that is a smaller copy of another (1), or a mask (4), a bit is set."""
DESCRIPTION, COMPRESSION, STRIP_BYTES = 270, 259, 279
IMAGEJ = re.compile(r"ImageJ=.*?^images=(\d{1,9})$", re.MULTILINE | re.DOTALL)
TIFFFILE = re.compile(r'\{"shape": \[((?:\d{1,9}, ){1,15}\d{1,9})\], .*"truncated": true')
"""Descriptions of stacks: the number of images, the shape of them all."""


@dataclass(frozen=True)
class Page:
    """Where one image lies in its file.

    Attributes:
        number: from 0.
        offset: of its directory in a TIFF, in bytes; 0 for the frame of an animation.
    """

    number: int
    offset: int


class _FirstAt(io.FileIO):
    """A TIFF whose first page is the one at `offset`."""

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__(path)
        self._place, pointer = _pointer(self.read(8))
        self._bytes = struct.pack(pointer, offset)
        self.seek(0)

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        num = super().readinto(buffer) or 0
        if start < self._place + len(self._bytes):
            view = memoryview(buffer).cast("B")
            for i, value in enumerate(self._bytes, self._place - start):
                if 0 <= i < num:
                    view[i] = value
        return num


def frames_of(image: Image.Image) -> int:
    """Images in an opened file."""
    if image.format == "TIFF" and not image.tag_v2.next:  # type: ignore[attr-defined]
        return 1  # what Pillow would find out by reading the directory again
    return int(getattr(image, "n_frames", 1))


def images_without_directory(image: Image.Image, content: bytes) -> int:
    """Images of a TIFF behind the only one that has a directory, as its description tells and the file can hold."""
    if image.format != "TIFF" or image.tag_v2.next:  # type: ignore[attr-defined]
        return 0
    tags = image.tag_v2  # type: ignore[attr-defined]
    words = str(tags.get(DESCRIPTION, ""))
    if match := IMAGEJ.match(words):
        num = int(match[1])
    elif match := TIFFFILE.match(words):
        samples = len(image.getbands()) * math.prod(image.size)
        num = math.prod(int(size) for size in match[1].split(", ")) // samples
    else:
        return 0
    one = sum(tags.get(STRIP_BYTES, ()))
    return num - 1 if tags.get(COMPRESSION, 1) == 1 and 0 < num * one <= len(content) else 0


def pages_of(image: Image.Image, content: bytes) -> Iterator[Page]:
    """Every image of an opened file but the smaller copies and masks of a TIFF; `image` stands at each in turn."""
    offsets = _directories(content) if image.format == "TIFF" else [0] * frames_of(image)
    for number, offset in enumerate(offsets):
        image.seek(number)
        if image.format != "TIFF" or number == 0 or not image.tag_v2.get(SUBFILE, 0) & 5:  # type: ignore[attr-defined]
            yield Page(number, offset)


@contextmanager
def open_at(path: Path, page: Page, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """The image at `page`, not yet decoded."""
    if page.offset:
        with io.BufferedReader(_FirstAt(path, page.offset)) as file, Image.open(file, formats=formats) as image:
            yield image
    else:
        with Image.open(path, formats=formats) as image:
            image.seek(page.number)
            yield image


def _pointer(head: bytes) -> tuple[int, str]:
    """Where a TIFF says where its first directory is, and how the number is written."""
    order = "<" if head[:2] == b"II" else ">"
    return (8, order + "Q") if struct.unpack(order + "H", head[2:4])[0] == 43 else (4, order + "I")


def _directories(content: bytes) -> list[int]:
    """Where every directory of the chain is, in bytes."""
    place, pointer = _pointer(content)
    order, large = pointer[0], pointer[1] == "Q"
    count, entry = (order + "Q", 20) if large else (order + "H", 12)
    offsets: list[int] = []
    visited = {0}
    while (offset := struct.unpack_from(pointer, content, place)[0]) not in visited:
        offsets.append(offset)
        visited.add(offset)
        place = offset + struct.calcsize(count) + entry * struct.unpack_from(count, content, offset)[0]
    return offsets
