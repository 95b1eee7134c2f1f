"""Many small images in one JPEG file, of which a page shows one at a time.

JPEG and not PNG: noise, which no PNG makes small, stays within a budget of bytes. It codes blocks of eight by eight
pixels, so every image begins at a multiple of eight and no two of them share a block.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from expost.evaluation.exploration.content import Sprite

QUALITIES = (85, 70, 50, 35)
"""Tried in this order at each size, until the file is small enough."""
BLOCK_PIXELS, LEAST_PIXELS = 8, 8


def thumbnails(images: Tensor, most_pixels: int) -> Tensor:
    """Images [N, 1 or 3, H, W] in [0, 1] as uint8, shrunk until no side is longer than `most_pixels`, never enlarged.

    What is not a number is grey.
    """
    factor = min(1.0, most_pixels / max(images.shape[-2:]))
    pixels = images.detach().float().nan_to_num(0.5).clamp(0, 1)
    if factor < 1:
        height, width = (max(1, round(factor * side)) for side in pixels.shape[-2:])
        pixels = F.interpolate(pixels, (height, width), mode="area")
    return pixels.mul(255).round().to(torch.uint8).cpu()


def save_sprite(images: Tensor, path: Path, most_bytes: int) -> Sprite:
    """Write uint8 images [N, 1 or 3, H, W] into one JPEG file of at most `most_bytes`: the less room there is, the
    coarser, and at last the smaller they are.

    Raises:
        ValueError: there is no image, or its channels are neither 1 nor 3.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"a sprite needs images [N, 1 or 3, H, W], got {tuple(images.shape)}")
    side = max(images.shape[-2:])
    while True:
        pixels, sprite = lay_out(images)
        for quality in QUALITIES:
            content = encode(pixels, quality)
            if len(content) <= most_bytes:
                path.write_bytes(content)
                return sprite
        if side <= LEAST_PIXELS:
            path.write_bytes(content)  # 14,000 of these are less than a megabyte, whatever they show
            return sprite
        side = max(LEAST_PIXELS, side * 3 // 4)
        images = torch.cat([thumbnails(block / 255, side) for block in images.split(1000)])


def lay_out(images: Tensor) -> tuple[np.ndarray, Sprite]:
    """All images as one picture, uint8 [rows, width] or [rows, width, 3], and where each of them is.

    An image goes on beyond its edges as far as its block does: an edge within a block would blur both of its sides.
    """
    num, channels, height, width = images.shape
    high, wide = (-(-side // BLOCK_PIXELS) * BLOCK_PIXELS for side in (height, width))
    columns = math.ceil(math.sqrt(num))
    rows = -(-num // columns)
    places = np.zeros((rows * columns, channels, high, wide), dtype=np.uint8)
    places[:num] = np.pad(images.numpy(), ((0, 0), (0, 0), (0, high - height), (0, wide - width)), mode="edge")
    grid = places.reshape(rows, columns, channels, high, wide).transpose(0, 3, 1, 4, 2)
    pixels = grid.reshape(rows * high, columns * wide, channels)
    return pixels[..., 0] if channels == 1 else pixels, Sprite(num, columns, height, width, high, wide)


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG file; colours are kept at the resolution of the picture, or one image's would run into the next.

    `optimize` would save a twentieth, and fails on noise: Pillow lends it a buffer that is too small.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
