"""What a report takes of a stored exploration: nothing of an older evaluation, and one line where it is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from expost.base.errors import UserError
from expost.evaluation.exploration.content import CONTENT, POINTS
from expost.stages.report import stored_exploration
from expost.store.artifacts import Artifact

CLOUD = {"name": "q(z)", "role": "posterior", "noun": "test image", "x": [0.0], "y": [1.0], "first": 0}
SPRITE = {"num": 1, "columns": 1, "height": 8, "width": 8, "place_height": 8, "place_width": 8}
STORED: dict[str, Any] = {"titles": ["a", ""], "low": [0, 0], "high": [1, 1], "clouds": [CLOUD], "points": SPRITE}


def test_an_older_evaluation_has_none(tmp_path: Path) -> None:
    assert stored_exploration(Artifact("evaluation", "k", tmp_path)) is None


def test_it_is_handed_to_the_page_with_its_images(tmp_path: Path) -> None:
    (tmp_path / CONTENT).write_text(json.dumps(STORED), encoding="utf-8")
    (tmp_path / POINTS).write_bytes(b"a picture")
    found = stored_exploration(Artifact("evaluation", "k", tmp_path))
    assert found["clouds"][0]["x"] == [0.0] and found["points"]["address"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(STORED), "points.jpg"),  # which is not there
        (json.dumps(STORED | {"clouds": [CLOUD | {"y": []}]}), "not as many of something else"),
        (json.dumps(STORED | {"clouds": "all"}), "is of type str"),
        (json.dumps(STORED).replace("1.0", "NaN"), "no JSON that may be read"),
        ("[" * 100, "no JSON that may be read"),
        ("{}", "holds no titles"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_remedy(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / CONTENT).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        stored_exploration(Artifact("evaluation", "k", tmp_path))
    message = str(refused.value)
    assert words in message and "\n" not in message and f"move {tmp_path} away" in message
