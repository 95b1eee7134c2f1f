"""Decoding image files: formats, modes, sizes, damage."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import GREY, RGB, everything, fill, refusal, sizes, write
from PIL import Image

from stage1_vae.data.folders.files import Files, Target, decode
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import ImageSet


def paths_of(images: ImageSet) -> list[Path]:
    """Of a set that stays on the disk."""
    assert isinstance(images, Files)
    return [path for path in images.paths if isinstance(path, Path)]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "TIFF", "PNG"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    for i in range(12):
        write(tmp_path / f"{i}.{suffix}", value=20 * i)
    data = ImageFolder(str(tmp_path)).load()
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    assert found.shape == (12, 3, 6, 8)
    levels = found.float().mean((1, 2, 3)).sort().values
    assert torch.allclose(levels, 20.0 * torch.arange(12), atol=4)


@pytest.mark.parametrize("limit", [2.0, 0.0])
def test_large_images_go_through_threads_in_order(tmp_path: Path, limit: float) -> None:
    for i in range(150):
        write(tmp_path / f"{i:03}.png", size=(100, 100), channels=GREY, value=i)
    write(tmp_path / "big" / "150.bmp", size=(400, 400), channels=GREY, value=150)  # the first file, above LARGE_BYTES
    os.rename(tmp_path / "big" / "150.bmp", tmp_path / "!.bmp")
    (tmp_path / "big").rmdir()
    data = ImageFolder(str(tmp_path), memory_limit_gib=limit).load()
    files = ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    for part, names in ((data.train, files.train), (data.val, files.val), (data.test, files.test)):
        expected = [150 if path.stem == "!" else int(path.stem) for path in paths_of(names)]
        assert everything(part)[:, 0, 50, 50].tolist() == expected
    path = paths_of(files.test)[2]
    path.write_bytes(path.read_bytes()[:60])
    refusal(lambda: ImageFolder(str(tmp_path)).load(), str(path), "repair or remove")


def test_resizing_covers_and_cuts_about_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 20:60] = np.tile(np.array([0, 255], np.uint8), 20)  # the central square: stripes one pixel wide
    pixels[:, :20] = 255  # cut away
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small = decode(tmp_path / "a.png", Target("L", (10, 10)))[0].astype(float)
    assert small.shape == (10, 10)
    # Without antialiasing a stripe pattern would alias to 0 or 255; averaged, it is mid-grey.
    assert np.abs(small[:, 1:-1] - 127.5).max() < 20


def test_differing_modes_are_refused_and_converted_on_request(tmp_path: Path) -> None:
    fill(tmp_path / "grey", 6, channels=GREY, value=100)
    fill(tmp_path / "colour", 6, channels=RGB, value=100)
    root = str(tmp_path)
    refusal(
        lambda: ImageFolder(root).load(),
        str(tmp_path / "grey" / "0"),
        str(tmp_path / "colour" / "0"),
        "data.mode=rgb or data.mode=grey",
    )
    for mode, channels in (("rgb", 3), ("grey", 1)):
        data = ImageFolder(root, mode=mode).load()
        assert data.shape == (channels, 6, 8)
        assert everything(data.train).eq(100).all()
    refusal(lambda: ImageFolder(root, mode="cmyk").load(), "data.mode=cmyk", "rgb, grey or null")


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA", "1"])
def test_uniform_modes(tmp_path: Path, mode: str) -> None:
    for i in range(10):
        image = Image.new("RGBA", (8, 6), (200, 0, 0, 128)) if mode == "RGBA" else Image.new("RGB", (8, 6), "red")
        image.convert(mode).save(tmp_path / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
    data = ImageFolder(str(tmp_path)).load()
    pixel = everything(data.train)[0, :, 0, 0].tolist()
    assert pixel == {"P": [255, 0, 0], "CMYK": [255, 0, 0], "RGBA": [200, 0, 0, 128], "1": pixel}[mode]
    assert data.shape[0] == {"1": 1, "RGBA": 4}.get(mode, 3)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(tmp_path / f"{i}.png")
    assert everything(ImageFolder(str(tmp_path), mode="rgb").load().train).eq(255).all()


def test_grey_and_alpha_asks_for_a_mode(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("LA", (8, 6)).save(tmp_path / f"{i}.png")
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "LA", "data.mode=rgb or data.mode=grey")


ONE_DIRECTORY = {
    "ImageJ": "ImageJ=1.54f\nimages=7\nslices=7\n",
    "tifffile": '{"shape": [7, 6, 8, 3], "truncated": true}',
}


@pytest.mark.parametrize("writer", ONE_DIRECTORY)
def test_stack_with_one_directory_is_refused_or_its_first_image_taken(tmp_path: Path, writer: str) -> None:
    for i in range(10):
        page = Image.new("RGB", (8, 6), (i, i, i))
        page.save(tmp_path / f"{i}.tif", tiffinfo={270: ONE_DIRECTORY[writer]})
        with (tmp_path / f"{i}.tif").open("ab") as file:
            file.write(6 * page.tobytes())
    for pages in (None, "all"):
        refusal(
            lambda pages=pages: ImageFolder(str(tmp_path), pages=pages).load(),
            *("a stack of 7 images with one TIFF directory", "data=arrays", "data.pages=first"),
        )
    data = ImageFolder(str(tmp_path), pages="first").load()
    assert sum(sizes(data)) == 10
    assert data.left_out == ("60 further pages of 10 TIFF stacks (data.pages=all)",)
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    assert found[:, 0, 0, 0].sort().values.tolist() == list(range(10))


def test_description_of_a_stack_beside_one_image_or_all_directories_refuses_nothing(tmp_path: Path) -> None:
    words = {270: ONE_DIRECTORY["ImageJ"]}
    pages = [Image.new("RGB", (8, 6), (20 * i, 255, 0)) for i in range(7)]
    for name, further in (("one", []), ("all", pages[1:])):
        (tmp_path / name).mkdir()
        for i in range(10):
            pages[0].save(tmp_path / name / f"{i}.tif", tiffinfo=words, save_all=True, append_images=further)
        assert sum(sizes(ImageFolder(str(tmp_path / name)).load())) == 10 * (1 + len(further))


def test_orientation_tag_is_obeyed(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8), np.uint8)
    pixels[:, :4] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left side becomes the top
    for i in range(10):
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", exif=exif, quality=95)
    data = ImageFolder(str(tmp_path)).load()
    assert data.shape == (1, 8, 6)
    image = everything(data.train)[0, 0].float()
    assert image[:4].mean() > 240 and image[4:].mean() < 15


@pytest.mark.parametrize("limit", [2.0, 0.0])
@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\nbut not really"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes, limit: float) -> None:
    fill(tmp_path, 20)
    (tmp_path / "007.png").write_bytes(content)
    refusal(
        lambda: ImageFolder(str(tmp_path), memory_limit_gib=limit).load(),
        str(tmp_path / "007.png"),
        "cannot be read as an image",
        "repair or remove",
    )


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    for i in range(12):
        write(tmp_path / f"{i:03}.{suffix}", size=(32, 32))
    path = tmp_path / f"007.{suffix}"
    path.write_bytes(path.read_bytes()[:-400])
    refusal(lambda: ImageFolder(str(tmp_path)).load(), str(path), "repair or remove")
    data = ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    part = next(part for part in (data.train, data.val, data.test) if path in paths_of(part))
    refusal(lambda: everything(part), str(path), "repair or remove")


def test_no_warning_of_pillow_reaches_the_user(tmp_path: Path) -> None:
    for i in range(10):  # a palette with a transparency of bytes: Pillow warns about it on conversion
        image = Image.new("P", (8, 6))
        image.putpalette([255, 0, 0] * 256)
        image.save(tmp_path / f"{i}.png", transparency=bytes([255] * 256))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ImageFolder(str(tmp_path)).load()
    assert not caught


def test_channels_that_are_dropped_are_said(tmp_path: Path) -> None:
    """A sprite's palette has a transparent colour, which becomes white; grey pictures of colours have none."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        sprite = Image.fromarray(image).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
        sprite.save(tmp_path / f"{i:02}.png", **({"transparency": 0} if i < 5 else {}))  # type: ignore[arg-type]
    data = ImageFolder(str(tmp_path)).load()
    assert data.left_out == ("transparency of 5 images (which are put on white)",)
    data = ImageFolder(str(tmp_path), mode="grey").load()
    assert data.left_out[1] == "colour of 12 images (data.mode=grey)"
