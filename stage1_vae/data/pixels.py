"""What the numbers of an array of images mean.

Unsigned bytes are level numbers, floats in [0, 1] intensities. `data.range=[low,high]`
says which numbers are black and white where they are others, such as [-1,1] or [0,65535]: x = (v - low) / (high - low).
With `data.domain=real` they are numbers, and stay what they are. Nothing is scaled unasked: what lies outside [0, 1] is
refused with the range that it seems to have, but for what rounding alone puts there, which is cut.

A byte holds 256 levels, but images of 17 grey levels, or masks of 0 and 1, are kept in bytes too; read as 256 levels
they are black to the eye and to every figure. What is seen decides: a set whose largest value is below `FEW` has few
levels; one that stays below `HALF` is taken as it is, and that is said, for dark photographs look alike.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain
from stage1_vae.data.readers.stack import Stack

CHUNK_BYTES = 64 * 2**20
ROUNDING = 1e-5
"""How far beyond [0, 1] a float32 is for rounding's sake; a float16 a hundred times as far."""
TWICE_DIVIDED = 1.001 / 255
BYTE = 256
HALF = 128
FEW = 32
"""Bytes that all lie below this show an eighth of the range: nothing that a camera or a scanner writes."""


@dataclass(frozen=True)
class Pixels:
    """How raw numbers become the raw images of a split.

    Attributes:
        levels: of unsigned bytes; None: float32.
        domain: where a pixel lives.
        scale: the numbers that become 0 and 1; None: they are taken as they are.
        value_range: the smallest and the largest number there is.
        digest: sha256 of all numbers with their type and shape, in hexadecimal.
    """

    levels: int | None
    domain: Domain
    scale: tuple[float, float] | None
    value_range: tuple[float, float]
    digest: str

    def tensor(self, images: np.ndarray) -> Tensor:
        """Raw images of the same shape, uint8 or float32."""
        if self.levels is not None:
            return torch.from_numpy(np.ascontiguousarray(images, dtype=np.uint8))
        values = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        if self.domain is Domain.REAL:
            return values
        if self.scale is not None:
            low, high = self.scale
            values = (values - low) / (high - low)
        elif self.value_range[0] >= 0 and self.value_range[1] <= 1:
            return values
        return values.clamp(0, 1)

    @property
    def facts(self) -> tuple[str, ...]:
        """What a fingerprint must know beside the numbers, where they are not taken as they are."""
        is_plain = self.scale is None and self.levels in (None, BYTE)
        return () if is_plain else (f"levels {self.levels} scale {self.scale}",)


def read_pixels(
    what: str,
    images: np.ndarray | Stack,
    domain: Domain,
    guesses: list[str],
    levels: int | None,
    scale: Sequence[float] | None,
    may_be_real: bool = True,
) -> Pixels:
    """Look at each number of `images` [N, C, H, W] once, in chunks.

    Args:
        what: the file, to name it.
        images: of any numeric type, in memory or mapped.
        domain: of `data.domain`.
        guesses: to which what is made of numbers that can be read in several ways is added.
        levels: of `data.levels`.
        scale: of `data.range`.
        may_be_real: whether the source has a key for the domain, which a remedy may name.

    Raises:
        DataError: they are not what images are made of, with what to do about it.
    """
    ends = ends_of(scale, domain)
    _check_type(what, images, domain, ends)
    if levels is not None and (images.dtype.kind not in "bu" or images.dtype.itemsize != 1 or ends is not None):
        raise DataError(
            f"data.levels={levels} is for images in unsigned bytes that are taken as they are; {what} is "
            f"{images.dtype}: leave it out" + (", or data.range" if ends is not None else "")
        )
    low, high, digest = survey(what, images)
    if not len(images):
        return Pixels(256 if images.dtype.kind in "bu" and ends is None else None, domain, ends, (0.0, 0.0), digest)
    if max(abs(low), abs(high)) > float(np.finfo(np.float32).max):
        raise DataError(f"{what} holds values up to {max(abs(low), abs(high)):g}, beyond float32: rescale them")
    if ends is not None:
        slack = ROUNDING * (ends[1] - ends[0])
        if low < ends[0] - slack or high > ends[1] + slack:
            raise DataError(
                f"{what} holds values from {low:g} to {high:g}, outside data.range=[{ends[0]:g},{ends[1]:g}]"
            )
        reach = (high - ends[0]) / (ends[1] - ends[0])
        if reach < 0.5:
            guesses.append(f"values reach {reach:.2g} of data.range=[{ends[0]:g},{ends[1]:g}]")
    elif images.dtype.kind in "bu":
        return Pixels(levels_of(what, int(high), levels, guesses), domain, None, (low, high), digest)
    elif domain is Domain.UNIT:
        _check_intensities(what, images.dtype, low, high, may_be_real, guesses)
    return Pixels(None, domain, ends, (low, high), digest)


def ends_of(scale: Sequence[float] | None, domain: Domain) -> tuple[float, float] | None:
    """What `data.range` says.

    Raises:
        DataError: it is no range, or the domain has none.
    """
    if scale is None:
        return None
    ends = scale if isinstance(scale, Sequence) else ()
    numbers = [number for number in ends if isinstance(number, (int, float)) and not isinstance(number, bool)]
    if len(numbers) != 2 or len(scale) != 2 or not -math.inf < scale[0] < scale[1] < math.inf:
        raise DataError(f"data.range={scale}: give what is black and what is white, such as data.range=[-1,1]")
    if domain is Domain.REAL:
        raise DataError("data.range maps to [0, 1], and data.domain=real takes numbers as they are; leave one out")
    return float(scale[0]), float(scale[1])


def _check_type(what: str, images: np.ndarray | Stack, domain: Domain, ends: tuple[float, float] | None) -> None:
    kind, is_byte = images.dtype.kind, images.dtype == np.uint8 or images.dtype.kind == "b"
    if is_byte and domain is Domain.REAL:
        raise DataError(f"{what} is {images.dtype}, level numbers and no real numbers: set data.domain=unit")
    if kind == "f" or is_byte or (ends is not None and kind in "iu"):
        return
    if kind not in "iu" or not len(images):
        raise DataError(f"{what} is {images.dtype}: save it as uint8 (0 to 255) or as float32 in [0, 1]")
    if domain is Domain.REAL:
        raise DataError(f"{what} is {images.dtype}: save it as float32")
    ends_seen = [(int(chunk.min()), int(chunk.max())) for chunk in _chunks(images)]
    low, high = min(low for low, _ in ends_seen), max(high for _, high in ends_seen)
    key = f"set data.range=[{low},{high}]" if low < 0 or high < HALF else f"set data.range=[0,{white_of(high)}]"
    if low >= 0 and high <= 255:
        raise DataError(
            f"{what} is {images.dtype} and holds {low} to {high}: save it as uint8, x.astype(numpy.uint8), or as "
            f"float32 in [0, 1], or {key}"
        )
    raise DataError(
        f"{what} is {images.dtype} and holds {low} to {high}, which is no uint8: save it as float32 in [0, 1], or {key}"
    )


def white_of(high: float) -> int:
    """The end of the range of the smallest common depth that holds `high`: 8, 10, 12, 14 or 16 bits."""
    return next((2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits), math.ceil(high))


def _chunks(images: np.ndarray | Stack) -> Iterator[np.ndarray]:
    """All images, so many at a time that they take little memory."""
    rows = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        yield np.ascontiguousarray(images[start : start + rows])


def survey(what: str, images: np.ndarray | Stack) -> tuple[float, float, str]:
    """Smallest and largest value, and the sha256 of all."""
    digest = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    low, high = math.inf, -math.inf
    start = 0
    for chunk in _chunks(images):
        digest.update(chunk.tobytes())
        chunk_low, chunk_high = float(chunk.min()), float(chunk.max())  # NaN travels through both
        if not (math.isfinite(chunk_low) and math.isfinite(chunk_high)):
            bad = int(np.argmin(np.isfinite(chunk).all(axis=(1, 2, 3))))
            raise DataError(
                f"{what} holds NaN or infinite values (first in image {start + bad}): remove or replace them"
            )
        low, high = min(low, chunk_low), max(high, chunk_high)
        start += len(chunk)
    return low, high, digest.hexdigest()


def _check_intensities(
    what: str, dtype: np.dtype, low: float, high: float, may_be_real: bool, guesses: list[str]
) -> None:
    """
    Raises:
        DataError: floats do not lie in [0, 1], or they are next to black.
    """
    slack = ROUNDING if dtype.itemsize > 2 else 100 * ROUNDING
    if -slack <= low and high <= 1 + slack:
        if high <= 0:
            raise DataError(f"{what} holds nothing but 0: every image is black; see how the images were written")
        if high <= TWICE_DIVIDED:
            raise DataError(
                f"{what} holds values from {low:g} to {high:.3g}, as if they had been divided by 255 twice: multiply "
                f"by 255, or set data.range=[0,{high:.4g}], or data.range=[0,1] if the images are that dark"
            )
        if high < HALF / (BYTE - 1):
            guesses.append(f"the largest value is {high:.4g} of 1 (data.range=[0,{high:.4g}] if that is white)")
        elif low < 0 or high > 1:
            guesses.append(f"values from {low:.8g} to {high:.8g} are cut to [0, 1]")
        return
    facts = f"{what} holds values from {low:g} to {high:g}, outside [0, 1]"
    real = ", or data.domain=real for numbers that are no intensities" if may_be_real else ""
    if low < -slack:
        if low >= -1 - slack and high <= 1 + slack and low < -0.5:
            raise DataError(f"{facts}: they look like [-1, 1]; save (x + 1) / 2, or set data.range=[-1,1]{real}")
        if low >= -0.5 - slack and high <= 0.5 + slack:
            raise DataError(f"{facts}: they look like [-0.5, 0.5]; save x + 0.5, or set data.range=[-0.5,0.5]{real}")
        if low >= -0.25 and high <= 1.25:
            raise DataError(f"{facts}: save numpy.clip(x, 0, 1) if a filter overshot{real}")
        raise DataError(
            f"{facts}: undo what made them so (a standardisation, say), or set data.range=[LOW,HIGH] to what is black "
            f"and white{real}"
        )
    if high <= 1.25:
        raise DataError(
            f"{facts}: save numpy.clip(x, 0, 1) if a filter overshot, or set data.range=[0,{high:.3g}]{real}"
        )
    white = white_of(high) if high > 100 else math.ceil(high)
    divided = f"divide by {white}" if high > 100 else "divide by what is white"
    raise DataError(f"{facts}: {divided}, or set data.range=[0,{white}]{real}")


def levels_of(what: str, high: int, levels: int | None, guesses: list[str], complete: bool = True) -> int:
    """How many levels bytes have whose largest value is `high`.

    Args:
        what: the file or folder, to name it.
        high: the largest value that was seen.
        levels: `data.levels`; None: to be found out.
        guesses: as in `read_pixels`.
        complete: whether every pixel was seen, and not a part of the images.

    Raises:
        DataError: `levels` is no number of levels of these bytes; all are 0; there are few, and not all were seen.
    """
    if levels is not None:
        if isinstance(levels, bool) or not isinstance(levels, int) or not 2 <= levels <= BYTE:
            raise DataError(f"data.levels={levels}: give a whole number from 2 to {BYTE}, or null")
        if high >= levels:
            raise DataError(
                f"{what} holds {high}, and data.levels={levels} ends at {levels - 1}: give at least {high + 1}"
            )
        return levels
    if high == 0 and complete:
        raise DataError(f"{what} holds nothing but 0: every image is black; see how the images were written")
    if high >= FEW:
        if high < HALF:
            guesses.append(f"the largest of 256 levels is {high} (data.levels={high + 1} if that is white)")
        return BYTE
    if not complete:
        raise DataError(
            f"{what} holds values up to {high} only, as far as was looked: set data.levels={max(high + 1, 2)} if "
            f"{max(high, 1)} is white, or data.levels={BYTE} if the images are that dark"
        )
    num = max(high + 1, 2)
    guesses.append(f"values 0 to {high} are {num} levels (data.levels={BYTE} if the images are that dark)")
    return num
