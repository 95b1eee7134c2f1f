"""How deep the samples of an image file are, where Pillow does not say.

Pillow cuts colour of 16 bits a channel to its upper byte without a word: an image of 8 significant bits turns black.
"""

import struct
from io import BytesIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

BITS, COMPRESSION, SAMPLES, SAMPLE_FORMAT, DEPTH = 258, 259, 277, 339, 32997
"""TIFF tags."""
PRIVATE = 32773
"""Compressions above this number are somebody's own."""
KINDS = {2: "signed numbers", 3: "floats", 5: "complex numbers", 6: "complex floats"}
MODES = {"I": "whole numbers beyond 8 bits", "F": "floats"}
START = 2**16
"""Boxes that tell of an AVIF or JPEG 2000 file lie within so many bytes."""


def beyond_bytes(image: Image.Image, content: bytes) -> str:
    """What the samples are if they are anything but unsigned numbers of at most 8 bits, in words; else nothing.

    Args:
        image: opened, not decoded.
        content: the whole file, or its first `START` bytes.
    """
    if image.format == "TIFF" and (words := _tiff_words(image.tag_v2)):  # type: ignore[attr-defined]
        return words
    readers = {"PNG": _png_bits, "PPM": _ppm_bits, "JPEG2000": _jpeg2000_bits, "AVIF": _avif_bits}
    if image.format in readers and (bits := readers[image.format](image, content)) > 8:
        return f"{bits} bits a channel"
    return MODES.get(image.mode[0], "")


def deep_bits(image: Image.Image, content: bytes) -> int:
    """Bits of a channel of a PNG or TIFF of unsigned numbers of 9 to 16 bits, which can be read; 0 of all others.

    Args: as of `beyond_bytes`.
    """
    if image.format == "PNG":
        return 16 if _png_bits(image, content) == 16 else 0
    if image.format != "TIFF":
        return 0
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, is_unsigned = max(tags.get(BITS, (1,))), not KINDS.get(max(tags.get(SAMPLE_FORMAT, (1,))), "")
    return bits if 8 < bits <= 16 and is_unsigned and tags.get(DEPTH, 1) == 1 else 0


def tiff_in_words(content: bytes) -> str:
    """What a TIFF file holds that Pillow does not know, in words."""
    if content[:4] == b"MM\0+":
        return "a big-endian BigTIFF"
    try:
        directory = ImageFileDirectory_v2(content[: 16 if content[2] == 43 else 8])
        stream = BytesIO(content)
        stream.seek(directory.next)
        directory.load(stream)
        bits, samples, packed = max(directory[BITS]), directory.get(SAMPLES, 1), directory.get(COMPRESSION, 1)
    except Exception:  # Pillow's reader raises many kinds on a damaged file
        return ""
    kind = KINDS.get(max(directory.get(SAMPLE_FORMAT, (1,))), "")
    words = [f"a TIFF of {samples} channel{'s' * (samples != 1)}", f"{bits} bits each", kind]
    return ", ".join(filter(None, [*words, f"compression {packed}" * (packed > PRIVATE)]))


def _tiff_words(tags: ImageFileDirectory_v2) -> str:
    bits = max(tags.get(BITS, (1,)))
    kind = KINDS.get(max(tags.get(SAMPLE_FORMAT, (1,))), "")
    if tags.get(DEPTH, 1) > 1:
        return f"a volume {tags[DEPTH]} images deep"
    if kind:
        return f"{kind} of {bits} bits a channel"
    return f"{bits} bits a channel" if bits > 8 else ""


def _png_bits(image: Image.Image, content: bytes) -> int:
    return content[24]


def _ppm_bits(image: Image.Image, content: bytes) -> int:
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ()
    largest = args[1] if isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], int) else 255
    return max(8, largest.bit_length())


def _jpeg2000_bits(image: Image.Image, content: bytes) -> int:
    start = content.find(b"\xff\x4f\xff\x51")  # start of the code stream, and of its size
    if start < 0 or len(content) < start + 42:
        return 8
    num = struct.unpack_from(">H", content, start + 40)[0]
    return max(((size & 0x7F) + 1 for size in content[start + 42 : start + 42 + 3 * num : 3]), default=8)


def _avif_bits(image: Image.Image, content: bytes) -> int:
    start = content.find(b"av1C", 0, START)
    if start < 0 or len(content) < start + 7:
        return 8
    flags = content[start + 6]
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
