"""Opening a zip archive that somebody else made, before anything in it is unpacked.

Its listing is read in pieces that are bounded, whatever length it claims. Refused by name: members whose names lead out
of the archive or stand there twice, links, encrypted ones, more members than anybody has. Nothing is ever extracted to
a place that a member names. How a few kilobytes become petabytes: Fifield, "A better zip bomb", 2019.
"""

import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from stage1_vae.machine import available_bytes

MAX_READ = 2**24
"""Bytes that are read at once, and so the longest listing."""
MAX_MEMBERS = 2**16
ENCRYPTED = 1
SURE_BYTES = 2**26
MAX_RATIO = 500
"""Most that `SURE_BYTES` and more may have been compressed by: sparse drawings reach 120, a bomb of zeros 1,030."""


class _SmallReads(io.RawIOBase):
    """A file that refuses to be read in one gulp; closing it leaves the file open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            size = max(0, os.fstat(self._file.fileno()).st_size - self._file.tell())
        if size > MAX_READ:
            raise ValueError(f"{size:,} bytes are claimed for a part that has at most {MAX_READ:,}")
        return self._file.read(size)


@contextmanager
def open_archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """The archive in an open file, its listing checked, its members unread.

    Raises:
        ValueError: it is no zip archive, or a member is none that a reader should touch.
    """
    try:
        archive = zipfile.ZipFile(_SmallReads(file))
    except ValueError:
        raise
    except Exception as error:  # zipfile raises many kinds on a damaged listing
        raise ValueError(f"truncated or damaged: {error}") from error
    with archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"it has {len(members):,} members; at most {MAX_MEMBERS:,} are expected")
        for member in members:
            name = member.filename
            if name.startswith("/") or ".." in name.split("/") or "\\" in member.orig_filename or ":" in name:
                raise ValueError(f"its member {name[:100]!r} leads out of it")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"its member {name[:100]!r} is a symbolic link")
            if member.flag_bits & ENCRYPTED:
                raise ValueError(f"its member {name[:100]!r} is encrypted")
        name, count = Counter(member.filename for member in members).most_common(1)[0] if members else ("", 0)
        if count > 1:
            raise ValueError(f"its member {name[:100]!r} is there {count} times")
        yield archive


def check_unpacked(what: str, size: int, packed: int) -> None:
    """Refuse to unpack `what`, which claims `size` bytes made of `packed` ones.

    Raises:
        ValueError: more than half of the memory that is free, or more than pictures are ever compressed by.
    """
    if size > SURE_BYTES and size > MAX_RATIO * packed:
        raise ValueError(f"{what} unpacks to {size:,} bytes from {packed:,}, as no pictures do")
    if size > (room := available_bytes() // 2):
        raise ValueError(f"{what} unpacks to {size:,} bytes, and there is room for {room:,}")
