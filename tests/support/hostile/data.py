"""Data files that mean harm: name -> what makes one at a place, and the words it is refused with."""

import gzip
import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile.checkpoints import Bomb

Attack = tuple[Callable[[Path], object], str]
ZEROS = bytes(2**20)


def npy(header: str | bytes, body: bytes = b"", version: tuple[int, int] = (1, 0), claims: int | None = None) -> bytes:
    """An `.npy` file, its header as it stands; `claims`: the length that it says the header has."""
    text = header.encode() if isinstance(header, str) else header
    length = len(text) if claims is None else claims
    return b"\x93NUMPY" + bytes(version) + length.to_bytes(2 if version == (1, 0) else 4, "little") + text + body


def fields(shape: object = (20, 8, 8), descr: object = "|u1", fortran: object = False) -> str:
    return repr({"descr": descr, "fortran_order": fortran, "shape": shape}) + "\n"


def pickled() -> bytes:
    """An array of Python objects: to read it is to unpickle it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Bomb()] * 20, dtype=object), allow_pickle=True)
    return stream.getvalue()


HEADERS: dict[str, tuple[bytes, str]] = {
    "terabyte": (npy(fields((2**40, 1, 1)), b"\0" * 100), "promises"),
    "more than an address": (npy(fields((2**62, 2**62, 8)), b"\0" * 100), "promises"),
    "more than a number": (npy(fields((10**30, 8, 8)), b"\0" * 100), "shape"),
    "negative": (npy(fields((-20, 8, 8)), b"\0" * 2000), "shape"),
    "truth": (npy(fields((True, 8, 8)), b"\0" * 2000), "shape"),
    "fraction": (npy(fields((20.0, 8, 8)), b"\0" * 2000), "damaged"),
    "many axes": (npy(fields((1,) * 30), b"\0"), "shape"),
    "nothing times much": (npy(fields((2**60, 28, 28), "|V0")), "not numbers"),
    "objects": (pickled(), "Python objects"),
    "objects by name": (npy(fields(descr="|O"), pickle.dumps(Bomb())), "Python objects"),
    "objects in a record": (npy(fields(descr=[("a", "|O")]), pickle.dumps(Bomb())), "Python objects"),
    "record": (npy(fields((20,), [("x", "|u1", (8, 8))]), b"\0" * 1280), "not numbers"),
    "array within": (npy(fields((20,), ("|u1", (8, 8))), b"\0" * 1280), "damaged|not numbers|promises"),
    "dates": (npy(fields(descr="<M8[s]"), b"\0" * 20000), "not numbers"),
    "expression": (npy("{'descr': __import__('os').system('touch canary'), 'shape': ()}"), "damaged"),
    "call": (npy("open('canary', 'w')"), "damaged"),
    "power": (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9**9**9, 8, 8)}"), "damaged"),
    "brackets": (npy("(" * 9_000), "damaged"),
    "minus signs": (npy("-" * 9_000 + "1"), "damaged"),
    "more keys": (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'x': 1}"), "damaged"),
    "order": (npy(fields(fortran="yes"), b"\0" * 2000), "damaged"),
    "long header": (npy(fields() + " " * 60_000, b"\0" * 2000), "claims"),
    "megabytes of header": (npy(b"{" + b" " * 2**22, version=(2, 0)), "claims"),
    "gigabytes of header": (npy(b"{}", version=(2, 0), claims=2**32 - 1), "claims"),
    "version 3": (npy(fields(), b"\0" * 2000, version=(3, 0)), "version"),
    "version 9": (npy(fields(), b"\0" * 2000, version=(9, 9)), "version"),
    "pickle": (pickle.dumps(Bomb()), "no array header"),
    "empty": (b"", "no array header"),
    "cut": (npy(fields())[:20], "damaged"),
}  # fmt: skip


def member(content: bytes, name: str = "x.npy", mode: int = 0) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = mode << 16
    return entry, content


IMAGES = npy(fields(), bytes(range(256)) * 5)


def archive(*members: tuple[zipfile.ZipInfo, bytes]) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        with zipfile.ZipFile(place, "w") as written:
            for entry, content in members:
                written.writestr(entry, content)

    return make


def zipped(*contents: bytes) -> bytes:
    """An archive of several members of one name."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as written:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for content in contents:
            written.writestr(*member(content))
    return stream.getvalue()


def _listing(content: bytes | bytearray) -> int:
    """Where the listing of a zip archive begins."""
    return int(struct.unpack("<I", content[-6:-2])[0])


def claiming(size: int, packed: int | None = None) -> Callable[[Path], object]:
    """An archive whose listing claims other sizes of its only member."""

    def make(place: Path) -> None:
        archive(member(npy(fields((20, 2**12, 2**12)), bytes(100))))(place)
        content = bytearray(place.read_bytes())
        start = _listing(content)
        content[start + 24 : start + 28] = struct.pack("<I", size)
        if packed is not None:
            content[start + 20 : start + 24] = struct.pack("<I", packed)
        place.write_bytes(content)

    return make


def bomb(place: Path) -> None:
    """256 MiB of zeros in 256 KiB, written as a stream."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as written, written.open("x.npy", "w") as file:
        file.write(npy(fields((256, 1024, 1024))))
        for _ in range(256):
            file.write(ZEROS)


def many_times_one(place: Path) -> None:
    """A listing of 2,000 names for one place: Fifield's overlap."""
    archive(member(IMAGES))(place)
    content = place.read_bytes()
    start = _listing(content)
    entry, end = content[start:-22], bytearray(content[-22:])
    entries = b"".join(entry[:46] + f"{i:05d}".encode() + entry[51:] for i in range(2000))
    end[8:12] = struct.pack("<HH", 2000, 2000)
    end[12:16] = struct.pack("<I", len(entries))
    place.write_bytes(content[:start] + entries + bytes(end))


def endless_listing(place: Path) -> None:
    """An archive whose listing claims 64 MiB, and has them."""
    archive(member(IMAGES))(place)
    content = bytearray(place.read_bytes())
    content[-10:-6] = struct.pack("<I", 2**26)
    with place.open("wb") as file:
        file.truncate(2**26)
        file.seek(2**26)
        file.write(content[-22:])


def encrypted(place: Path) -> None:
    archive(member(IMAGES))(place)
    content = bytearray(place.read_bytes())
    content[6] |= 1
    content[_listing(content) + 8] |= 1
    place.write_bytes(content)


ARCHIVES: dict[str, Attack] = {
    **{f"{name} in an archive": (archive(member(content)), match) for name, (content, match) in HEADERS.items()},
    "bomb": (bomb, "as no pictures do"),
    "claims gigabytes": (claiming(2**32 - 2), "as no pictures do"),
    "claims much of much": (claiming(2**32 - 2, 2**32 - 2), "promises|overlapped|damaged|room|cannot be read"),
    "claims less": (claiming(130), "CRC"),
    "gigabytes of header in an archive": (
        archive(member(npy(b"{" + b" " * 2**25, version=(2, 0)))), "claims"),
    "labels of Python objects": (archive(member(IMAGES), member(pickled(), "label.npy")), "Python objects"),
    "labels of a terabyte": (archive(member(IMAGES), member(npy(fields((2**40,))), "label.npy")), "promises"),
    "more behind": (archive(member(IMAGES + b"\0")), "promises"),
    "name above": (archive(member(IMAGES), member(b"x", "../../canary")), "leads out"),
    "absolute name": (archive(member(IMAGES), member(b"x", "/canary")), "leads out"),
    "name of another system": (archive(member(IMAGES), member(b"x", "..\\canary")), "leads out"),
    "drive": (archive(member(IMAGES), member(b"x", "C:canary")), "leads out"),
    "nested name": (archive(member(IMAGES, "a/x.npy")), "must be called x"),
    "link": (archive(member(IMAGES), member(b"/etc/passwd", "label.npy", 0o120777)), "symbolic link"),
    "two of a name": (lambda place: place.write_bytes(zipped(IMAGES, IMAGES)), "there 2 times"),
    "many": (archive(*(member(b"", f"{i}.npy") for i in range(70_000))), "70,000 members"),
    "many times one": (many_times_one, "must be called x|overlap"),
    "names with line ends": (archive(member(b"", "a\nb.npy")), "must be called x"),
    "endless listing": (endless_listing, "are claimed|truncated"),
    "encrypted": (encrypted, "encrypted"),
    "archive in an archive": (archive(member(zipped(IMAGES))), "no array header"),
    "pipe": (os.mkfifo, "no plain file"),
}  # fmt: skip


def idx(shape: tuple[int, ...], body: bytes = b"") -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + body


def gzipped_bomb(shape: tuple[int, ...], mebibytes: int) -> bytes:
    """The header of an IDX file and zeros, in a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(idx(shape))]
    parts += [packer.compress(ZEROS) for _ in range(mebibytes)]
    return b"".join([*parts, packer.flush()])


IDX: dict[str, tuple[bytes, str]] = {
    "terabyte": (idx((2**20, 2**10, 2**10), b"\0" * 100), "truncated"),
    "more than an address": (idx((2**32 - 1,) * 3, b"\0" * 100), "truncated"),
    "overflow to nothing": (idx((2**31, 2**31, 4), b""), "truncated"),
    "empty": (idx((0, 2**31, 2**31)), "empty"),
    "terabyte, gzipped": (gzip.compress(idx((2**20, 2**10, 2**10), b"\0" * 100)), "as no pictures do"),
    "bomb": (gzipped_bomb((256, 1024, 1024), 256), "as no pictures do"),
    "bomb behind its end": (gzipped_bomb((20, 8, 8), 128), "too long"),
    "bomb without a header": (gzip.compress(bytes(2**26)), "not an IDX file"),
    "gzip in gzip": (gzip.compress(gzip.compress(idx((20, 8, 8), bytes(1280)))), "not an IDX file"),
    "damaged gzip": (b"\x1f\x8b" + bytes(100), "truncated or damaged"),
    "wrong checksum": (gzip.compress(idx((20, 8, 8), bytes(1280)))[:-8] + bytes(8), "truncated or damaged"),
    "pickle": (pickle.dumps(Bomb()), "not an IDX file"),
}  # fmt: skip


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """A grey picture that claims a size, and what it has of it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    b"(canary) (w) file closefile (%pipe%touch canary) (w) file closefile\nshowpage\n%%EOF\n"
)
TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**25)))
PICTURES: dict[str, tuple[bytes, str]] = {
    "terabyte": (png(2**20, 2**20), "decompression bomb|exceeds limit"),
    "more than a number": (png(2**31 - 1, 2**31 - 1), "decompression bomb|exceeds limit"),
    "no rows": (png(8, 0), "cannot be read"),
    "text bomb": (png(8, 8, TEXT, pixels=bytes(72)), "too large|MAX_TEXT"),
    "truncated": (png(64, 64, pixels=bytes(100)), "truncated|cannot be read"),
    "PostScript": (POSTSCRIPT, "not an image"),
    "PostScript in a preview": (
        struct.pack("<IIIIIIIH", 0xC6D3D0C5, 32, len(POSTSCRIPT), 0, 0, 0, 0, 0xFFFF) + b"\0\0" + POSTSCRIPT,
        "not an image"),
    "bitmap of gigabytes": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 1, 1, 0, 0),
        "decompression bomb|exceeds limit"),
    "grey map of gigabytes": (b"P5 1000000 1000000 255\n", "decompression bomb|exceeds limit"),
    "pickle": (pickle.dumps(Bomb()), "not an image"),
    "script": (b"#!/bin/sh\ntouch canary\n", "not an image"),
    "empty": (b"", "not an image"),
}  # fmt: skip


def sparse(num_bytes: int) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        place.write_bytes(png(8, 8))
        os.truncate(place, num_bytes)

    return make


PICTURE_PLACES: dict[str, Attack] = {
    "pipe": (os.mkfifo, "no plain file"),
    "device": (lambda place: place.symlink_to("/dev/zero"), "no plain file"),
    "terabyte that is there": (sparse(2**40), "are expected"),
    "link to itself": (lambda place: place.symlink_to(place), "symbolic links|cannot be read"),
    "dangling link": (lambda place: place.symlink_to("nowhere"), "cannot be read"),
}


def honest_picture(i: int) -> bytes:
    return png(8, 8, pixels=b"".join(b"\0" + bytes([i] * 8) for _ in range(8)))
