"""The embedded default: 1,797 handwritten digits that come with scikit-learn, 8x8 pixels of 17 levels.

Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from dataclasses import dataclass
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
        from sklearn.datasets import load_digits  # costs a second, so only where it is used

        bunch = load_digits()
        images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)  # [1797, 1, 8, 8]
        labels = torch.from_numpy(bunch.target.astype(np.int64))
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
