"""The embedded default: 1,797 handwritten digits that come with scikit-learn, 8x8 pixels of 17 levels.

Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from stage1_vae.data.images import DataError, ImageData, InMemory, Source, fingerprint
from stage1_vae.data.splits import split_rows

SIDE = 8


@dataclass(frozen=True)
class Digits(Source):
    """scikit-learn's digits, split 70/10/20.

    Args:
        size: rows and columns; of larger images each pixel is repeated, which shows the same to more pixels.

    Raises:
        DataError: no multiple of 8.
    """

    size: int = SIDE

    def __post_init__(self) -> None:
        if self.size < SIDE or self.size % SIDE:
            raise DataError(f"data.size={self.size}: digits are {SIDE} x {SIDE}; give a multiple, such as {2 * SIDE}")

    def load(self) -> ImageData:
        with gzip.open(digits_file(), "rt", encoding="utf-8") as file:
            table = np.loadtxt(file, delimiter=",")  # [1797, 65]: pixels, then the label
        images = torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, SIDE, SIDE)
        times = self.size // SIDE
        images = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        rows = split_rows(len(images), val_fraction=0.1, test_fraction=0.2)
        splits = [InMemory(images[of_split], labels[of_split]) for of_split in rows.values()]
        return ImageData(
            "digits",
            *splits,
            shape=(1, self.size, self.size),
            levels=17,
            class_names=tuple(str(digit) for digit in range(10)),
            value_range=(0, 16),
            fingerprint=fingerprint(("digits", *splits)),
        )


def digits_file() -> Path:
    """Where scikit-learn keeps them; it is not imported, for that takes longer than all else that a short run does.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
