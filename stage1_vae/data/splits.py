"""Fixed train/validation/test splits and the folder that a source reads.

A split depends on the number of images and the fractions alone, never on the seed of a run: figures of different runs
are measured on the same images. The seed below is part of the definition. numpy's `RandomState` is used because its
stream is frozen by numpy's compatibility policy.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stage1_vae.data.images import DataError

SPLIT_SEED = 20240229
MIN_IMAGES = 10
MIN_PER_SPLIT = 2
SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset", "traindata", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "testset", "testdata", "holdout"), "test"),
}
"""What people call a split, in lower case -> its name here."""
PARTS = re.compile(r"[A-Z]?[a-zäöüé]+|[A-Z]+(?![a-z])|\d+")
"""Words of a name: of train_images, trainX and TestSet2."""


def split_in(name: str) -> tuple[str, list[str]]:
    """The split that a name says, empty for none or several, and its other words, as they are written."""
    words = PARTS.findall(name)
    splits = [SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS]
    return splits[0] if len(splits) == 1 else "", [word for word in words if word.lower() not in SPLIT_WORDS]


def random_order(num: int) -> np.ndarray:
    """The one random order of `num` images, int64 [num]."""
    return np.random.RandomState(SPLIT_SEED).permutation(num).astype(np.int64)


def split_rows(num: int, val_fraction: float, test_fraction: float) -> dict[str, np.ndarray]:
    """Cut `num` rows three ways; validation and test get at least two images each.

    Each of `SPLITS` gets its row numbers, int64, in random order: the first n of any split are a fair sample of it.

    Raises:
        DataError: too few images, or fractions that leave nothing to train on.
    """
    check_fraction("val_fraction", val_fraction)
    check_fraction("test_fraction", test_fraction)
    check_total(num)
    num_val = max(MIN_PER_SPLIT, round(num * val_fraction))
    num_test = max(MIN_PER_SPLIT, round(num * test_fraction))
    num_train = num - num_val - num_test
    if num_train < MIN_PER_SPLIT:
        raise DataError(
            f"{num} images leave {max(num_train, 0)} to train on after {num_val} for validation and {num_test} for the "
            "test; lower data.val_fraction or data.test_fraction"
        )
    order = random_order(num)
    test, val, train = np.split(order, [num_test, num_test + num_val])
    return {"train": train, "val": val, "test": test}


def hold_out(num: int, num_held: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut `num` rows into the rest and `num_held` held out; `key` is the config key to blame.

    Raises:
        DataError: either side would have fewer than two images.
    """
    if isinstance(num_held, bool) or not isinstance(num_held, int) or num_held < MIN_PER_SPLIT:
        raise DataError(f"{key} is {num_held!r}; give a whole number of at least {MIN_PER_SPLIT}")
    if num - num_held < MIN_PER_SPLIT:
        raise DataError(f"{key}={num_held} leaves {max(num - num_held, 0)} of {num} images to train on; lower {key}")
    order = random_order(num)
    return order[num_held:], order[:num_held]


def check_total(num: int) -> None:
    if num < MIN_IMAGES:
        raise DataError(
            f"{num} images are too few for three splits; at least {MIN_IMAGES} are needed: add images to data.root"
        )


def check_fraction(key: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise DataError(f"data.{key} is {value!r}; give a number between 0 and 1, such as data.{key}=0.1")


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) that `data.size` says.

    Raises:
        DataError: it is no size.
    """
    sides = size if isinstance(size, Sequence) else [size] * 2
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"data.size={size} is no size: give null, a whole number or [height,width]")
    return sides[0], sides[1]


def fits_in_memory(num_bytes: int, limit_gib: float) -> bool:
    """Whether a set of `num_bytes` is to be held in memory.

    Raises:
        DataError: the limit is no number or negative.
    """
    if isinstance(limit_gib, bool) or not isinstance(limit_gib, (int, float)) or not limit_gib >= 0:
        raise DataError(f"data.memory_limit_gib is {limit_gib!r}; give a number of GiB, such as 2.0")
    return num_bytes <= limit_gib * 2**30


def existing_path(root: str | None, what: str, hint: str = "") -> Path:
    """`root` as an absolute path that exists; `~` is the home folder, relative paths start at the current one.

    Args:
        root: the value of `data.root`.
        what: what the key names, such as "a folder of images".
        hint: one more remedy, appended.

    Raises:
        DataError: not given, or nothing is there.
    """
    if root is None or not str(root):
        raise DataError(f"data.root is not set: give {what} with data.root=PATH{hint}")
    path = Path(str(root)).expanduser().absolute()
    if not path.exists():
        raise DataError(f"data.root={root} does not exist: give {what} with data.root=PATH{hint}")
    return path
