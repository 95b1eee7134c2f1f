"""Files of several images, and samples that are no bytes."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import everything
from PIL import Image

from stage1_vae.data.folders.files import Files
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import DataError, ImageData, ImageSet

PAGES, FILES = 7, 11


def parts(data: ImageData) -> tuple[ImageSet, ImageSet, ImageSet]:
    return data.train, data.val, data.test


def stacks(folder: Path, num: int = FILES, **keys: object) -> np.ndarray:
    """`num` TIFF files of `PAGES` pages [num, PAGES, 6, 8]; the first pixel of a page tells its file and its number."""
    pixels = np.random.default_rng(0).integers(0, 256, (num, PAGES, 6, 8), dtype=np.uint8)
    pixels[:, :, 0, 0] = 16 * np.arange(num)[:, None] + np.arange(PAGES)
    folder.mkdir(exist_ok=True)
    for i, pages in enumerate(pixels):
        first, *rest = map(Image.fromarray, pages)
        first.save(folder / f"{i:02}.tif", save_all=True, append_images=rest, **keys)  # type: ignore[arg-type]
    return pixels


def tiff(order: str, kind: str, samples: int, **tags: int) -> bytes:
    """A file of one row of two pixels of `samples` numbers, of the type `kind` of `struct`."""
    bits = 8 * struct.calcsize(kind)
    data = struct.pack(f"{order}{2 * samples}{kind}", *[1] * (2 * samples))
    entries = {256: 2, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: samples, 278: 1, 279: len(data)}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    fields = (struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return head + data + struct.pack(order + "H", len(entries)) + b"".join(fields) + bytes(4)


@pytest.mark.parametrize("keys", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}], ids=str)
@pytest.mark.parametrize("large", [False, True])
def test_every_page_is_an_image_and_a_stack_is_not_torn(tmp_path: Path, keys: dict[str, str], large: bool) -> None:
    pixels = stacks(tmp_path, big_tiff=large, **keys)  # type: ignore[arg-type]
    data = ImageFolder(str(tmp_path)).load()
    lazy = ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    assert data.fingerprint == lazy.fingerprint
    for part, from_disk in zip(parts(data), parts(lazy), strict=True):
        assert isinstance(from_disk, Files)
        assert torch.equal(everything(part), everything(from_disk))
    found = torch.cat([everything(part) for part in parts(data)]).numpy()[:, 0]
    order = found[:, 0, 0].argsort()
    assert np.array_equal(found[order], pixels.reshape(-1, 6, 8)[pixels.reshape(-1, 6, 8)[:, 0, 0].argsort()])
    files = [set((everything(part)[:, 0, 0, 0] // 16).tolist()) for part in parts(data)]
    assert [len(some) for some in files] == [7, 2, 2] and len(set.union(*files)) == FILES
    assert everything(data.train)[:PAGES, 0, 0, 0].div(16).floor().unique().numel() > 1  # the first are a fair sample


def test_a_page_is_read_without_the_rest_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks(tmp_path)
    lazy = ImageFolder(str(tmp_path), memory_limit_gib=0).load()

    def whole(path: Path) -> bytes:
        raise AssertionError(f"all of {path} is read for one page")

    monkeypatch.setattr("stage1_vae.data.folders.files._content", whole)
    assert len(everything(lazy.test)) == 2 * PAGES


def test_smaller_copies_are_no_images(tmp_path: Path) -> None:
    for i in range(10):
        pages = [Image.fromarray(np.full(size, 10 * i + 100, np.uint8)) for size in ((6, 8), (3, 4))]
        pages[1].encoderinfo = {"tiffinfo": {254: 1}}
        pages[0].save(tmp_path / f"{i}.tif", save_all=True, append_images=pages[1:])
    data = ImageFolder(str(tmp_path)).load()
    assert sum(map(len, parts(data))) == 10 and data.shape == (1, 6, 8)
    assert "10 smaller copies and masks inside 10 TIFF files" in data.left_out


def test_frames_of_an_animation_are_counted_or_taken(tmp_path: Path) -> None:
    for i in range(12):
        first, *rest = (Image.new("RGB", (8, 6), (20 * i, 60 * frame, 200)) for frame in range(3))
        first.save(tmp_path / f"{i:02}.png", save_all=True, append_images=rest)
    data = ImageFolder(str(tmp_path)).load()
    assert sum(map(len, parts(data))) == 12 and everything(data.train)[:, 1].eq(0).all()
    assert data.left_out == ("24 further frames of 12 animations (data.pages=all)",)
    for limit in (2.0, 0.0):
        data = ImageFolder(str(tmp_path), pages="all", memory_limit_gib=limit).load()
        frames = torch.cat([everything(part)[:, 1, 0, 0] for part in parts(data)])
        assert frames.bincount()[[0, 60, 120]].tolist() == [12, 12, 12] and not data.left_out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff("<", "d", 1, t339=3), "1 channel, 64 bits each, floats"),
        (tiff(">", "B", 5), "5 channels, 8 bits each"),
        (tiff("<", "b", 1, t339=2), "signed numbers of 8 bits"),
        (tiff("<", "B", 1, t32997=9), "a volume 9 images deep"),
        (tiff("<", "B", 1, t259=50002), "compression 50002"),
        (b"MM\0+\0\x08\0\0" + bytes(12), "big-endian BigTIFF"),
    ],
)
def test_tiffs_that_are_no_bytes_are_told(tmp_path: Path, content: bytes, words: str) -> None:
    for i in range(10):
        (tmp_path / f"{i}.tif").write_bytes(content)
    with pytest.raises(DataError) as caught:
        ImageFolder(str(tmp_path)).load()
    assert words in str(caught.value) and "data=arrays" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(4) + b"ftypheic" + bytes(40), "HEIC): convert"),
        (b"\xff\x0a" + bytes(40), "JPEG XL): convert"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "a web page"),
    ],
)
def test_other_content_under_an_image_name_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path / "0.jpg")) as caught:
        ImageFolder(str(tmp_path)).load()
    assert words in str(caught.value)


def test_a_value_beyond_the_levels_is_found_when_it_is_read(tmp_path: Path) -> None:
    for i in range(200):
        Image.fromarray(np.full((6, 8), i % 17, np.uint8)).save(tmp_path / f"{i:03}.png")
    with pytest.raises(DataError, match=r"data\.levels=17"):
        ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    data = ImageFolder(str(tmp_path), memory_limit_gib=0, levels=17).load()
    assert data.levels == 17 and data.fingerprint == ImageFolder(str(tmp_path)).load().fingerprint
    assert isinstance(data.train, Files)
    path = data.train.paths[1]  # not among the ones that are looked at
    Image.fromarray(np.full((6, 8), 40, np.uint8)).save(str(path))
    data = ImageFolder(str(tmp_path), memory_limit_gib=0, levels=17).load()
    with pytest.raises(DataError, match=r"holds 40: set data\.levels=41"):
        everything(data.train)
