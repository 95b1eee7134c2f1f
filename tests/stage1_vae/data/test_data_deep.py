"""Pictures of 9 to 16 bits a channel in folders: what they become, and where they are next to black."""

import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from image_files import everything, refusal, write
from PIL import Image

from stage1_vae.data.folders.files import Files
from stage1_vae.data.image_folder import ImageFolder

GREY, COLOUR = ((12, 6, 8), (12, 6, 8, 3))


def pictures(shape: tuple[int, ...], high: int = 65535) -> np.ndarray:
    found = np.random.default_rng(0).integers(0, high + 1, shape, dtype=np.uint16)
    found.flat[0], found.flat[-1] = 0, high
    return found


def to_png(path: Path, image: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(image))


def to_tiff(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack", compression="lzw")


def to_planes(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")


@pytest.mark.parametrize("limit", [2.0, 0.0])
@pytest.mark.parametrize(
    ("encode", "suffix", "shape"),
    [
        (to_png, "png", GREY),
        (to_png, "png", COLOUR),
        (to_tiff, "tif", GREY),
        (to_tiff, "tif", COLOUR),
        (to_planes, "tif", COLOUR),
    ],
)
def test_all_bits_are_kept(
    tmp_path: Path, encode: Callable[[Path, np.ndarray], None], suffix: str, shape: tuple[int, ...], limit: float
) -> None:
    images = pictures(shape)
    for i, image in enumerate(images):
        encode(tmp_path / f"{i:02}.{suffix}", image)
    data = ImageFolder(str(tmp_path), memory_limit_gib=limit).load()
    assert data.levels is None and data.shape == (3 if len(shape) == 4 else 1, 6, 8)
    assert data.value_range == (0, 65535) and "values reach 65535 of 16 bits" in data.guesses[0]
    assert isinstance(data.train, Files) == (limit == 0)
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    expected = torch.from_numpy(images.reshape(12, 6, 8, -1).astype(np.float32) / np.float32(65535))
    order = [torch.equal(row, one.permute(2, 0, 1)) for row in found for one in expected]
    assert sum(order) == 12


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_few_significant_bits_are_asked_for(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for i, image in enumerate(pictures(shape, 4000)):
        to_png(tmp_path / f"{i:02}.png", image)
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "values reach 4000 of 16 bits", "data.range=[0,4095]")
    data = ImageFolder(str(tmp_path), range=[0, 4095]).load()
    assert everything(data.train).max() > 0.9 and data.value_range == (0, 4000)
    plain = ImageFolder(str(tmp_path), range=[0, 65535]).load()
    assert plain.fingerprint != data.fingerprint
    refusal(lambda: ImageFolder(str(tmp_path), range=[0, 1000]).load(), "outside data.range=[0,1000]")
    refusal(lambda: ImageFolder(str(tmp_path), levels=256).load(), "data.levels=256", "16", "data.range")


def test_they_are_converted_and_scaled_as_bytes_are(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (12, 13, 21, 4), dtype=np.uint8)
    for folder, factor in (("bytes", 1), ("deep", 257)):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(large):
            to_png(tmp_path / folder / f"{i:02}.png", image if factor == 1 else image.astype(np.uint16) * 257)
    for mode in ("rgb", "grey"):
        shallow, deep = (
            ImageFolder(str(tmp_path / folder), mode=mode, size=[6, 8]).load() for folder in ("bytes", "deep")
        )
        orders = [everything(part).flatten(1) for part in (shallow.train, deep.train)]
        assert torch.allclose(orders[0] / 255, orders[1], atol=4 / 255)
    data = ImageFolder(str(tmp_path / "deep"), size=[6, 8]).load()
    assert data.shape == (4, 6, 8)


def test_orientation_is_obeyed(tmp_path: Path) -> None:
    images = pictures(GREY)
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png", exif=exif)
    data = ImageFolder(str(tmp_path)).load()
    assert data.shape == (1, 8, 6)
    turned = {np.rot90(image, -1).tobytes() for image in images}
    found = (everything(data.train) * 65535).round().numpy().astype(np.uint16)
    assert all(np.ascontiguousarray(image[0]).tobytes() in turned for image in found)


def test_mixed_depths_and_ranges_of_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(10):
        write(tmp_path / f"{i}.png")
    refusal(lambda: ImageFolder(str(tmp_path), range=[0, 4095]).load(), "data.range", "8: see data.levels")
    to_png(tmp_path / "deep.png", pictures(COLOUR)[0])
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "differing depths", "deep.png")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for i in range(10):
        to_png(tmp_path / f"{i}.png", pictures(COLOUR)[i])
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "read by imagecodecs: pip install 'expost[formats]'")


def test_files_without_a_suffix_are_looked_at(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / f"{i}.png").rename(tmp_path / f"{i:02}")
    (tmp_path / "LICENSE").write_text("none", encoding="utf-8")
    data = ImageFolder(str(tmp_path)).load()
    assert len(data.train) + len(data.val) + len(data.test) == 12
    assert data.left_out == ("1 file without a suffix (no images)",)
