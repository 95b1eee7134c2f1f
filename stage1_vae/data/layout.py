"""Which axis of an array of images is which.

Files say nothing of it. Three axes are images without channels, (N, H, W); of four, the first counts the images and one
of the ends the channels, of which images have 1, 3 or 4. Where both ends qualify an axis of size 1 wins (an image one
pixel high is no image), else channels-first does, and that is said. Real numbers may be feature maps of any number of
channels: of these, what is square is height and width. MATLAB counts images by the last axis: (H, W, N), (H, W, C, N).
Two axes are rows of pixels, where a row makes a square. What still has two readings is asked for.

`data.layout` names the axes in the order of the file, such as NCHW, NHWC or HWCN. With _ between them the axes of the
file are told apart from those of an image: N_HW are rows of pixels, line after line, N_WH column after column (as
MATLAB's `x(:)'` has them), HW_N the same in columns of the file, N_CHW planes of colour; `data.size` is their height
and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import isqrt

import numpy as np

from stage1_vae.data.images import DataError, Domain

CHANNELS = (1, 3, 4)
LAYOUTS = tuple("".join(axes) for names in ("NHW", "NCHW") for axes in permutations(names))
SMALLEST_SIDE = 8
"""Of a square that a row of pixels is taken for unasked."""


@dataclass(frozen=True)
class Axes:
    """How an array of a file becomes [N, C, H, W].

    Attributes:
        layout: the axes of the file: a letter each, or, with _ between them, several letters for one.
        size: letter -> size, of axes that the file has in one; else empty.
    """

    layout: str
    size: dict[str, int]

    @property
    def of_file(self) -> tuple[str, ...]:
        return tuple(self.layout.split("_") if "_" in self.layout else self.layout)

    @property
    def counting(self) -> int:
        """The axis that counts the images."""
        return self.of_file.index("N")

    def turn(self, array: np.ndarray) -> np.ndarray:
        """[N, C, H, W], a view where there can be one."""
        letters = "".join(self.of_file)
        if self.size:
            array = array.reshape([self.size.get(letter, -1) for letter in letters])
        if "C" not in letters:
            return array.transpose([letters.index(axis) for axis in "NHW"])[:, None]
        return array.transpose([letters.index(axis) for axis in "NCHW"])

    def shape(self, of_file: Sequence[int]) -> tuple[int, int, int, int]:
        """(N, C, H, W) of an array of the shape `of_file`."""
        sizes = {"C": 1, **self.size}
        sizes |= {letters: num for letters, num in zip(self.of_file, of_file, strict=True) if len(letters) == 1}
        return sizes["N"], sizes["C"], sizes["H"], sizes["W"]


@dataclass(frozen=True)
class Hints:
    """What else is known of an array of images.

    Attributes:
        layout: of `data.layout`; None: to be found out.
        size: (height, width) of `data.size`, for rows of pixels; None: they make squares.
        num: how many labels there are; None: unknown.
        is_matlab: whether MATLAB wrote it.
    """

    layout: str | None = None
    size: tuple[int, int] | None = None
    num: int | None = None
    is_matlab: bool = False


def find_axes(what: str, shape: tuple[int, ...], domain: Domain, guesses: list[str], hints: Hints) -> Axes:
    """The axes of an array of the shape `shape`.

    Args:
        what: the file, to name it.
        shape: as it lies in the file.
        domain: where a pixel lives.
        guesses: to which what is made of axes that can be read in several ways is added.
        hints: what else is known.

    Raises:
        DataError: they are no images, or can be read in two ways.
    """
    layout = hints.layout
    if layout is not None and not _is_layout(layout):
        raise DataError(
            f"data.layout={layout}: name each axis of the file once, such as NHW, NCHW, NHWC or HWCN, or N_HW for rows "
            "of pixels"
        )
    if len(shape) == 2 and 0 not in shape[1:] and (layout is None or "_" in layout):
        return _find_rows(what, shape, domain, guesses, hints)
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        raise DataError(f"{what} has shape {shape}: images are (N, H, W), (N, C, H, W) or (N, H, W, C)")
    if layout is None:
        layout = _find_counting_last(shape, domain, guesses, hints) or _find_layout(what, shape, domain, guesses)
    axes = Axes(layout, {})
    if len(axes.of_file) != len(shape):
        raise DataError(
            f"{what} has shape {shape}, and data.layout={layout} names {len(axes.of_file)} axes; name all of them"
        )
    if "_" in layout:
        raise DataError(f"data.layout={layout} is for rows of pixels, and {what} has shape {shape}: leave out the _")
    return axes


def _is_layout(layout: str) -> bool:
    groups = layout.split("_")
    return "".join(groups) in LAYOUTS and (len(groups) == 1 or (len(groups) == 2 and "N" in groups))


def _find_counting_last(shape: tuple[int, ...], domain: Domain, guesses: list[str], hints: Hints) -> str | None:
    """The layout of images that the last axis counts, if it seems to be so."""
    layout = "HWN" if len(shape) == 3 else "HWCN"
    if len(shape) == 4 and (shape[2] not in CHANNELS or shape[1] in CHANNELS or shape[3] in CHANNELS):
        return None
    if hints.num is not None and (shape[0] == hints.num) != (shape[-1] == hints.num):
        counts_last = shape[-1] == hints.num
    else:
        is_longer = shape[-1] > shape[0]
        counts_last = hints.is_matlab if len(shape) == 4 else hints.is_matlab and is_longer
        counts_last |= len(shape) == 4 and is_longer and domain is Domain.UNIT
    if not counts_last:
        return None
    guesses.append(f"axes read as {layout} (data.layout={'NHW' if len(shape) == 3 else 'NCHW'} otherwise)")
    return layout


def _find_rows(what: str, shape: tuple[int, ...], domain: Domain, guesses: list[str], hints: Hints) -> Axes:
    """The axes of rows (or columns) of pixels."""
    facts = f"{what} has shape {shape}"
    no_images = "images are (N, H, W), (N, C, H, W) or (N, H, W, C)"
    vectors = "data=vectors takes rows of numbers as they are"
    if hints.layout is not None:
        axes = Axes(hints.layout, {})
        inner = next(letters for letters in axes.of_file if letters != "N")
        num = shape[1 - axes.counting]
        size = _sides(num, hints.size, len(inner) == 3)
        if size is None:
            raise DataError(f"{facts}, and {num} numbers are no {_picture(hints.size)}: set data.size=[HEIGHT,WIDTH]")
        return Axes(hints.layout, size if len(inner) == 3 else {letter: size[letter] for letter in "HW"})
    found = {}
    for axis in (0, 1):
        pixels = shape[1 - axis]
        size = _sides(pixels, hints.size, None)
        if size and (hints.size is not None or size["H"] >= SMALLEST_SIDE) and hints.num in (None, shape[axis]):
            found[axis] = size
    if len(found) == 2 and shape[0] >= shape[1] and not hints.is_matlab:
        del found[1]
    if domain is Domain.REAL or not found:
        side = isqrt(shape[1])
        sides = f"{side}, {side}" if side * side == shape[1] > 1 else "height, width"
        raise DataError(
            f"{facts}: {no_images}; rows of pixels become images by x.reshape(-1, {sides}), or by data.layout=N_HW "
            f"data.size=[HEIGHT,WIDTH]; {vectors}"
        )
    if len(found) == 2:
        raise DataError(f"{facts}, which rows or columns may count: set data.layout=N_HW or data.layout=HW_N")
    axis, size = next(iter(found.items()))
    plane = "WH" if hints.is_matlab else "HW"
    of_image = f"C{plane}" if size["C"] > 1 else plane
    likely, other = (
        f"N_{letters}" if axis == 0 else f"{letters}_N" for letters in (of_image, of_image.replace(plane, plane[::-1]))
    )
    guesses.append(
        f"rows of {shape[1 - axis]} pixels read as {_picture((size['H'], size['W']), size['C'])}, layout {likely} "
        f"(data.layout={other} if they lie on their side, data.size=[HEIGHT,WIDTH])"
    )
    return Axes(likely, size if size["C"] > 1 else {letter: size[letter] for letter in "HW"})


def _sides(num: int, size: tuple[int, int] | None, in_colour: bool | None) -> dict[str, int] | None:
    """C, H and W of images of `num` numbers; `in_colour` None: as it divides."""
    for channels in {True: (3, 1, 4), False: (1,), None: (1, 3)}[in_colour]:
        if num % channels:
            continue
        height, width = size or (isqrt(num // channels),) * 2
        if height * width * channels == num:
            return {"C": channels, "H": height, "W": width}
    return None


def _picture(size: tuple[int, int] | None, channels: int = 1) -> str:
    return "square" if size is None else "x".join(map(str, (channels, *size) if channels > 1 else size))


def _find_layout(what: str, shape: tuple[int, ...], domain: Domain, guesses: list[str]) -> str:
    """The layout of an array of this shape, whose first axis counts the images."""
    if len(shape) == 3:
        if shape[2] in CHANNELS[1:] and shape[1] >= 4 * shape[2]:
            raise DataError(
                f"{what} has shape {shape}, one picture in colour or {shape[0]} narrow ones: stack pictures to "
                "(N, H, W, C), or set data.layout=NHW"
            )
        if shape[0] == shape[1] != shape[2]:  # as MATLAB stacks them
            guesses.append("axes read as NHW (data.layout=HWN otherwise)")
        return "NHW"
    _, one, two, three = shape
    first, last = one in CHANNELS, three in CHANNELS
    if (one == 1) != (three == 1):
        return "NCHW" if one == 1 else "NHWC"
    if first and last:
        guesses.append("axes read as NCHW (data.layout=NHWC otherwise)")
        return "NCHW"
    square_first, square_last = two == three != one, one == two != three
    if not (square_last if first else square_first) and first != last:
        if first or square_last or max(two, three) >= 2 * min(two, three):  # no map is so narrow
            return "NCHW" if first else "NHWC"
    elif domain is Domain.REAL and square_first != square_last:
        num, likely, other = (one, "NCHW", "NHWC") if square_first else (three, "NHWC", "NCHW")
        guesses.append(f"{num} channels: axes read as {likely} (data.layout={other} otherwise)")
        return likely
    if first or last or domain is Domain.REAL:
        raise DataError(
            f"{what} has shape {shape}, which is {one} channels of {two}x{three} or {three} channels of {one}x{two}: "
            "set data.layout=NCHW or data.layout=NHWC"
        )
    raise DataError(
        f"{what} has shape {shape}: no channel axis of size 1, 3 or 4 in (N, C, H, W) or (N, H, W, C); name the axes, "
        "such as data.layout=NCHW, NHWC or HWCN"
    )
