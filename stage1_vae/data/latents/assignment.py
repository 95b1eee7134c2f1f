"""Which rows are train, val and test, where rows of one image, or of one group, stay together.

Files that name splits are taken at their word; what they have none of is cut from the training rows, and what names no
split is cut three ways, by the fixed order of `stage1_vae.data.splits`. Rows of a split stay in the order of the files,
so that a disk reads stretches of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.splits import MIN_IMAGES, MIN_PER_SPLIT, SPLITS, check_fraction, hold_out, split_rows


@dataclass(frozen=True)
class Assigned:
    """Rows of one split.

    Attributes:
        source: the split of the files that they are of.
        rows: int64, ascending; None: all of them.
    """

    source: str
    rows: np.ndarray | None

    def of(self, values: np.ndarray) -> np.ndarray:
        """The rows of this split, of `values` [N, ...] of the source."""
        return values if self.rows is None else values[self.rows]


def assign(
    sizes: Mapping[str, int],
    groups: Mapping[str, np.ndarray],
    val_fraction: float,
    test_fraction: float,
    guesses: list[str],
) -> dict[str, Assigned]:
    """Rows of each of `SPLITS`.

    Args:
        sizes: split of the files, "all" where they name none -> its rows.
        groups: split of the files -> number of the group of each row, from 0; where there is none, rows stand alone.
        val_fraction, test_fraction: what is cut, of groups.
        guesses: to which is added what was cut.

    Raises:
        DataError: too few rows or groups; fractions that leave nothing.
    """
    if few := next((name for name, num in sizes.items() if num < MIN_PER_SPLIT), None):
        what = "" if few == "all" else f" in the {few} split"
        raise DataError(f"{sizes[few]} latents{what}; at least {MIN_PER_SPLIT} are needed: add some to data.root")
    if "all" in sizes:
        num, words = _units(sizes["all"], groups.get("all"))
        if num < MIN_IMAGES:
            raise DataError(
                f"{num} {words} are too few for three splits; at least {MIN_IMAGES} are needed: add some to data.root"
            )
        cut = split_rows(num, val_fraction, test_fraction)
        return {split: Assigned("all", _rows(cut[split], groups.get("all"))) for split in SPLITS}
    assigned = {split: Assigned(split, None) for split in sizes}
    num, _ = _units(sizes["train"], groups.get("train"))
    rest = np.arange(num)
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if name not in assigned:
            check_fraction(f"{name}_fraction", fraction)
            kept, held = hold_out(len(rest), max(MIN_PER_SPLIT, round(len(rest) * fraction)), f"data.{name}_fraction")
            assigned[name] = Assigned("train", _rows(rest[held], groups.get("train")))
            rest = rest[kept]
            guesses.append(f"{name} cut from train (data.{name}_fraction)")
    if len(rest) < num:
        assigned["train"] = Assigned("train", _rows(rest, groups.get("train")))
    return {split: assigned[split] for split in SPLITS}


def _units(num: int, groups: np.ndarray | None) -> tuple[int, str]:
    return (num, "latents") if groups is None else (int(groups.max()) + 1, "images or groups of latents")


def _rows(units: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Rows of these groups, ascending."""
    if groups is None:
        return np.sort(units)
    is_of = np.zeros(int(groups.max()) + 1, bool)
    is_of[units] = True
    return np.flatnonzero(is_of[groups])
