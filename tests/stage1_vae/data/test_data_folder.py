"""Folders of images."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import GREY, everything, fill, refusal, sizes, write
from PIL import Image

from stage1_vae.data.folders.files import Files
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import Domain


def test_flat_folder_is_read_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"no image either")
    data = ImageFolder(str(tmp_path)).load()
    assert sizes(data) == (14, 2, 4)
    assert data.shape == (3, 6, 8) and data.levels == 256 and data.domain is Domain.UNIT
    assert data.num_classes == 0 and data.class_names == () and data.train.labels is None
    found = torch.cat([everything(part) for part in (data.train, data.val, data.test)])
    truth = [np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in tmp_path.glob("[0-9]*.png")]
    assert sorted(image.numpy().tobytes() for image in found) == sorted(truth)


def test_class_folders_with_any_names(tmp_path: Path) -> None:
    for value, name in ((200, "zebra crossing"), (10, "Äpfel & more"), (90, "42")):
        fill(tmp_path / name / "deeper", 10, value=value, channels=GREY)
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == ("42", "zebra crossing", "Äpfel & more") and data.num_classes == 3
    assert data.shape == (1, 6, 8)
    for part in (data.train, data.val, data.test):
        assert torch.equal(torch.tensor([90, 200, 10])[part.labels], everything(part)[:, 0, 0, 0].long())


def test_numbers_that_are_class_names_stay_numbers(tmp_path: Path) -> None:
    for name in range(-1, 12):
        fill(tmp_path / str(name), 4, value=10 * (name + 2), channels=GREY)
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == tuple(map(str, range(-1, 12)))
    for part in (data.train, data.val, data.test):
        assert torch.equal(part.labels, everything(part)[:, 0, 0, 0].long() // 10 - 1)


def test_labels_of_training_images_stay_without_those_of_test_images(tmp_path: Path) -> None:
    for name, value in (("cat", 100), ("dog", 200)):
        fill(tmp_path / "train" / name, 20, value=value)
    fill(tmp_path / "test", 6)
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == ("cat", "dog") and sizes(data) == (36, 4, 6) and data.test.labels is None
    for part in (data.train, data.val):
        assert torch.equal(part.labels, everything(part)[:, 0, 0, 0].long() // 100 - 1)
    os.rename(tmp_path / "test", tmp_path / "val")
    data = ImageFolder(str(tmp_path)).load()
    assert sizes(data) == (29, 3, 8) and all(part.labels is not None for part in (data.train, data.val, data.test))
    assert "6 images of val/" in " ".join(data.left_out)


@pytest.mark.parametrize(
    ("folders", "start"),
    [
        ((("a", 12), ("b", 9)), "ef0978943f9f7657"),
        ((("train/a", 12), ("train/b", 12), ("test/a", 4), ("test/b", 4)), "dd9683535d58e71b"),
        ((("", 15),), "77cbfad17f7b86f9"),
        ((("train", 15), ("valid", 4), ("test", 3)), "98082fa228f6807e"),
    ],
)
def test_fingerprints_of_earlier_releases_stay(
    tmp_path: Path, folders: tuple[tuple[str, int], ...], start: str
) -> None:
    for k, (name, num) in enumerate(folders):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            pixels = ((np.arange(36) * 7 + i + 50 * k) % 256).astype(np.uint8)
            (tmp_path / name / f"{i:02}.ppm").write_bytes(b"P6\n4 3\n255\n" + pixels.tobytes())
    assert ImageFolder(str(tmp_path)).load().fingerprint.startswith(start)


@pytest.mark.parametrize("key", ["splits", "classes", "pages"])
def test_unknown_choices(tmp_path: Path, key: str) -> None:
    fill(tmp_path, 10)
    refusal(lambda: ImageFolder(str(tmp_path), **{key: "some"}).load(), f"data.{key}=some", "choose")  # type: ignore[arg-type]


def test_one_folder_is_no_class_and_a_loose_image_drops_none(tmp_path: Path) -> None:
    fill(tmp_path / "images", 12)
    assert ImageFolder(str(tmp_path)).load().num_classes == 0
    fill(tmp_path / "more", 12)
    assert ImageFolder(str(tmp_path)).load().num_classes == 2
    write(tmp_path / "loose.png")
    data = ImageFolder(str(tmp_path)).load()
    assert data.num_classes == 2 and sum(sizes(data)) == 24 and "loose.png" in " ".join(data.left_out)
    data = ImageFolder(str(tmp_path), classes="none").load()
    assert data.num_classes == 0 and sum(sizes(data)) == 25
    for i in range(8):
        write(tmp_path / f"{i}.png")
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "0.png and 8 other images", "data.classes=none")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_given_splits(tmp_path: Path, name: str) -> None:
    for split, value, num in (("train", 10, 20), (name, 20, 4), ("test", 30, 6)):
        fill(tmp_path / split, num, value=value)
    data = ImageFolder(str(tmp_path)).load()
    assert sizes(data) == (20, 4, 6) and data.num_classes == 0
    for part, value in ((data.train, 10), (data.val, 20), (data.test, 30)):
        assert everything(part).eq(value).all()


def test_missing_splits_are_cut_from_the_training_images(tmp_path: Path) -> None:
    for name, value in (("cat", 1), ("dog", 2)):
        fill(tmp_path / "train" / name, 20, value=value)
        fill(tmp_path / "test" / name, 5, value=value + 100)
    data = ImageFolder(str(tmp_path)).load()
    assert sizes(data) == (36, 4, 10) and data.class_names == ("cat", "dog")
    assert everything(data.test).min() > 100 and everything(data.val).max() <= 2
    assert torch.equal(everything(data.val)[:, 0, 0, 0].long(), data.val.labels + 1)
    assert len(data.test.labels[:5].unique()) == 2  # mixed, though the files are sorted by class
    os.rename(tmp_path / "test", tmp_path / "val")
    data = ImageFolder(str(tmp_path)).load()
    assert sizes(data) == (32, 10, 8) and everything(data.val).min() > 100


def test_train_among_other_names_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        fill(tmp_path / name, 10)
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == ("bus", "car", "train") and sum(sizes(data)) == 30


def test_splits_too_small_or_with_unknown_classes(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "cat", 10)
    fill(tmp_path / "train" / "dog", 10)
    write(tmp_path / "test" / "cat" / "0.png")
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "1 images for the test split", "add images to test/")
    fill(tmp_path / "test" / "bird", 4)
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "class folder bird has no training images")


def test_most_common_size_and_given_sizes(tmp_path: Path) -> None:
    fill(tmp_path / "a", 8, size=(6, 8))
    fill(tmp_path / "b", 5, size=(12, 16))
    fill(tmp_path / "c", 3, size=(9, 9))
    root = str(tmp_path)
    assert ImageFolder(root).load().shape == (3, 6, 8)
    assert ImageFolder(root, size=7).load().shape == (3, 7, 7)
    assert ImageFolder(root, size=[5, 10]).load().shape == (3, 5, 10)


def test_lazy_set_equals_the_one_in_memory(tmp_path: Path) -> None:
    fill(tmp_path / "a", 15)
    fill(tmp_path / "b", 15, size=(9, 9))
    whole, lazy = ImageFolder(str(tmp_path)).load(), ImageFolder(str(tmp_path), memory_limit_gib=0).load()
    assert isinstance(lazy.train, Files)
    index = torch.tensor([3, 0, 0, 20])
    assert torch.equal(whole.train.batch(index), lazy.train.batch(index))
    assert torch.equal(whole.train.labels, lazy.train.labels)
    assert whole.fingerprint == lazy.fingerprint


def test_fingerprint_sees_content_not_place(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "a", 10)
    fill(tmp_path / "one" / "b", 10)
    base = ImageFolder(str(tmp_path / "one")).load().fingerprint
    os.rename(tmp_path / "one", tmp_path / "two")
    root = tmp_path / "two"
    assert ImageFolder(str(root)).load().fingerprint == base
    assert ImageFolder(str(root), size=5).load().fingerprint != base
    assert ImageFolder(str(root), mode="grey").load().fingerprint != base
    assert ImageFolder(str(root), test_fraction=0.3).load().fingerprint != base
    path = root / "a" / "000.png"
    status = path.stat()
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ImageFolder(str(root)).load().fingerprint != base


def test_root_mistakes(tmp_path: Path) -> None:
    refusal(lambda: ImageFolder(None).load(), "data.root is not set", "data.root=PATH")
    refusal(lambda: ImageFolder(str(tmp_path / "gone")).load(), "does not exist", "a folder of images")
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "is empty", ".png")
    path = write(tmp_path / "0.png")
    refusal(lambda: ImageFolder(str(path)).load(), "is a file", "data.root=DIR", "data=arrays")
    refusal(lambda: ImageFolder(str(tmp_path)).load(), "1 images", "at least 10")


@pytest.mark.parametrize("size", [0, -3, 2.5, "big", [4], [4, 5, 6], [4, 0], True])
def test_bad_sizes(tmp_path: Path, size: object) -> None:
    fill(tmp_path, 10)
    refusal(lambda: ImageFolder(str(tmp_path), size=size).load(), "data.size=", "[height,width]")  # type: ignore[arg-type]


def test_links_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 12)
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    assert sum(sizes(ImageFolder(str(root)).load())) == 12
