"""How scores stand among those of test images, and the table that tells it."""

import csv
from pathlib import Path

import pytest
import torch

from expost.evaluation.nouns import IMAGES
from expost.evaluation.scores.pictures import Ranked, captions, draw_ranked, draw_standing
from expost.evaluation.scores.table import COLUMNS, Scores, Standing, percent_above, write_csv

TEST = Scores(torch.tensor([0.0, 1, 2, 3]), nearest_distance=torch.tensor([1.0, 2, 3, 4]))


def test_percent_above_counts_ties_half() -> None:
    values = torch.tensor([-1.0, 0, 0.5, 3, 9, float("nan"), -float("inf"), float("inf")])
    expected = [100, 87.5, 75, 12.5, 0, 100, 100, 0]
    assert percent_above(values, torch.tensor([0.0, 1, 2, 3])).tolist() == expected


def test_what_is_far_is_novel_and_what_is_not_measured_stands_nowhere() -> None:
    standing = Standing.of(Scores(torch.tensor([-1.0, 2.5]), nearest_distance=torch.tensor([5.0, 0.0])), TEST)
    assert standing.likelier.tolist() == [100, 25] and standing.nearer.tolist() == [100, 0]
    assert standing.likelier_z is None and standing.ranked is standing.likelier


def test_the_ranking_is_by_what_there_is() -> None:
    one = torch.tensor([1.0])
    assert Scores(one, log_prob_z_nats=2 * one).ranking[1] == 1
    assert Scores(log_prob_z_nats=2 * one, distortion_nats=3 * one).ranking[1] == 2
    assert Scores(distortion_nats=3 * one).ranking[1] == -3
    with pytest.raises(ValueError, match="nothing ranks"):
        Scores().ranking  # noqa: B018


def test_names_of_any_kind_stand_in_the_table_as_they_are(tmp_path: Path) -> None:
    names = ['a,b "c".png', "line\nbreak.png", "ü.png", "\udcff.png"]
    scores = Scores(torch.tensor([-10.0, -20, 2, float("-inf")]), nearest=torch.arange(4))
    standing, path = Standing.of(scores, TEST), tmp_path / "scores.csv"
    write_csv(path, scores, standing, 4, lambda row: (names[row], row), lambda row: f"t{row}", (8, 1))
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == COLUMNS and [row[0] for row in rows] == names
    by_name = [dict(zip(head, row, strict=True)) for row in rows]
    assert by_name[0]["log_prob_bound_nats"] == "-10" and float(by_name[0]["bits_per_dim"]) == pytest.approx(1.803369)
    assert by_name[3]["log_prob_bound_nats"] == "-inf" and by_name[3]["test_likelier_percent"] == "100"
    assert by_name[1]["nearest_training_name"] == "t1" and by_name[1]["nearest_distance"] == ""


@pytest.mark.parametrize("num", [1, 9, 70])
def test_pictures_of_few_and_many_and_of_what_is_far_off(tmp_path: Path, num: int) -> None:
    values = torch.linspace(-1e6, 3, num)
    values[0] = -float("inf")
    scores = Scores(values, nearest_distance=torch.full((num,), 2.0), nearest=torch.zeros(num, dtype=torch.int64))
    standing, names = (
        Standing.of(scores, TEST),
        dict.fromkeys(range(num), "a $name$ of many $ letters, and of more.png"),
    )
    order = values.argsort(descending=True)[:9]
    below = captions(order, scores, standing, names)
    images = torch.rand(len(order), 1, 5, 7)
    draw_ranked([Ranked("most likely", "#000000", images, None, below)] * 2, tmp_path / "ranked.png")
    draw_ranked([Ranked("most likely", "#000000", images, images, below)], tmp_path / "pairs.png")
    draw_standing(scores, TEST, IMAGES, tmp_path / "standing.png")
    assert {path.name for path in tmp_path.iterdir()} == {"ranked.png", "pairs.png", "standing.png"}
    assert (
        below[0][-1].startswith("…")
        and below[0][-1].endswith("etters, and of more.png")
        and all(len(lines) == 4 for lines in below)
    )
