"""Folders of images (`data=image_folder`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from layouts.array_files import encode, write_parquet
from layouts.cases import Layout
from PIL import Image
from pyarrow import parquet

from stage1_vae.data.image_folder import ImageFolder

GREY, COLOUR = (6, 8), (6, 8, 3)
Make = Callable[[Path], dict[str, Any]]


def noise(number: int, size: tuple[int, ...] = GREY, high: int = 255) -> np.ndarray:
    """uint8 of `size` that reaches 0 and `high`; the same `number` gives the same."""
    pixels = np.random.default_rng(number).integers(0, high + 1, size, dtype=np.uint8)
    pixels.flat[0], pixels.flat[-1] = 0, high
    return pixels


def picture(path: Path, number: int = 0, size: tuple[int, ...] = GREY, high: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(number, size, high)).save(path)


def files(*names: str, **keys: Any) -> Make:
    """Image files by name, each `name:number` a folder of so many; what ends in a suffix of no image is four bytes."""

    def make(root: Path) -> dict[str, Any]:
        for name in names:
            path, _, num = name.partition(":")
            if not num:
                _one(root / path)
            for i in range(int(num or 0)):
                stem, _, suffix = path.rpartition("*")
                _one(root / f"{stem}{i:03}{suffix}" if "*" in path else root / path / f"{i:03}.png", i)
        return {"root": str(root), **keys}

    return make


def _one(path: Path, number: int = 0) -> None:
    if path.suffix.lower() in Image.registered_extensions() and path.suffix not in (".eps", ".pdf", ".psd", ".h5"):
        picture(path, number)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1, 2")


def each(write: Callable[[Path, int], None], num: int = 12, suffix: str = "png", **keys: Any) -> Make:
    """`num` files that `write` makes."""

    def make(root: Path) -> dict[str, Any]:
        for i in range(num):
            write(root / f"{i:03}.{suffix}", i)
        return {"root": str(root), **keys}

    return make


def stack(pages: int, size: tuple[int, ...] = GREY) -> Callable[[Path, int], None]:
    def write(path: Path, number: int) -> None:
        first, *rest = (Image.fromarray(noise(1000 * number + page, size)) for page in range(pages))
        first.save(path, save_all=True, append_images=rest)

    return write


def sized(*sizes: tuple[int, int]) -> Callable[[Path, int], None]:
    return lambda path, number: picture(path, number, sizes[number % len(sizes)])


def few(high: int) -> Callable[[Path, int], None]:
    return lambda path, number: picture(path, number, GREY, high)


def deep(path: Path, number: int) -> None:
    Image.fromarray(noise(number).astype(np.uint16) * 257).save(path)


def twelve_bits(path: Path, number: int) -> None:
    Image.fromarray(noise(number).astype(np.uint16) * 16).save(path)


def tables(nums: dict[str, int], *labels: str) -> Make:
    """Parquet tables by name, each of so many pictures."""

    def make(root: Path) -> dict[str, Any]:
        for name, num in nums.items():
            numbers = [i % len(labels) for i in range(num)] if labels else None
            pictures = encode(np.stack([noise(i) for i in range(num)]))
            write_parquet(root / f"{name}.parquet", pictures, numbers, list(labels))
        return {"root": str(root)}

    return make


hub = tables({"data/train-00000-of-00001": 20, "data/test-00000-of-00001": 20}, "dog", "cat")


def numbers(root: Path) -> dict[str, Any]:
    parquet.write_table(pa.table({"height": [1.0] * 20}), root / "set.parquet")
    return {"root": str(root)}


def deep_tiff(path: Path, number: int) -> None:
    Image.fromarray(noise(number).astype(np.float32) / 255).save(path)


def deep_ppm(path: Path, number: int) -> None:
    path.write_bytes(b"P6\n8 6\n4095\n" + (noise(number, COLOUR).astype(">u2") * 16).tobytes())


def alpha(path: Path, number: int) -> None:
    Image.fromarray(noise(number, (6, 8, 2)), "LA").save(path)


def folder(title: str, make: Make, **taken: Any) -> Layout:
    return Layout(title, make, ImageFolder, taken)


def refused(title: str, make: Make, *words: str) -> Layout:
    return Layout(title, make, ImageFolder, None, words)


THREE, CATS = ("0", "1", "2"), ("cat", "dog")
TRAIN_CATS, TEST_CATS = ("train/cat:20", "train/dog:20"), ("test/cat:5", "test/dog:5")
LAYOUTS = [
    folder("`*.png`", files(".:20"), num=(14, 2, 4), shape=(1, 6, 8), classes=(), says=()),
    folder("`cat/`, `dog/`", files("cat:10", "dog:10"), num=(14, 2, 4), classes=CATS, levels=256),
    folder("`0/` to `11/`", files(*(f"{k}:2" for k in range(12))), classes=tuple(map(str, range(12)))),
    folder("`train/*.png`, `test/*.png`", files("train:20", "test:6"), num=(18, 2, 6), classes=()),
    folder("`train/CLASS/`, `test/CLASS/`", files(*TRAIN_CATS, *TEST_CATS), num=(36, 4, 10), classes=CATS),
    folder(
        "`training/CLASS/`, `testing/CLASS/` (mnist_png)",
        files(*(f"training/{k}:8" for k in THREE), *(f"testing/{k}:4" for k in THREE)),
        num=(22, 2, 12),
        classes=THREE,
        says=("training/", "data.splits=none"),
    ),
    folder(
        "`Train/`, `Valid/`, `Test/`", files("Train:20", "Valid:4", "Test:6"), num=(20, 4, 6), says=("Valid/ as val",)
    ),
    folder(
        "`Training/CLASS/`, `Test/CLASS/` (Fruits-360)",
        files("Training/a:9", "Training/b:9", "Test/a:3", "Test/b:3"),
        num=(16, 2, 6),
        classes=("a", "b"),
    ),
    folder("`train2017/`, `val2017/`, `test2017/`", files("train2017:20", "val2017:4", "test2017:6"), num=(20, 4, 6)),
    folder(
        "`train_images/`, `test_images/`, `unlabeled_images/`",
        files("train_images:20", "test_images:6", "unlabeled_images:9"),
        num=(18, 2, 6),
        says=("9 images in unlabeled_images/",),
    ),
    folder(
        "`trainA/`, `trainB/`, `testA/`, `testB/` (CycleGAN)",
        files("trainA:10", "trainB:10", "testA:4", "testB:4"),
        num=(18, 2, 8),
        classes=("A", "B"),
    ),
    folder(
        "`seg_train/seg_train/CLASS/`, `seg_test/seg_test/CLASS/`, `seg_pred/` (Intel)",
        files(*(f"seg_{s}/seg_{s}/{c}:9" for s in ("train", "test") for c in ("sea", "ice")), "seg_pred/seg_pred:5"),
        num=(16, 2, 18),
        classes=("ice", "sea"),
        says=("5 images in seg_pred/",),
    ),
    folder(
        "`images/train/`, `images/val/`, `labels/train/*.txt` (YOLO)",
        files("images/train:20", "images/val:4", "labels/train/0.txt"),
        num=(16, 4, 4),
        classes=(),
        says=("images/ is taken as the root", "1 .txt file"),
    ),
    folder(
        "`train/images/`, `train/labels/*.txt`, `test/images/` (YOLO)",
        files("train/images:20", "test/images:5", "train/labels/0.txt"),
        num=(18, 2, 5),
        classes=(),
    ),
    folder(
        "`images/*.jpg`, `masks/*.png`",
        files("images/*.jpg:20", "masks:20"),
        num=(14, 2, 4),
        classes=(),
        says=("20 images in masks/",),
    ),
    folder(
        "`train/images/`, `train/masks/`, `test/images/`, `test/masks/`",
        files("train/images:20", "train/masks:20", "test/images:5", "test/masks:5"),
        num=(18, 2, 5),
        classes=(),
        says=("20 images in masks/",),
    ),
    folder(
        "`CLASS/train/`, `CLASS/test/`",
        files("cup/train:9", "cup/test:3", "pen/train:9", "pen/test:3"),
        num=(16, 2, 6),
        classes=("cup", "pen"),
        says=("inside each class folder",),
    ),
    folder(
        "`archive/train/CLASS/`, `archive/test/CLASS/`",
        files(*(f"archive/{name}" for name in (*TRAIN_CATS, *TEST_CATS))),
        num=(36, 4, 10),
        classes=CATS,
        says=("archive/ is taken as the root",),
    ),
    folder(
        "`ILSVRC/Data/CLS-LOC/train/CLASS/`, `val/*.JPEG`, `test/*.JPEG`",
        files(
            "ILSVRC/Data/CLS-LOC/train/n01:20",
            "ILSVRC/Data/CLS-LOC/train/n02:20",
            *(f"ILSVRC/Data/CLS-LOC/{s}/*.JPEG:6" for s in ("val", "test")),
        ),
        num=(36, 4, 6),
        classes=("n01", "n02"),
        says=("6 images of val/", "labels of test/"),
    ),
    folder(
        "`img/img/*.png` (a zip unpacked twice), `list.csv`, `__MACOSX/`",
        files("img/img:20", "list.csv", "__MACOSX/img:20"),
        num=(14, 2, 4),
        classes=(),
        says=("1 .csv file",),
    ),
    folder(
        "`train/CLASS/`, `test/*.png` without class folders",
        files(*TRAIN_CATS, "test:6"),
        num=(36, 4, 6),
        classes=CATS,
        says=("labels of test/, whose 6 images",),
    ),
    folder(
        "`train/CLASS/`, `test/unknown/*.png`",
        files(*TRAIN_CATS, "test/unknown:6"),
        num=(36, 4, 6),
        classes=CATS,
        says=("labels of test/",),
    ),
    folder(
        "`bus/`, `car/`, `train/`",
        files("bus:10", "car:10", "train:10"),
        num=(21, 3, 6),
        classes=("bus", "car", "train"),
    ),
    folder(
        "`a/`, `b/` and `preview.png`",
        files("a:10", "b:10", "preview.png"),
        num=(14, 2, 4),
        classes=("a", "b"),
        says=("preview.png", "data.classes=none"),
    ),
    refused(
        "`a/`, `b/` and 8 images beside them",
        files("a:10", "b:10", ".:8"),
        "000.png and 7 other images",
        "data.classes=none",
    ),
    folder(
        "`*.png` and a few in `more/` and `old/`",
        files(".:30", "more:2", "old:3"),
        num=(24, 4, 7),
        classes=(),
        says=("labels",),
    ),
    refused("`val/`, `test/`, no `train/`", files("val:10", "test:10"), "no train/", "data.splits=none"),
    refused("`val/` beside `valid/`", files("train:10", "val:10", "valid:10"), "val/ and valid/", "data.splits=none"),
    refused(
        "`train/CLASS/` beside `extra/*.png`", files(*TRAIN_CATS, "extra:9"), "data.root=", "extra/", "data.splits=none"
    ),
    refused(
        "`train/` beside `unlabeled/`", files("train:10", "unlabeled:9"), "train/ and unlabeled/", "data.splits=none"
    ),
    refused(
        "`archive/train/`, `archive/test/` beside `thumbs/`",
        files("archive/train:10", "archive/test:9", "thumbs:9"),
        "archive",
        "data.root=",
        "data.splits=none",
    ),
    folder(
        "`@eaDir/` of a NAS, `Thumbs.db`, hidden files",
        files(".:20", "@eaDir/000.png/*.jpg:3", "Thumbs.db", ".DS_Store"),
        num=(14, 2, 4),
        says=(),
    ),
    *(
        folder(f"`*.{suffix}`", files(f"*.{suffix}:12"), num=(8, 2, 2), shape=(channels, 6, 8))
        for suffix, channels in (("jfif", 1), ("webp", 3), ("TIF", 1), ("pgm", 1), ("avif", 1), ("jp2", 1), ("tga", 1))
    ),
    folder(
        "`*.png`, `*.heic`, `*.jxl`, `*.txt`",
        files(".:20", "a.heic", "b.heic", "c.jxl", "d.txt"),
        num=(14, 2, 4),
        says=("2 .heic files (convert to .png)", "1 .jxl", "1 .txt"),
    ),
    refused("`*.dcm` alone", files("a.dcm", "b.dcm"), "2 .dcm files", "data=arrays"),
    refused("nothing", files(), "is empty", ".png"),
    folder(
        "20 TIFF stacks of 5 pages",
        each(stack(5), 20, "tif"),
        num=(70, 10, 20),
        says=("100 images are the pages", "data.pages=first"),
    ),
    folder(
        "the same, `data.pages=first`",
        each(stack(5), 20, "tif", pages="first"),
        num=(14, 2, 4),
        says=("80 further pages of 20 TIFF stacks",),
    ),
    folder("3 TIFF stacks of 20 pages", each(stack(20), 3, "tif"), num=(42, 6, 12), says=("several splits",)),
    folder(
        "`*.gif` of 4 frames",
        each(stack(4, COLOUR), 12, "gif"),
        num=(8, 2, 2),
        says=("36 further frames of 12 animations", "data.pages=all"),
    ),
    folder("the same, `data.pages=all`", each(stack(4, COLOUR), 12, "gif", pages="all"), num=(32, 8, 8)),
    folder("grey `*.png` of 16 bits", each(deep), levels=None, range=(0, 65535), says=("65535 of 16 bits",)),
    refused("the same of 12 significant bits", each(twelve_bits), "next to black", "data.range=[0,4095]"),
    folder("the same, `data.range=[0,4095]`", each(twelve_bits, range=[0, 4095]), levels=None, range=(0, 4080)),
    folder("`train-00000-of-00001.parquet`, `test-...` (hub)", hub, num=(18, 2, 20), classes=("dog", "cat")),
    folder("`0000.parquet`", tables({"0000": 40}), num=(28, 4, 8)),
    refused("a Parquet table without pictures", numbers, "without pictures", "data=vectors"),
    folder(
        "`cat/black/`, `cat/white/`, `dog/`",
        files("cat/black:8", "cat/white:8", "dog:8"),
        says=("no classes",),
        classes=CATS,
    ),
    refused("`*.tif` of 32-bit floats", each(deep_tiff, suffix="tif"), "floats of 32 bits", "data=arrays"),
    refused("colour `*.ppm` of 12 bits", each(deep_ppm, suffix="ppm"), "12 bits a channel", "data=arrays"),
    refused("`*.png` of grey and alpha", each(alpha), "LA", "data.mode=rgb or data.mode=grey"),
    folder(
        "grey `*.png` with values 0 to 16",
        each(few(16)),
        levels=17,
        range=(0, 16),
        says=("17 levels", "data.levels=256"),
    ),
    folder("masks of 0 and 1", each(few(1)), levels=2, range=(0, 1), says=("2 levels",)),
    folder("the same, `data.levels=256`", each(few(1), levels=256), levels=256, range=(0, 1)),
    refused("the same, read from the disk, 200 images", each(few(1), 200, memory_limit_gib=0), "data.levels=2"),
    folder(
        "two sizes, 6x8 and 12x16",
        each(sized((12, 16), (6, 8), (6, 8))),
        shape=(1, 6, 8),
        says=("scaled to 6x8, the size of 8 of 12 images", "data.size="),
    ),
    refused(
        "photos of 40 sizes, two of 6x4",
        each(sized((6, 4), *((40 + i, 60 + i) for i in range(39))), 41),
        "data.size=",
        "6x4",
    ),
]
