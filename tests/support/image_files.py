"""Image files and what a source reads of them, for tests of the sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stage1_vae.data.images import DataError, ImageData, ImageSet

RNG = np.random.default_rng(2)
GREY, RGB = (), (3,)


def refusal(call: Callable[..., object], *words: str) -> str:
    """The one line that refuses what `call` asks for; it holds all `words`."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def write(
    path: Path, size: tuple[int, int] = (6, 8), channels: tuple[int, ...] = RGB, value: int | None = None
) -> Path:
    """An image file of noise, or of `value` throughout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, *channels), dtype=np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path)
    return path


def fill(folder: Path, num: int, **more: Any) -> None:
    """`num` PNG files; `more`: as `write` takes it."""
    for i in range(num):
        write(folder / f"{i:03}.png", **more)


def everything(images: ImageSet) -> Tensor:
    return images.batch(torch.arange(len(images)))


def sizes(data: ImageData) -> tuple[int, int, int]:
    return len(data.train), len(data.val), len(data.test)
