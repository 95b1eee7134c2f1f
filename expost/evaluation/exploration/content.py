"""What of a report can be explored: latents as points on a plane, and one latent dimension at a time.

A run keeps it as `exploration.json` beside two files of small images; the page holds all three. Numbers and pictures
alone: nothing of it is ever executed.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expost.evaluation.errors import EvaluationError
from expost.evaluation.records import Record

CONTENT, POINTS, STEPS = "exploration.json", "points.jpg", "traversals.jpg"
"""The files: numbers, the image of each point, and those of the traversals."""
MOST_JSON_BYTES, MOST_SPRITE_BYTES = 2**22, 1_800_000
MOST_STEP_BYTES = 400_000
"""With the pictures of a run, a page of all of them stays below 5 MB."""
MOST_POINTS, MOST_DRAWS = 10_000, 2_000
"""Of q(z), and of each prior: a draw has to be decoded, where a test image is there."""
UNKNOWN = -1
"""In place of the number of a class."""
DIGITS = 4


@dataclass(frozen=True)
class Cloud(Record):
    """Draws of one density, as points on the plane.

    Attributes:
        name: of the density.
        role: "posterior", "baseline" or "learned", which decides its colour.
        noun: what one of them is, as "test image".
        x, y: a place each, in units of the latents.
        rows: the number of each in its split; None: of draws, or all of the split in its order.
        labels: the number of the class of each, -1 where it has none; None: nobody knows.
        first: number of the image of the first one among those of the points; the others follow. None: no images.
    """

    name: str
    role: str
    noun: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    rows: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    first: int | None = None


@dataclass(frozen=True)
class Sprite(Record):
    """Where in its file each image is: row by row, each in the upper left corner of a place of its own; in pixels.

    Attributes:
        num: images.
        columns: places in a row.
        height, width: of an image.
        place_height, place_width: from one to the next.
    """

    num: int
    columns: int
    height: int
    width: int
    place_height: int
    place_width: int


@dataclass(frozen=True)
class Traversal(Record):
    """One latent dimension: what it is called, and the values that it takes, the others staying as they are."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Traversals(Record):
    """Decoded latents in which one number was changed.

    Attributes:
        starts: the latents that were changed, in words.
        dims: which of their numbers, each in turn; all have equally many values.
        steps: the images: of each start, of each dimension, of each value.
        notes: in words.
    """

    starts: tuple[str, ...]
    dims: tuple[Traversal, ...]
    steps: Sprite
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exploration(Record):
    """Attributes:
    titles: of both axes; an empty one of an axis that has no variance.
    low, high: the frame, x and y.
    clouds: that of q(z) first.
    class_names: by number.
    points: images of the points; None: there are none.
    traversals: None: nothing decodes, or its latents have no dimensions to move along.
    notes: in words.
    """

    titles: tuple[str, str]
    low: tuple[float, float]
    high: tuple[float, float]
    clouds: tuple[Cloud, ...]
    class_names: tuple[str, ...] = ()
    points: Sprite | None = None
    traversals: Traversals | None = None
    notes: tuple[str, ...] = field(default=())

    def check(self) -> None:
        """
        Raises:
            EvaluationError: its parts do not belong together.
        """
        for cloud in self.clouds:
            num = len(cloud.x)
            of_each = [cloud.y, *(values for values in (cloud.rows, cloud.labels) if values is not None)]
            if any(len(values) != num for values in of_each):
                raise EvaluationError(f"{CONTENT}: {cloud.name} has {num:,} points, and not as many of something else")
            if any(not UNKNOWN <= label < len(self.class_names) for label in cloud.labels or ()):
                raise EvaluationError(f"{CONTENT}: {cloud.name} has labels of more classes than have names")
            num_images = 0 if self.points is None else self.points.num
            if cloud.first is not None and not 0 <= cloud.first <= num_images - num:
                raise EvaluationError(f"{CONTENT}: {cloud.name} has points without an image")
        if (some := self.traversals) is not None:
            counts = {len(dim.values) for dim in some.dims}
            if len(counts) != 1 or some.steps.num != len(some.starts) * len(some.dims) * counts.pop():
                raise EvaluationError(f"{CONTENT}: the images of the traversals are not one a step")

    def save(self, folder: Path) -> None:
        """Write its numbers; its images are written where they are made.

        Raises:
            EvaluationError: its parts do not belong together.
        """
        self.check()
        content = json.dumps(self.to_json(), allow_nan=False, separators=(",", ":"))
        (folder / CONTENT).write_text(content, encoding="utf-8")


def num_points(num: int) -> int:
    """Points of q(z) and of two priors that a page holds where each set has `num` latents."""
    return min(num, MOST_POINTS) + 2 * min(num, MOST_DRAWS)


def round_to(values: Sequence[float], span: float) -> tuple[float, ...]:
    """To one part in ten thousand of `span`, which no picture shows."""
    decimals = DIGITS - math.floor(math.log10(span)) if span > 0 else DIGITS
    return tuple(round(value, decimals) for value in values)


def page_data(exploration: Exploration, points: bytes | None, steps: bytes | None) -> dict[str, Any]:
    """What a page holds of it; the files of images are within it, as addresses that ask nobody."""
    data = exploration.to_json()
    if data["points"] is not None and points is not None:
        data["points"]["address"] = data_address(points)
    if data["traversals"] is not None and steps is not None:
        data["traversals"]["steps"]["address"] = data_address(steps)
    return data


def data_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
