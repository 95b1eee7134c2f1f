"""Folders of images (`data=image_folder`)."""

from pathlib import Path
from typing import Any

import numpy as np
from layouts import Layout
from PIL import Image

from stage1_vae.data.image_folder import ImageFolder


def picture(path: Path, size: tuple[int, ...] = (6, 8), number: int = 0) -> None:
    """A file of noise with the whole range of bytes; the same `number` gives the same noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    pixels.flat[0], pixels.flat[-1] = 0, 255
    Image.fromarray(pixels).save(path)


def fill(folder: Path, num: int, size: tuple[int, ...] = (6, 8), suffix: str = "png") -> None:
    for i in range(num):
        picture(folder / f"{i:03}.{suffix}", size, i)


def flat(folder: Path) -> dict[str, Any]:
    fill(folder, 20)
    return {"root": str(folder)}


LAYOUTS = [
    Layout("images side by side", flat, ImageFolder, {"num": (14, 2, 4), "shape": (1, 6, 8), "classes": ()}),
]
