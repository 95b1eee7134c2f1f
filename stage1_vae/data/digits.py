"""The embedded default: 1,797 handwritten digits that come with scikit-learn, 8x8 pixels of 17 levels.

Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from stage1_vae.data.images import Domain, ImageData, InMemory, fingerprint
from stage1_vae.data.splits import split_rows


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, split 70/10/20."""

    version: ClassVar[int] = 1

    def load(self) -> ImageData:
        with gzip.open(digits_file(), "rt", encoding="utf-8") as file:
            table = np.loadtxt(file, delimiter=",")  # [1797, 65]: pixels, then the label
        images = torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, 8, 8)
        labels = torch.from_numpy(table[:, -1].astype(np.int64))
        split = split_rows(len(images), val_fraction=0.1, test_fraction=0.2)
        train, val, test = (InMemory(images[rows], labels[rows]) for rows in (split.train, split.val, split.test))
        return ImageData(
            name="digits",
            train=train,
            val=val,
            test=test,
            shape=(1, 8, 8),
            levels=17,
            domain=Domain.UNIT,
            num_classes=10,
            class_names=tuple(str(digit) for digit in range(10)),
            value_range=(0, 16),
            fingerprint=fingerprint(("digits", train, val, test)),
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
