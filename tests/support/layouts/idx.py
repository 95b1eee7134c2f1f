"""IDX files (`data=mnist`, `data=fashion_mnist`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layouts.cases import Layout

from stage1_vae.data.idx import FILES, TYPES, Idx

NUM = 40, 12


def idx(values: np.ndarray, code: int = 8) -> bytes:
    return (
        bytes((0, 0, code, values.ndim))
        + np.array(values.shape, ">u4").tobytes()
        + values.astype(TYPES[code]).tobytes()
    )


def files(
    names: str = "{}",
    labels: Callable[[np.ndarray], np.ndarray] = lambda y: y,
    label_code: int = 8,
    image_code: int = 8,
    **more: Any,
) -> Callable[[Path], dict[str, Any]]:
    """The four files, called as `names` says, with labels 0, 1, 2 or what `labels` makes of them."""

    def make(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        for split, num in zip(("train", "t10k"), NUM, strict=True):
            contents = {
                f"{split}-images-idx3-ubyte": idx(
                    rng.integers(0, 128, (num, 5, 7)) + 127 * (image_code == 8), image_code
                ),
                f"{split}-labels-idx1-ubyte": idx(labels(np.arange(num) % 3), label_code),
            }
            for file, content in contents.items():
                path = folder / names.format(file)
                path = path.with_name(path.name.replace("t10k", "test")) if "-" in names else path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return {"root": str(folder), "num_val": 10, **more}

    return make


def taken(title: str, make: Callable[[Path], dict[str, Any]], **facts: Any) -> Layout:
    return Layout(title, make, Idx, {"num": (30, 10, 12), "shape": (1, 5, 7), **facts})


def two_sets(folder: Path) -> dict[str, Any]:
    files("emnist-digits-{}")(folder)
    return files("emnist-letters-{}")(folder)


def one_missing(folder: Path) -> dict[str, Any]:
    arguments = files()(folder)
    (folder / FILES[3]).unlink()
    return arguments


LAYOUTS = [
    taken("MNIST's four names", files(), classes=("0", "1", "2"), levels=256),
    taken("the same in MNIST/raw/ below DIR (torchvision)", files("MNIST/raw/{}"), says=("MNIST/raw/",)),
    taken(
        "EMNIST: emnist-letters-train-images-idx3-ubyte, ..., labels from 1",
        files("emnist-letters-{}", labels=lambda y: y + 1),
        classes=("1", "2", "3"),
        says=("data.transpose=true",),
    ),
    taken("the same, data.transpose=true", files("emnist-letters-{}", transpose=True), shape=(1, 7, 5)),
    Layout("EMNIST's files of several sets", two_sets, Idx, refused=("data.prefix=emnist-digits", "emnist-letters")),
    taken(
        "QMNIST: int32 labels in columns",
        files("qmnist-{}", labels=lambda y: np.stack([y, y + 5], 1), label_code=12),
        classes=("0", "1", "2"),
        says=("the first of 2 columns of labels",),
    ),
    taken(
        "the same, data.label_column=1",
        files(labels=lambda y: np.stack([y, y + 5], 1), label_column=1),
        classes=("5", "6", "7"),
    ),
    taken("labels with gaps", files(labels=lambda y: y * 3), classes=("0", "3", "6")),
    taken("images as int16 of 0 to 127", files(image_code=11), levels=256, says=("data.levels=",)),
    Layout("images as floats of 0 to 127", files(image_code=13), Idx, refused=("data.range=",)),
    Layout("one of the four is missing", one_missing, Idx, refused=(FILES[3], "it holds t10k-images")),
    Layout("DIR is empty", lambda folder: {"root": str(folder)}, Idx, refused=(FILES[0], "data.download=true")),
]
