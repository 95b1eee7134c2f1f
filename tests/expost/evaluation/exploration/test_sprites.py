"""Many small images in one file: each where it is said to be, and never more bytes than allowed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expost.evaluation.exploration.content import Sprite
from expost.evaluation.exploration.sprites import save_sprite, thumbnails


def image_of(path: Path, sprite: Sprite, n: int) -> np.ndarray:
    """Image `n` of the file, as a page cuts it out."""
    top, left = n // sprite.columns * sprite.place_height, n % sprite.columns * sprite.place_width
    return np.asarray(Image.open(path))[top : top + sprite.height, left : left + sprite.width]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (1, 5, 20)])
def test_each_image_is_in_its_place(shape: tuple[int, int, int], tmp_path: Path) -> None:
    grey = torch.linspace(0, 1, 50).view(-1, 1, 1, 1).expand(-1, *shape)
    sprite = save_sprite(thumbnails(grey, 32), tmp_path / "s.jpg", 10**6)
    assert (sprite.num, sprite.columns, sprite.height, sprite.width) == (50, 8, *shape[1:])
    for n in (0, 7, 8, 49):
        found = image_of(tmp_path / "s.jpg", sprite, n)
        assert found.shape == ((*shape[1:], 3) if shape[0] == 3 else shape[1:])
        assert np.abs(found.astype(float) - 255 * n / 49).max() <= 3  # and nothing of its neighbours


def test_noise_stays_within_the_budget(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (2000, 3, 32, 32), dtype=torch.uint8)
    sprite = save_sprite(noise, tmp_path / "s.jpg", 300_000)
    assert (tmp_path / "s.jpg").stat().st_size <= 300_000 and sprite.num == 2000 and sprite.height < 32
    few = save_sprite(noise[:20], tmp_path / "s.jpg", 300_000)
    assert few.height == 32


def test_thumbnails_are_never_enlarged_and_what_is_no_number_is_grey() -> None:
    assert thumbnails(torch.rand(2, 1, 8, 6), 32).shape == (2, 1, 8, 6)
    assert thumbnails(torch.rand(2, 3, 100, 50), 32).shape == (2, 3, 32, 16)
    assert thumbnails(torch.full((1, 1, 2, 2), torch.nan), 32).unique().tolist() == [128]


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    for images in (torch.zeros(0, 1, 8, 8), torch.zeros(3, 2, 8, 8)):
        with pytest.raises(ValueError, match="a sprite needs images"):
            save_sprite(images.to(torch.uint8), tmp_path / "s.jpg", 1000)
