"""Rows of numbers as data in their own right: tables, features, measurements; whatever `data=arrays` reads.

A row of D numbers becomes an "image" of one line, (1, 1, D), so that everything that holds of images holds of it; only
pictures of it would mean nothing, and plots take their place (`ImageData.are_pictures`).

Likelihoods have scales in units of x: columns are measured in their own units first, (v - mean) / deviation over the
training rows. A density changes with its units: of the numbers in the file, -log p is larger by the sum of the
logarithms of the deviations, which is said.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.arrays import Arrays
from stage1_vae.data.images import DataError, Domain, ImageData, ImageSet, InMemory, Source, Units, fingerprint
from stage1_vae.data.layout import Axes, Hints

BLOCK_NUMBERS = 2**24
LAYOUTS = ("ND", "DN")
CONSTANT = 8 * torch.finfo(torch.float32).eps
"""A deviation of so much of the largest number is rounding: the column never varies."""


class Standardised(ImageSet):
    """Rows on the disk, in the units of their columns."""

    def __init__(self, rows: ImageSet, units: Units) -> None:
        self.rows, self.units, self.labels = rows, units, rows.labels

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Tensor:
        return self.units.standardise(self.rows.batch(index))


@dataclass(frozen=True)
class _Rows(Arrays):
    """Arrays of two axes as images (1, 1, D)."""

    def find_axes(self, what: str, shape: tuple[int, ...], domain: Domain, guesses: list[str], hints: Hints) -> Axes:
        if len(shape) != 2 or 0 in shape:
            flat = " by x.reshape(len(x), -1)" if len(shape) > 2 else ""
            raise DataError(f"{what} has shape {shape}: vectors are rows of one array, (N, D); make them so{flat}")
        in_columns = hints.layout == "DN"
        if hints.layout is None and hints.num is not None and hints.num == shape[1] != shape[0]:
            guesses.append("a vector a column, as there are labels (data.layout=ND otherwise)")
            in_columns = True
        elif hints.layout is None and shape[1] > shape[0]:
            guesses.append(f"{shape[0]} vectors of {shape[1]} numbers (data.layout=DN otherwise)")
        size = {"C": 1, "H": 1, "W": shape[0 if in_columns else 1]}
        return Axes("CHW_N" if in_columns else "N_CHW", size)


@dataclass(frozen=True)
class Vectors(Source):
    """Rows of numbers in files of arrays; a split is found, or cut at random, as of images.

    Args:
        root, x, label, label_column, levels, range, val_fraction, test_fraction, memory_limit_gib: as of `Arrays`.
        layout: "ND" for vectors in rows, "DN" in columns; None: in rows, unless the labels say columns.
        domain: "real" for any numbers, "unit" for bits, bytes and numbers in [0, 1], which stay as they are.
        standardize: measure each column of real numbers in its own units.
    """

    root: str | None
    x: str | None = None
    label: str | bool | None = None
    label_column: int | None = None
    layout: str | None = None
    domain: str = "real"
    standardize: bool = True
    levels: int | None = None
    range: Sequence[float] | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    memory_limit_gib: float = 2.0

    @property
    def in_arrays(self) -> Arrays:
        """What reads them as images (1, 1, D), in the units of the file."""
        return _Rows(**{field.name: getattr(self, field.name) for field in fields(self) if field.name != "standardize"})

    def load(self) -> ImageData:
        if not isinstance(self.standardize, bool):
            raise DataError(f"data.standardize={self.standardize}: give true or false")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise DataError(f"data.layout={self.layout}: give ND for vectors in rows, DN in columns, or null")
        data = replace(self.in_arrays.load(), are_pictures=False)
        if data.domain is not Domain.REAL or not self.standardize:
            return data
        units, num_constant = find_units(data.train)
        train, val, test = (in_units(rows, units) for rows in (data.train, data.val, data.test))
        words = (
            f"columns standardised by mean and deviation ({units.scale.min():.3g} to {units.scale.max():.3g}) of the "
            f"training rows; {units.log_volume:.4g} nats more are -log p of the numbers in the file "
            "(data.standardize=false)"
        )
        constant = [f"{num_constant} column{'s never vary' if num_constant > 1 else ' never varies'}"] * (
            num_constant > 0
        )
        return replace(
            data,
            train=train,
            val=val,
            test=test,
            units=units,
            guesses=(*data.guesses, words, *constant),
            fingerprint=fingerprint(("vectors", "standardised", str(self.version), data.fingerprint)),
        )


def in_units(rows: ImageSet, units: Units) -> ImageSet:
    """The same rows [N, 1, 1, D], standardised."""
    return (
        InMemory(units.standardise(rows.images), rows.labels)
        if isinstance(rows, InMemory)
        else Standardised(rows, units)
    )


def find_units(rows: ImageSet) -> tuple[Units, int]:
    """The units of the columns of [N, 1, 1, D], and how many of them never vary, whose unit is 1."""
    shift, total, squares, largest = (torch.zeros(()),) * 4
    for num, block in enumerate(_blocks(rows)):
        values = block.flatten(1).double()
        if num == 0:
            shift, largest = values.mean(0), values.abs().amax(0)  # near the mean: nothing large cancels
            total, squares = torch.zeros_like(shift), torch.zeros_like(shift)
        largest = torch.maximum(largest, values.abs().amax(0))
        total += (values - shift).sum(0)
        squares += (values - shift).square().sum(0)
    mean = total / len(rows)
    deviation = (squares / len(rows) - mean.square()).clamp_min(0).sqrt()
    varies = deviation > CONSTANT * largest
    scale = torch.where(varies, deviation, torch.ones_like(deviation))
    return Units(shift + mean, scale), int((~varies).sum())


def _blocks(rows: ImageSet) -> Iterator[Tensor]:
    num = max(1, BLOCK_NUMBERS // math.prod(rows.batch(torch.tensor([0])).shape))
    for start in range(0, len(rows), num):
        yield rows.batch(torch.from_numpy(np.arange(start, min(len(rows), start + num))))
