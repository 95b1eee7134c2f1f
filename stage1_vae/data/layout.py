"""Which axis of an array of images is which.

Files say nothing of it. Three axes are images without channels, (N, H, W); of four, the first counts the images and one
of the ends the channels, of which images have 1, 3 or 4. Where both ends qualify an axis of size 1 wins (an image one
pixel high is no image), else channels-first does, and that is said. Real numbers may be feature maps of any number of
channels: of these, what is square is height and width. What still has two readings is asked for: `data.layout` names
the axes in the order of the file, such as NCHW, NHWC or HWCN.
"""

from itertools import permutations
from math import isqrt

import numpy as np

from stage1_vae.data.images import DataError, Domain

CHANNELS = (1, 3, 4)
LAYOUTS = tuple("".join(axes) for names in ("NHW", "NCHW") for axes in permutations(names))


def arrange(what: str, images: np.ndarray, layout: str | None, domain: Domain, guesses: list[str]) -> np.ndarray:
    """A view [N, C, H, W] of `images`.

    Args:
        what: the file, to name it.
        images: as they lie in the file.
        layout: of `data.layout`; None: to be found out.
        domain: where a pixel lives.
        guesses: to which what is made of axes that can be read in several ways is added.

    Raises:
        DataError: they are no images, or can be read in two ways.
    """
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"data.layout={layout}: name each axis of the file once, such as NHW, NCHW, NHWC or HWCN")
    shape = images.shape
    if images.ndim not in (3, 4) or 0 in shape[1:]:
        remedy = ""
        if images.ndim == 2:
            side = isqrt(shape[1])
            sides = f"{side}, {side}" if side * side == shape[1] > 1 else "height, width"
            remedy = f"; rows of pixels become images by x.reshape(-1, {sides})"
        raise DataError(f"{what} has shape {shape}: images are (N, H, W), (N, C, H, W) or (N, H, W, C){remedy}")
    if layout is None:
        layout = _find_layout(what, shape, domain, guesses)
    elif len(layout) != images.ndim:
        raise DataError(
            f"{what} has shape {shape}, and data.layout={layout} names {len(layout)} axes; name all of them"
        )
    if "C" not in layout:
        return images.transpose([layout.index(axis) for axis in "NHW"])[:, None]
    return images.transpose([layout.index(axis) for axis in "NCHW"])


def _find_layout(what: str, shape: tuple[int, ...], domain: Domain, guesses: list[str]) -> str:
    """The layout of an array of this shape."""
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
