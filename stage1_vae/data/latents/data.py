"""Latents that somebody else has encoded: three splits of posteriors, and how the files held them."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from stage1_vae.data.images import Data
from stage1_vae.latents import LatentDataset, LatentSpec

MISSING = {
    "loc": "standard deviations (point masses: no rate, no mutual information, no marginal KL)",
    "bits": "probabilities of the bits (each is certain)",
}
"""Kind of array without a spread -> what is not there, and what that costs."""


@dataclass(frozen=True)
class LatentStyle:
    """How files hold latents, so that samples can be written the same way.

    Attributes:
        name: under which an array of draws is written, as that of the files is called ("latents" of stacked moments).
        dtype: of numpy, or "bfloat16", which .npz cannot hold.
        axes: of one latent: `axes[i]` is the axis of ours that stands at place i in the file; () for a vector.
        shape: of one latent in the file, behind the first axis.
        label_name: of the labels; "" without.
        suffix: ".npz", ".npy" or ".safetensors".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    label_name: str = ""
    suffix: str = ".npz"


@dataclass(frozen=True)
class LatentData(Data):
    """Attributes:
    train, val, test: posteriors, read from the user's files when their rows are asked for.
    style: how the files hold them.
    missing: what the files do not hold and a judge will miss, in words ("standard deviations: no rate, ...").
    fractions: of validation and test, where all rows were cut three ways, each by itself; None: the files, or groups,
        decide.
    constant: bool, of the shape of a latent: which of its numbers are the same in all training rows; None for codes.
    dependent: dimensions of a vector that are computed from the others, of which they are affine functions over the
        training rows; see `stage1_vae.latents.columns`.
    """

    train: LatentDataset
    val: LatentDataset
    test: LatentDataset
    _: KW_ONLY
    style: LatentStyle
    missing: tuple[str, ...] = ()
    fractions: tuple[float, float] | None = None
    constant: np.ndarray | None = field(default=None, compare=False)
    dependent: tuple[int, ...] = field(default=(), compare=False)

    @property
    def spec(self) -> LatentSpec:
        return self.train.spec

    @property
    def fixed(self) -> tuple[int, ...]:
        """Dimensions of a vector, or channels of a map, that never vary."""
        if self.constant is None or self.constant.all():
            return ()
        whole = self.constant.reshape(len(self.constant), -1).all(1)
        return tuple(np.flatnonzero(whole).tolist())

    @property
    def splits(self) -> Mapping[str, LatentDataset]:
        return {"train": self.train, "val": self.val, "test": self.test}


def missing_of(kind: str, has_spread: bool, has_labels: bool) -> tuple[str, ...]:
    """What a judge will miss of latents whose first array is of `kind`, in words."""
    lacking = ("" if has_spread else MISSING.get(kind, ""), "" if has_labels else "labels")
    return tuple(words for words in lacking if words)
