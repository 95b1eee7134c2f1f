"""NumPy files (`data=arrays`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layouts.cases import Layout

from stage1_vae.data.arrays import Arrays

NUM = 40
LABELS = np.arange(NUM) % 4


def values(*shape: int) -> np.ndarray:
    """Floats in [0, 1] that reach both ends."""
    found = np.random.default_rng(0).random(shape, dtype=np.float32)
    found.flat[:2] = 0, 1
    return found


def levels(*shape: int, high: int = 255) -> np.ndarray:
    return np.round(values(*shape) * high).astype(np.uint8)


IMAGES = levels(NUM, 6, 8)


def npy(images: np.ndarray, **more: Any) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        np.save(folder / "set.npy", images)
        return {"root": str(folder / "set.npy"), **more}

    return make


def npz(arrays: dict[str, Any], **more: Any) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        np.savez(folder / "set.npz", **arrays)
        return {"root": str(folder / "set.npz"), **more}

    return make


def taken(title: str, make: Callable[[Path], dict[str, Any]], **facts: Any) -> Layout:
    return Layout(title, make, Arrays, facts)


def refused(title: str, make: Callable[[Path], dict[str, Any]], *words: str) -> Layout:
    return Layout(title, make, Arrays, refused=words)


def in_splits(names: str, splits: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays called as `names` says, such as {split}_{what}."""
    each = NUM // len(splits)
    found: dict[str, Any] = {}
    for i, split in enumerate(splits):
        rows = slice(i * each, (i + 1) * each)
        x, y = ("x", "y") if names.startswith("{what}") else ("images", "labels")
        found |= {
            names.format(split=split, what=x): IMAGES[rows],
            names.format(split=split, what=y): LABELS[rows, None],
        }
    return found


KERAS, MEDMNIST = in_splits("{what}_{split}", ("train", "test")), in_splits("{split}_{what}", ("train", "val", "test"))

LAYOUTS = [
    taken("uint8 (N, H, W)", npy(IMAGES), num=(28, 4, 8), shape=(1, 6, 8), levels=256, range=(0, 255)),
    taken("uint8 (N, 3, H, W)", npy(levels(NUM, 3, 6, 8)), shape=(3, 6, 8)),
    taken("uint8 (N, H, W, 3)", npy(levels(NUM, 6, 8, 3)), shape=(3, 6, 8)),
    taken("uint8 (N, H, W, 1)", npy(levels(NUM, 4, 4, 1)), shape=(1, 4, 4)),
    taken("uint8 (N, 3, H, 3)", npy(levels(NUM, 3, 5, 3)), shape=(3, 5, 3), says=("data.layout=NHWC",)),
    refused("uint8 (N, 8, 4, 4)", npy(levels(NUM, 8, 4, 4)), "data.layout=NCHW", "data.layout=NHWC"),
    refused("uint8 (N, 2, H, W)", npy(levels(NUM, 2, 6, 8)), "data.layout=NCHW"),
    taken("the same, data.layout=NCHW", npy(levels(NUM, 2, 6, 8), layout="NCHW"), shape=(2, 6, 8)),
    taken("(H, W, C, N)", npy(levels(6, 8, 3, NUM)), shape=(3, 6, 8)),
    taken("rows of pixels (N, 784)", npy(levels(NUM, 784)), shape=(1, 28, 28), says=("data.layout=N_WH",)),
    taken("columns of pixels (784, N)", npy(levels(784, NUM)), shape=(1, 28, 28), says=("layout HW_N",)),
    taken("rows of 3 x 1024 (CIFAR)", npy(levels(NUM, 3072)), shape=(3, 32, 32), says=("layout N_CHW",)),
    refused("rows of 560 pixels", npy(levels(NUM, 560)), "data.layout=N_HW", "data=vectors"),
    taken("the same, data.size=[28,20]", npy(levels(NUM, 560), size=[28, 20]), shape=(1, 28, 20)),
    refused("rows, data.domain=real", npy(values(NUM, 784), domain="real"), "data=vectors"),
    refused("rows or columns (784, 900)", npy(levels(784, 900), layout=None), "data.layout=N_HW or data.layout=HW_N"),
    refused("one colour picture (H, H, 3)", npy(levels(64, 64, 3)), "stack pictures"),
    taken("maps (N, 8, 4, 4), data.domain=real", npy(values(NUM, 8, 4, 4) * 9, domain="real"), shape=(8, 4, 4)),
    taken("maps (N, 16, 8, 8), data.domain=real", npy(values(NUM, 16, 8, 8), domain="real"), shape=(16, 8, 8)),
    refused("maps (N, 8, 6, 4), data.domain=real", npy(values(NUM, 8, 6, 4), domain="real"), "data.layout=NCHW"),
    taken("floats in [0, 1]", npy(values(NUM, 6, 8)), levels=None, range=(0.0, 1.0)),
    taken(
        "floats that rounding put beyond 1",
        npy(values(NUM, 6, 8) * np.float32(1 + 2e-7)),
        levels=None,
        says=("cut to [0, 1]",),
    ),
    refused("floats in [-1, 1]", npy(values(NUM, 6, 8) * 2 - 1), "(x + 1) / 2", "data.range=[-1,1]"),
    taken("the same, data.range=[-1,1]", npy(values(NUM, 6, 8) * 2 - 1, range=[-1, 1]), range=(-1.0, 1.0), levels=None),
    refused("floats from 0 to 255", npy(values(NUM, 6, 8) * 255), "divide by 255", "data.range=[0,255]"),
    refused("floats divided by 255 twice", npy(values(NUM, 6, 8) / 255), "divided by 255 twice"),
    refused("standardised floats", npy(values(NUM, 6, 8) * 5 - 2), "standardisation", "data.domain=real"),
    refused("uint16", npy((values(NUM, 6, 8) * 4000).astype(np.uint16)), "uint16", "data.range=[0,4095]"),
    taken(
        "the same, data.range=[0,4095]", npy((values(NUM, 6, 8) * 4000).astype(np.uint16), range=[0, 4095]), levels=None
    ),
    refused("int64 from 0 to 255", npy(IMAGES.astype(np.int64)), "x.astype(numpy.uint8)"),
    taken("uint8 of 0 to 16", npy(levels(NUM, 8, 8, high=16)), levels=17, says=("data.levels=256",)),
    taken("uint8 of 0 and 1, or bool", npy(levels(NUM, 8, 8, high=1) > 0), levels=2, says=("data.levels=256",)),
    taken("uint8 of 0 to 63", npy(levels(NUM, 8, 8, high=63)), levels=256, says=("data.levels=64",)),
    refused("nothing but 0", npy(np.zeros((NUM, 6, 8), np.uint8)), "every image is black"),
    taken("npz: x, label", npz({"x": IMAGES, "label": LABELS}), classes=("0", "1", "2", "3")),
    taken(
        "npz: images, labels, and others",
        npz({"images": IMAGES, "labels": LABELS, "index": LABELS}),
        classes=("0", "1", "2", "3"),
        says=("images from images", "arrays index"),
    ),
    taken("npz: arr_0", npz({"arr_0": IMAGES}), classes=(), says=("images from arr_0",)),
    refused("npz: pictures", npz({"pictures": IMAGES}), "data.x=NAME"),
    taken("npz: x_train, y_train, x_test, y_test (Keras)", npz(KERAS), num=(18, 2, 20), says=("val cut from train",)),
    taken("npz: train_images, train_labels, val_images, ... (MedMNIST)", npz(MEDMNIST), num=(13, 13, 13)),
    taken(
        "the same without test_labels",
        npz({name: array for name, array in MEDMNIST.items() if name != "test_labels"}),
        classes=("0", "1", "2", "3"),
        says=("test images, which have no labels",),
    ),
    taken("labels from 1", npz({"x": IMAGES, "label": LABELS + 1}), classes=("1", "2", "3", "4")),
    taken("labels 3 and 8", npz({"x": IMAGES, "label": np.where(LABELS % 2, 3, 8)}), classes=("3", "8")),
    taken("labels 0.0, 1.0, ...", npz({"x": IMAGES, "label": LABELS * 1.0}), classes=("0", "1", "2", "3")),
    taken(
        "labels as one-hot rows",
        npz({"x": IMAGES, "label": np.eye(4)[LABELS]}),
        classes=("0", "1", "2", "3"),
        says=("one-hot",),
    ),
    taken("labels as words", npz({"x": IMAGES, "label": np.array(["b", "a"])[LABELS % 2]}), classes=("a", "b")),
    refused("labels in 14 columns", npz({"x": IMAGES, "label": np.zeros((NUM, 14), int)}), "data.label_column=0 to 13"),
    refused("labels that are no whole numbers", npz({"x": IMAGES, "label": LABELS / 3}), "data.label=false"),
    taken(
        "a number an image",
        npz({"x": levels(200, 6, 8), "label": np.arange(200)}),
        classes=(),
        says=("200 values for 200 images",),
    ),
]
