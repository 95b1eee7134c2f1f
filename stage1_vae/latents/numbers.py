"""Numbers that somebody else's encoder gave, turned into the parameters that are kept, or refused by their row.

A kind is what an array is called at the door: `loc`; a spread, which is one of `log_std`, `std`, `log_var`, `var`;
`clipped_log_var` of stacked moments;
`codes`; or `bits`, `probs`, `logits` of bits.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SPREADS = ("log_std", "std", "log_var", "var")
CERTAIN = 30.0
"""Logit of a bit that is sure: its probability is 1 in float32, and the other value has exp(-30), which is finite."""
MOST_CODES = 2**16
"""As many as 16 bits can tell apart, which is what a code is stored in at most."""
LARGEST = float(np.finfo(np.float32).max)
CLIP_LOG_STD = (-15.0, 10.0)
"""Log-variances of stacked moments are clipped to [-30, 20] by those who draw from them (Rombach et al., "High-
Resolution Image Synthesis with Latent Diffusion Models", 2022, `DiagonalGaussianDistribution`)."""
LOG_STD_RANGE = (-87.0, 88.0)
"""Beyond, a standard deviation is zero or infinite in float32."""


class NumberError(ValueError):
    """A number that cannot be one of its kind.

    Attributes:
        row: where it stands in what was looked at.
        words: what is wrong, as in "holds nan".
        remedy: what to do.
        instead: the kind that the numbers may be, where the remedy speaks of one.
    """

    def __init__(self, row: int, words: str, remedy: str, instead: str = "") -> None:
        self.row, self.words, self.remedy, self.instead = row, words, remedy, instead
        super().__init__(f"row {row} {words}; {remedy}")


def as_numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """The numbers of a tensor of any type on any device, bfloat16 widened to float32; nothing is copied if it can be
    avoided."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    return np.asarray(values)


def parameter(kind: str, values: np.ndarray, num_codes: int | None = None) -> np.ndarray:
    """What is kept of `values` [n, ...]: float32, or int64 codes.

    Args:
        kind: see above.
        values: of any type of numbers.
        num_codes: size of the codebook, if it is known.

    Raises:
        NumberError: naming the first row that is wrong.
    """
    if values.dtype.kind not in "biuf":
        raise NumberError(0, f"holds {values.dtype}", "give whole or real numbers")
    if kind == "codes":
        return _codes(values, num_codes)
    if values.dtype.kind == "f":
        _refuse(~np.isfinite(values), values, "leave such rows out, or encode them again")
    return CONVERSIONS[kind](values)


def _refuse(is_bad: np.ndarray, values: np.ndarray, remedy: str, words: str = "", instead: str = "") -> None:
    """`is_bad`: bool, of the shape of `values`."""
    if is_bad.any():
        row = int(is_bad.reshape(len(is_bad), -1).any(1).argmax())
        number = values[row][is_bad[row]].flat[0].item()
        said = f"{number:.10g}" if isinstance(number, float) else str(number)
        raise NumberError(row, f"holds {said}{words}", remedy, instead)


def _real(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and values.dtype.itemsize > 4:
        _refuse(np.abs(values) > LARGEST, values, "scale the latents", ", which is more than float32 can hold")
    return values.astype(np.float32, copy=False)


def _log_std(values: np.ndarray, factor: float = 1.0) -> np.ndarray:
    log_std = factor * values if factor != 1.0 else values
    low, high = LOG_STD_RANGE
    _refuse(
        (log_std < low) | (log_std > high),
        values,
        "name it std or var if it is no logarithm",
        ", and its standard deviation is zero or infinite in float32",
        "std",
    )
    return log_std.astype(np.float32, copy=False)


def _log_of(values: np.ndarray, factor: float, what: str) -> np.ndarray:
    _refuse(
        values <= 0,
        values,
        "raise it above zero; of point masses keep loc alone",
        f", and a {what} is positive",
    )
    wide = values if values.dtype.itemsize > 2 and values.dtype.kind == "f" else values.astype(np.float32)
    return _log_std(np.log(wide), factor)


def _bits(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "b":
        is_bad = (values != 0) & (values != 1)
        _refuse(is_bad, values, "name it probs or logits if it is one", ", and a bit is 0 or 1", "probs")
    return np.where(values != 0, np.float32(CERTAIN), np.float32(-CERTAIN))


def _logit(values: np.ndarray) -> np.ndarray:
    is_bad = (values < 0) | (values > 1)
    _refuse(is_bad, values, "name it logits if it is that", ", and a probability is in [0, 1]", "logits")
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore"):
        return (np.log(wide) - np.log1p(-wide)).clip(-CERTAIN, CERTAIN).astype(np.float32)


def _codes(values: np.ndarray, num_codes: int | None) -> np.ndarray:
    if values.dtype.kind == "f":
        _refuse(~(values == np.floor(values)), values, "name it loc if it is real", ", and a code is whole", "loc")
    if values.dtype.kind in "if":
        _refuse(values < 0, values, "codes count from 0; leave out what marks nothing", ", and a code is not negative")
    limit = MOST_CODES if num_codes is None else num_codes
    remedy = f"codes are 0 to {limit - 1}: leave out special tokens" + (", or raise num_codes" * (limit < MOST_CODES))
    _refuse(values >= limit, values, remedy, f", and the codebook has {limit:,}" if num_codes else "")
    return values.astype(np.int64, copy=False)


CONVERSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "loc": _real,
    "logits": _real,
    "log_std": _log_std,
    "std": lambda values: _log_of(values, 1.0, "standard deviation"),
    "log_var": lambda values: _log_std(values, 0.5),
    "clipped_log_var": lambda values: (0.5 * values).clip(*CLIP_LOG_STD).astype(np.float32),
    "var": lambda values: _log_of(values, 0.5, "variance"),
    "bits": _bits,
    "probs": _logit,
}
"""Kind -> how real numbers of it, which are finite, become the float32 that is kept."""


def class_numbers(labels: np.ndarray, num: int) -> np.ndarray:
    """Labels as int64 [num], counted from 0.

    Raises:
        ValueError: they are another number, or no whole numbers from 0.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (num,):
        raise ValueError(f"labels have shape {labels.shape} for {num} latents: give one label a latent")
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"labels are {labels.dtype}: number the classes from 0")
    try:
        return parameter("codes", labels)
    except NumberError as error:
        raise ValueError(
            f"labels: row {error.row} {error.words.partition(',')[0]}: number the classes from 0"
        ) from error


def check_codebook(num_codes: int, what: str = "num_codes") -> int:
    """
    Raises:
        ValueError: a codebook of one code, or of more than 16 bits can tell apart.
    """
    if isinstance(num_codes, bool) or not isinstance(num_codes, int) or not 2 <= num_codes <= MOST_CODES:
        raise ValueError(f"{what}={num_codes!r}: codes are stored in 16 bits; give a whole number, 2 to {MOST_CODES:,}")
    return num_codes


def check_grids(grids: tuple[tuple[int, int], ...], length: int, what: str = "grids") -> None:
    """
    Raises:
        ValueError: maps that do not make up a sequence of `length` codes.
    """
    if sum(math.prod(grid) for grid in grids) != length or any(min(grid) < 1 for grid in grids):
        named = ", ".join(f"{height}x{width}" for height, width in grids)
        raise ValueError(f"{what}: {named} are not the {length} codes of a row: give maps that make up all of them")
