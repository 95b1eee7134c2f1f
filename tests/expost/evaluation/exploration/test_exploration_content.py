"""What a page holds to be explored: strict JSON whose parts belong together."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from expost.evaluation.errors import EvaluationError
from expost.evaluation.exploration.content import (
    CONTENT,
    Cloud,
    Exploration,
    Sprite,
    Traversal,
    Traversals,
    page_data,
    round_to,
)

CLOUD = Cloud("q(z)", "posterior", "test image", (0.0, 1.0), (0.5, -0.5), rows=(0, 1), labels=(1, -1), first=0)
STEPS = Traversals(("test image 0",), (Traversal("dimension 0", (-1.0, 1.0)),), Sprite(2, 2, 8, 8, 8, 8))
CONTENTS = Exploration(
    ("axis 1", ""), (-1.0, -1.0), (2.0, 2.0), (CLOUD,), ("a", "b"), Sprite(2, 2, 8, 8, 8, 8), STEPS, ("a note",)
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    CONTENTS.save(tmp_path)
    stored = json.loads((tmp_path / CONTENT).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert Exploration.from_json(stored) == CONTENTS
    data = page_data(CONTENTS, b"points", b"steps")
    assert data["points"]["address"] == "data:image/jpeg;base64,cG9pbnRz"
    assert data["traversals"]["steps"]["address"] == "data:image/jpeg;base64,c3RlcHM="
    bare = page_data(replace(CONTENTS, points=None, traversals=None), None, None)
    assert bare["points"] is None and bare["traversals"] is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (replace(CLOUD, y=(0.5,)), "not as many of something else"),
        (replace(CLOUD, rows=(0, 1, 2)), "not as many of something else"),
        (replace(CLOUD, labels=(0, 2)), "more classes than have names"),
        (replace(CLOUD, labels=(0, -2)), "more classes than have names"),
        (replace(CLOUD, first=1), "points without an image"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(wrong: Cloud, words: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=words):
        replace(CONTENTS, clouds=(wrong,)).save(tmp_path)
    assert not (tmp_path / CONTENT).exists()


def test_traversals_have_one_image_a_step() -> None:
    for wrong in (
        replace(STEPS, starts=("a", "b")),
        replace(STEPS, dims=()),
        replace(STEPS, dims=(*STEPS.dims, Traversal("dimension 1", (0.0,)))),
    ):
        with pytest.raises(EvaluationError, match="not one a step"):
            replace(CONTENTS, traversals=wrong).check()


@pytest.mark.parametrize("span", [1e-9, 1.0, 123.0, 1e9])
def test_places_are_as_exact_as_a_picture_needs(span: float) -> None:
    values = [math.pi * span, -math.e * span / 7]
    assert all(abs(a - b) < 1e-4 * span for a, b in zip(values, round_to(values, span), strict=True))
    assert round_to([1.23456789], 0.0) == (1.2346,)
