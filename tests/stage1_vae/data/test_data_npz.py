"""Several arrays in one NumPy file: which of them are images and labels, what classes those are, official splits."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import everything, refusal

from stage1_vae.data.arrays import Arrays

RNG = np.random.default_rng(1)
IMAGES, KINDS = np.random.default_rng(5).integers(0, 256, (60, 4, 4), dtype=np.uint8), np.arange(60) % 3
IMAGES[0, 0, :2] = 0, 255
SPLIT: dict[str, Any] = {"x_train": IMAGES[:40], "x_test": IMAGES[40:]}


def saved(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    return str(folder / "set.npz")


def rows_of(images: torch.Tensor) -> list[bytes]:
    return sorted(image.contiguous().numpy().tobytes() for image in images)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (np.arange(30) % 3 + 1, ("1", "2", "3")),
        (np.where(np.arange(30) % 2, 3, 8), ("3", "8")),
        ((np.arange(30) % 3).astype(float), ("0", "1", "2")),
        (np.arange(30)[:, None] % 3, ("0", "1", "2")),
        (np.arange(30) % 12, tuple(map(str, range(12)))),
        (np.array(["cat", "ape", "dog"])[np.arange(30) % 3], ("ape", "cat", "dog")),
        (np.array([b"b", b"a"])[np.arange(30) % 2], ("a", "b")),
        (np.eye(3)[np.arange(30) % 3], ("0", "1", "2")),
        (np.arange(30) % 2 == 0, ("0", "1")),
    ],
)
def test_labels_as_they_come_have_their_own_names(tmp_path: Path, label: np.ndarray, names: tuple[str, ...]) -> None:
    shade = np.arange(30) * 8 + 7  # which image is which
    images = np.broadcast_to(shade[:, None, None], (30, 4, 4)).astype(np.uint8)
    data = Arrays(saved(tmp_path, x=images, label=label)).load()
    assert data.class_names == names and data.num_classes == len(names)
    flat = label.argmax(1) if label.shape == (30, 3) else label.reshape(-1)
    words = [each.decode() if isinstance(each, bytes) else str(each) for each in flat.tolist()]
    words = [{"True": "1", "False": "0"}.get(word, word.removesuffix(".0")) for word in words]
    for part in (data.train, data.val, data.test):
        rows = (everything(part)[:, 0, 0, 0].long() - 7) // 8
        assert [names[y] for y in part.labels] == [words[row] for row in rows]


def test_labels_go_with_images_whichever_axis_counts_them(tmp_path: Path) -> None:
    shade = np.arange(30) * 8 + 7
    images = np.broadcast_to(shade, (6, 5, 3, 30)).astype(np.uint8)  # as street view house numbers come
    data = Arrays(saved(tmp_path, X=images, y=np.arange(30) % 3), layout="HWCN").load()
    assert data.num_classes == 3
    for part in (data.train, data.val, data.test):
        assert torch.equal((everything(part)[:, 0, 0, 0].long() - 7) // 8 % 3, part.labels)


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    images = np.full((30, 4, 4), 200, np.uint8)
    for label, words in (
        (np.arange(30) / 7, ["whole numbers or words", "data.label=false"]),
        (np.full(30, np.nan), ["label holds nan", "data.label=false"]),
        (np.zeros((30, 14), int), ["14 columns", "data.label_column=0 to 13", "data.label=false"]),
        (np.zeros(29, int), ["30 images", "(29,)", "one label an image"]),
    ):
        root = saved(tmp_path, x=images, label=label)
        refusal(lambda root=root: Arrays(root).load(), *words)
        assert Arrays(root, label=False).load().num_classes == 0
    root = saved(tmp_path, x=images, label=np.stack([np.zeros(30, int), np.arange(30) % 2 + 5], 1))
    assert Arrays(root, label_column=1).load().class_names == ("5", "6")
    refusal(lambda: Arrays(root, label_column=2).load(), "data.label_column=2", "0 to 1")


def test_numbers_of_images_are_no_classes(tmp_path: Path) -> None:
    root = saved(tmp_path, x=np.full((200, 4, 4), 200, np.uint8), y=np.arange(200))
    data = Arrays(root).load()
    assert data.num_classes == 0 and "200 values for 200 images" in data.left_out[0]
    assert Arrays(root, label="y").load().num_classes == 200


def test_npz_keys(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    images, labels = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8), np.arange(30) % 3
    for x, y in (("images", "labels"), ("X", "y"), ("imgs", "target"), ("arr_0", None)):
        np.savez(path, **{x: images} | ({} if y is None else {y: labels}), more=labels)  # type: ignore[arg-type]
        data = Arrays(str(path)).load()
        assert data.num_classes == (0 if y is None else 3) and f"images from {x}" in data.guesses[0]
        assert "more" in data.left_out[0] and "data.label=NAME" in data.left_out[0]
    np.savez(path, pictures=images, kinds=labels)
    refusal(lambda: Arrays(str(path)).load(), "holds pictures, kinds", "called x", "data.x=NAME")
    assert Arrays(str(path), x="pictures", label="kinds").load().num_classes == 3
    refusal(lambda: Arrays(str(path), x="picture").load(), "data.x=picture", "holds pictures, kinds")
    with zipfile.ZipFile(path, "w"):
        pass
    refusal(lambda: Arrays(str(path)).load(), "holds nothing", "must be called x")


def test_official_splits_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    images, labels = RNG.integers(0, 256, (60, 4, 4), dtype=np.uint8), np.arange(60, dtype=np.uint8) % 3
    np.savez(path, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    data = Arrays(str(path)).load()
    assert torch.equal(everything(data.test)[:, 0], torch.from_numpy(images[40:])) and len(data.val) == 4
    assert torch.equal(data.test.labels, torch.from_numpy(labels[40:].astype(np.int64)))
    assert rows_of(torch.cat([everything(data.train), everything(data.val)])) == rows_of(
        torch.from_numpy(images[:40, None])
    )
    assert any("val cut from train (data.val_fraction)" in guess for guess in data.guesses)
    np.savez(path, data=images[:40], target=labels[:40], testdata=images[40:], testtarget=labels[40:])
    beside = Arrays(str(path)).load()
    assert torch.equal(everything(beside.test), everything(data.test)) and not beside.left_out
    assert beside.test.labels is not None and torch.equal(beside.test.labels, data.test.labels)
    ends = {"train": slice(0, 40), "val": slice(40, 50), "test": slice(50, 60)}
    named: dict[str, Any] = {
        f"{split}_{what}": values[rows]
        for split, rows in ends.items()
        for what, values in (("images", images), ("labels", labels[:, None] + 1))
    }
    np.savez(path, **named)
    data = Arrays(str(path)).load()
    for split, rows in ends.items():
        part = getattr(data, split)
        assert torch.equal(everything(part)[:, 0], torch.from_numpy(images[rows]))
        assert [data.class_names[y] for y in part.labels] == [str(y + 1) for y in labels[rows]]
    np.savez(path, **{name: values for name, values in named.items() if name != "test_labels"})
    data = Arrays(str(path)).load()
    assert (
        data.num_classes == 3 and data.test.labels is None and "test images, which have no labels" in data.left_out[0]
    )
    assert [data.class_names[y] for y in data.val.labels] == [str(y + 1) for y in labels[40:50]]
    np.savez(path, **{name: values for name, values in named.items() if name != "val_labels"})
    data = Arrays(str(path)).load()
    assert len(data.val) == 4 and len(data.train) == 36 and "10 validation images" in data.left_out[0]
    assert [data.class_names[y] for y in data.test.labels] == [str(y + 1) for y in labels[50:]]
    np.savez(path, **{name: values for name, values in named.items() if name != "train_labels"})
    data = Arrays(str(path)).load()
    assert data.num_classes == 0 and "labels of val and test" in data.left_out[0]


@pytest.mark.parametrize(
    ("arrays", "keys", "words"),
    [
        ({"x": IMAGES, "label": np.array(3)}, {}, ["60 images", "()", "data.label=false"]),
        ({"x": IMAGES, "label": IMAGES}, {}, ["(60, 4, 4)", "one label an image"]),
        ({"x": IMAGES, "label": np.where(KINDS == 0, np.inf, KINDS)}, {}, ["holds inf"]),
        ({"x": IMAGES.astype(np.int64) // 255}, {}, ["holds 0 to 1", "data.range=[0,1]"]),
        ({"x": IMAGES.astype(np.int8)}, {}, ["data.range=[-128,127]"]),
        (SPLIT | {"x_test": IMAGES[:1]}, {}, ["1 images in the test split", "at least 2"]),
        (SPLIT | {"y_train": np.eye(3)[KINDS[:40]], "y_test": KINDS[40:]}, {}, ["1 and 3 columns"]),
        (SPLIT | {"kind": KINDS}, {"label": "kind"}, ["data.label=kind", "y_train"]),
    ],
)
def test_one_line_for_arrays_that_do_not_fit(
    tmp_path: Path, arrays: dict[str, Any], keys: dict[str, Any], words: list[str]
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    refusal(lambda: Arrays(str(tmp_path / "set.npz"), **keys).load(), *words)


def test_labels_of_splits_can_be_chosen(tmp_path: Path) -> None:
    fine = {"y_train_fine": KINDS[:40] + 5, "y_test_fine": KINDS[40:] + 5, "y_train_coarse": KINDS[:40]}
    np.savez(tmp_path / "set.npz", **SPLIT, **fine)  # type: ignore[arg-type]
    data = Arrays(str(tmp_path / "set.npz"), label="y_train_fine").load()
    assert data.class_names == ("5", "6", "7") and len(data.test.labels) == 20


@pytest.mark.parametrize(
    "names",
    [
        "trainX trainY testX testY",
        "train train_labels test test_labels",
        "train_set_x train_set_y test_set_x test_set_y",
    ],
)
def test_official_splits_under_other_names(tmp_path: Path, names: str) -> None:
    images, labels, test_images, test_labels = names.split()
    arrays = {images: IMAGES[:40], labels: KINDS[:40], test_images: IMAGES[40:], test_labels: KINDS[40:]}
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    for keys in ({}, {"x": images}, {"x": images, "label": labels}):
        data = Arrays(str(tmp_path / "set.npz"), **keys).load()  # type: ignore[arg-type]
        assert torch.equal(everything(data.test)[:, 0], torch.from_numpy(IMAGES[40:]))
        assert torch.equal(data.test.labels, torch.from_numpy(KINDS[40:]))


def test_hidden_test_labels_are_none_and_unseen_classes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **SPLIT, y_train=KINDS[:40], y_test=np.full(20, -1))
    data = Arrays(str(tmp_path / "set.npz")).load()
    assert data.class_names == ("0", "1", "2") and data.test.labels is None
    assert "labels of test, which are all -1" in data.left_out
    np.savez(tmp_path / "set.npz", **SPLIT, y_train=KINDS[:40], y_test=KINDS[40:] + 1)
    refusal(lambda: Arrays(str(tmp_path / "set.npz")).load(), "class 3 has no training images", "data.label=false")


def test_a_folder_of_arrays_is_stacked_and_capitals_are_read(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", IMAGES[i])
    refusal(lambda: Arrays(str(tmp_path)).load(), "0.npy, 1.npy", "numpy.stack")
    with (tmp_path / "SET.NPY").open("wb") as file:
        np.save(file, IMAGES)
    assert len(Arrays(str(tmp_path / "SET.NPY")).load().train) == 42
