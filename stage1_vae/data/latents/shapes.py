"""What one latent is, by the shape of an array of them: a vector, a map, a sequence or a map of codes, bits.

Files name no axes. Of four, one of the ends counts channels; the other two are height and width, and mostly equal.
What is decided by sizes is said, and what they do not decide is asked for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from stage1_vae.data.images import DataError
from stage1_vae.data.latents.data import LatentStyle
from stage1_vae.latents import LatentSpec, Support
from stage1_vae.latents.numbers import check_codebook, check_grids

OURS = "CHW"
AXES = tuple("N" + "".join(axes) for names in ("CHW", "HW", "CW", "CH") for axes in permutations(names))
Arrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """How one array becomes one parameter.

    Attributes:
        kind: what its numbers are, see `stage1_vae.latents.numbers`.
        arrange: rows as the file holds them -> [n, *event].
    """

    kind: str
    arrange: Arrange


@dataclass(frozen=True)
class Shapes:
    """What arrays of this shape hold.

    Attributes:
        event: shape of one latent.
        support: where it lives.
        family: of the posteriors.
        axes: see `LatentStyle`.
        file_shape: of one latent as files hold it, without a second half of moments.
        grids: of codes.
    """

    event: tuple[int, ...]
    support: Support
    family: str
    axes: tuple[int, ...]
    file_shape: tuple[int, ...]
    grids: tuple[tuple[int, int], ...] = ()

    def readings(self, kinds: Sequence[str]) -> dict[str, tuple[str, Reading]]:
        """Parameter -> the kind of array that it comes from, and how."""
        kind = kinds[0]
        if kind == "moments":
            channels = self.event[0]
            return {
                "loc": (kind, Reading("loc", lambda rows: self._ours(rows)[:, :channels])),
                "log_std": (kind, Reading("clipped_log_var", lambda rows: self._ours(rows)[:, channels:])),
            }
        if kind == "loc":
            readings = {"loc": (kind, Reading(kind, self._ours))}
            for spread in kinds[1:]:
                readings["log_std"] = (spread, Reading(spread, self._ours))
            return readings
        name = "codes" if kind == "codes" else "logits"
        return {name: (kind, Reading(kind, lambda rows: rows.reshape(len(rows), *self.event)))}

    def _ours(self, rows: np.ndarray) -> np.ndarray:
        """Rows as files hold them -> [n, C, h, w] or [n, D]."""
        if not self.axes:
            return rows
        ordered = rows.transpose(0, *(1 + place for place in np.argsort(self.axes)))
        missing = [1 + axis for axis in range(len(OURS)) if axis not in self.axes]
        return np.expand_dims(ordered, tuple(missing))

    def spec(self, num_codes: tuple[int, ...], num_classes: int) -> LatentSpec:
        return LatentSpec(self.event, self.support, self.grids, num_codes, num_classes)

    def style(self, kind: str, name: str, dtype: str, label_name: str, suffix: str) -> LatentStyle:
        """How draws are written: as `name` in `dtype`, but where those are of something else than a latent."""
        if kind == "moments":
            name = "latents"
        elif kind in ("logits", "probs"):
            name, dtype = "bits", "uint8"
        return LatentStyle(name, dtype, self.file_shape, self.axes, label_name, suffix)


def shapes_of(
    what: str,
    kinds: Sequence[str],
    shape: tuple[int, ...],
    axes: str | None,
    grids: Sequence[Sequence[int]] | None,
    guesses: list[str],
) -> Shapes:
    """What an array of latents of this shape holds.

    Args:
        what: the array, for the user.
        kinds: what it is, one of `EVENTS`, and of its spread, if there is one.
        shape: of the whole.
        axes, grids: of `data.axes` and `data.grids`.
        guesses: to which is added what sizes have decided.

    Raises:
        DataError: it holds none, or can be read in two ways.
    """
    if len(shape) < 2 or 0 in shape:
        remedy = "; a number a latent is x[:, None]" if len(shape) == 1 and 0 not in shape else ""
        raise DataError(f"{what} has shape {shape}, which is no latents: save one row a latent{remedy}")
    kind = kinds[0]
    if kind not in ("loc", "moments") and axes is not None:
        raise DataError(f"data.axes={axes} is for maps of real numbers, and {what} holds {kind}: leave it out")
    if kind != "codes" and grids is not None:
        raise DataError(f"data.grids is for codes, and {what} holds {kind}: leave it out")
    if kind == "codes":
        own_grids = _grids(what, shape[1:], grids)
        if len(shape) == 3 and grids is None:
            guesses.append(f"maps of {shape[1]}x{shape[2]} codes (data.grids otherwise)")
        return Shapes((math.prod(shape[1:]),), Support.CODES, "codes", (), shape[1:], own_grids)
    if kind in ("bits", "logits", "probs"):
        return Shapes((math.prod(shape[1:]),), Support.BITS, "bits", (), shape[1:])
    family = "diagonal_normal" if kind == "moments" or len(kinds) > 1 else "delta"
    order = _axes(what, shape, axes, guesses)
    sizes = {axis: shape[1 + place] for place, axis in enumerate(order)}
    event = tuple(sizes.get(axis, 1) for axis in range(len(OURS))) if order else shape[1:]
    file_shape = shape[1:]
    if kind == "moments":
        if event[0] % 2:
            raise DataError(
                f"{what} has shape {shape}: moments are means and log-variances stacked on channels, and {event[0]} is "
                "odd; set data.axes, or data.loc where they are means alone"
            )
        channels = order.index(0) if order else 0
        event = (event[0] // 2, *event[1:])
        file_shape = tuple(n // 2 if place == channels else n for place, n in enumerate(file_shape))
    return Shapes(event, Support.REAL, family, order, file_shape)


def _axes(what: str, shape: tuple[int, ...], axes: str | None, guesses: list[str]) -> tuple[int, ...]:
    """Which of our axes stands at each place behind the first; () for vectors."""
    if axes is not None and axes not in AXES:
        raise DataError(f"data.axes={axes}: name each axis of the file once, N first, such as NCHW, NHWC or NWC")
    if axes is not None and len(axes) != len(shape):
        raise DataError(f"{what} has shape {shape}, and data.axes={axes} names {len(axes)} axes; name all of them")
    if axes is not None:
        return tuple(OURS.index(axis) for axis in axes[1:])
    if len(shape) == 2:
        return ()
    if len(shape) == 3:
        raise DataError(
            f"{what} has shape {shape}: name its axes, data.axes=NWC for {shape[1]} vectors of {shape[2]}, NCW for "
            f"{shape[2]} of {shape[1]}, or NHW for a map of one channel"
        )
    if len(shape) != 4:
        raise DataError(
            f"{what} has shape {shape}: latents are vectors (N, D) or maps (N, C, h, w); reshape them to (N, "
            f"{math.prod(shape[1:])})"
        )
    _, one, two, three = shape
    first = two == three != one or (not one == two != three and one < min(two, three))
    last = one == two != three or (not two == three != one and three < min(one, two))
    if first == last:
        raise DataError(
            f"{what} has shape {shape}, which is {one} channels of {two}x{three} or {three} channels of {one}x{two}: "
            "set data.axes=NCHW or data.axes=NHWC"
        )
    name, other, channels = ("NCHW", "NHWC", one) if first else ("NHWC", "NCHW", three)
    guesses.append(f"axes read as {name}, {channels} channels (data.axes={other} otherwise)")
    return tuple(OURS.index(axis) for axis in name[1:])


def _grids(what: str, shape: tuple[int, ...], grids: Sequence[Sequence[int]] | None) -> tuple[tuple[int, int], ...]:
    """The maps that a row of codes lays end to end."""
    if grids is not None:
        try:
            named = tuple((int(height), int(width)) for height, width in grids)
            check_grids(named, math.prod(shape), "data.grids")
        except (TypeError, ValueError) as error:
            reason = str(error) if str(error).startswith("data.grids") else f"data.grids={list(grids)}"
            raise DataError(
                f"{what} has {math.prod(shape)} codes a row; {reason}; such as data.grids=[[4,4],[8,8]]"
            ) from error
        return named
    if len(shape) > 2:
        raise DataError(
            f"{what} has codes of shape {shape} a row: name the maps in their order, such as data.grids="
            f"[{','.join([f'[{shape[-2]},{shape[-1]}]'] * math.prod(shape[:-2]))}]"
        )
    return ((1, *shape)[-2:],) if len(shape) == 1 else ((shape[0], shape[1]),)


def code_sizes(num_codes: int | Sequence[int] | None, num_grids: int) -> tuple[int, ...] | None:
    """Codebook sizes of `data.num_codes`, one a grid; None where it is not given.

    Raises:
        DataError: no sizes, or of another number of grids.
    """
    if num_codes is None:
        return None
    sizes = [num_codes] * num_grids if isinstance(num_codes, int) else list(num_codes)
    if len(sizes) != num_grids:
        raise DataError(f"data.num_codes={sizes}: {num_grids} maps of codes; give one size, or one a map")
    try:
        return tuple(check_codebook(size, "data.num_codes") for size in sizes)
    except ValueError as error:
        raise DataError(str(error)) from error
