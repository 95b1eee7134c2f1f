"""What a page holds to be explored: strict JSON whose parts belong together, and a frame that says what is outside."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expost.evaluation.errors import EvaluationError
from expost.evaluation.exploration.content import (
    CONTENT,
    Cloud,
    Exploration,
    Traversal,
    Traversals,
    frame,
    page_data,
    round_to,
)
from expost.evaluation.exploration.sprites import Sprite

CLOUD = Cloud("q(z)", "posterior", "test image", (0.0, 1.0), (0.5, -0.5), 2, rows=(0, 1), labels=(1, -1), first=0)
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


def test_the_frame_leaves_strays_outside_and_says_so() -> None:
    torch.manual_seed(0)
    points = torch.randn(9999, 2).double()
    low, high, notes = frame({"q(z)": torch.cat([points, torch.tensor([[1e30, 0.0]]).double()]), "mixture": points / 2})
    assert max(map(abs, low + high)) < 6
    assert notes[0].startswith("q(z): ") and "10,000 points lie beyond the frame" in notes[0]
    low, high, notes = frame({"one": torch.tensor([[3.0, 3.0]]).double()})
    assert low[0] < 3 < high[0] and low[1] < 3 < high[1] and notes == []
    with pytest.raises(EvaluationError, match="no latent is finite"):
        frame({"none": torch.empty(0, 2).double()})


@pytest.mark.parametrize("span", [1e-9, 1.0, 123.0, 1e9])
def test_places_are_as_exact_as_a_picture_needs(span: float) -> None:
    values = [math.pi * span, -math.e * span / 7]
    assert all(abs(a - b) < 1e-4 * span for a, b in zip(values, round_to(values, span), strict=True))
    assert round_to([1.23456789], 0.0) == (1.2346,)
