"""Vectors (`data=vectors`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layouts.arrays import LABELS, NUM, npy, npz, values
from layouts.cases import Layout

from stage1_vae.data.vectors import Vectors

ROWS = values(NUM, 6) * 9 - 3


def taken(title: str, make: Callable[[Path], dict[str, Any]], **facts: Any) -> Layout:
    return Layout(title, make, Vectors, facts)


def refused(title: str, make: Callable[[Path], dict[str, Any]], *words: str) -> Layout:
    return Layout(title, make, Vectors, refused=words)


def table(folder: Path) -> dict[str, Any]:
    np.savetxt(folder / "set.csv", ROWS, delimiter=",")
    return {"root": str(folder / "set.csv")}


LAYOUTS = [
    taken("rows (N, 6)", npy(ROWS), shape=(1, 1, 6), levels=None, num=(28, 4, 8), says=("data.standardize=false",)),
    taken("the same, data.standardize=false", npy(ROWS, standardize=False), shape=(1, 1, 6), range=(-3, 6)),
    taken("npz: x (6, N), label", npz({"x": ROWS.T, "label": LABELS}), shape=(1, 1, 6), says=("data.layout=ND",)),
    taken("columns (6, N), data.layout=DN", npy(ROWS.T, layout="DN"), shape=(1, 1, 6)),
    taken("csv: 6 numbers a line", table, shape=(1, 1, 6)),
    taken("bits (N, 6), data.domain=unit", npy((ROWS > 0).astype(np.uint8), domain="unit"), levels=2),
    refused("uint8 (N, 6)", npy((ROWS > 0).astype(np.uint8)), "data.domain=unit"),
    refused("maps (N, 4, 4)", npy(values(NUM, 4, 4)), "x.reshape(len(x), -1)"),
]
