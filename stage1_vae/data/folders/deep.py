"""Pictures of 9 to 16 bits a channel, PNG and TIFF, as floats.

Pillow reads grey ones; colour it would cut to bytes, so that these go to imagecodecs (PNG) and tifffile (TIFF). They
are scaled and cut as bytes are (`stage1_vae.data.folders.files`), in floats, a channel at a time.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from stage1_vae.data.folders.pages import Page
from stage1_vae.data.readers.named import import_reader

ORIENTATION = 0x0112
TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
"""Orientation of EXIF -> what undoes it."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue in grey (ITU-R BT.601, as Pillow has it)."""


def decode_deep(
    image: Image.Image,
    content: Callable[[], bytes],
    page: Page | None,
    kind: str,
    size: tuple[int, int],
    white: int,
) -> np.ndarray:
    """The picture as numbers up to `white`, float32 [C, H, W].

    Args:
        image: opened, at its page.
        content: the whole file.
        page: where in the file; None for the first.
        kind: "L", "RGB" or "RGBA": what it becomes.
        size: (height, width).
        white: the largest number that its bits hold: a ground for what is transparent.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)[..., None]
    elif image.format == "PNG":
        values = import_reader("imagecodecs", "a PNG file in colour, of 16 bits,").png_decode(content())
    else:
        tifffile = import_reader("tifffile", "a TIFF file in colour, of more than 8 bits,")
        with tifffile.TiffFile(io.BytesIO(content()), _multifile=False) as file:
            found = file.pages[page.number if page else 0]
            values = found.asarray()
            if found.axes.startswith("S"):  # a plane a channel
                values = np.moveaxis(values, 0, -1)
    values = np.atleast_3d(values).astype(np.float32)
    channels = [Image.fromarray(plane) for plane in np.moveaxis(_converted(values, kind, white), -1, 0)]
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1)) if "exif" in image.info else None
    if turn is not None:
        channels = [channel.transpose(turn) for channel in channels]
    if channels[0].size != size[::-1]:
        channels = [ImageOps.fit(each, size[::-1], method=Image.Resampling.BICUBIC) for each in channels]
    return np.clip(np.stack([np.asarray(channel) for channel in channels]), 0, white)


def _converted(values: np.ndarray, kind: str, white: int) -> np.ndarray:
    """[H, W, C] with the channels of `kind`; what is transparent lies on white, where these have no transparency."""
    colour, opacity = values[..., :3], values[..., 3:4] / white
    if values.shape[-1] in (1, 2):
        colour, opacity = values[..., :1], values[..., 1:2] / white
    if kind == "RGBA":
        colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
        return np.concatenate([colour, opacity * white if opacity.size else np.full_like(colour[..., :1], white)], -1)
    if opacity.size:
        colour = colour * opacity + white * (1 - opacity)
    if kind == "L":
        return (colour @ LUMA)[..., None] if colour.shape[-1] == 3 else colour
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))
