"""What was taken of the user's files: one line, the same facts in every report, and a sheet to look at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import report_of, run_here
from PIL import Image

from expost.evaluation.figures import image_sheet
from expost.evaluation.sections import Dataset
from expost.parts.dataset import dataset_facts, dataset_line, describe
from stage1_vae.data.arrays import Arrays
from stage1_vae.data.images import DataError
from stage1_vae.data.labels import class_number, class_values, list_names, sort_names

FAST = ("debug=fast", "logger=csv", "prior=gaussian")


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Images of 26 classes called 1 to 26, of 17 levels, in a file with one more array."""
    rng = np.random.default_rng(0)
    labels = np.arange(260) % 26 + 1
    images = rng.integers(0, 17, (260, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "letters.npz", images=images, labels=labels[:, None], writer=labels)
    return tmp_path / "letters.npz"


def test_one_line_says_what_was_taken_guessed_and_left(letters: Path) -> None:
    data = Arrays(str(letters)).load()
    line = dataset_line(data)
    assert "\n" not in line
    for words in (
        "letters: 182 training, 26 validation, 52 test, 1x8x8",
        "17 levels, 0 to 16 seen",
        "26 classes: 1, 2, 3, 4, 5, ...",
        "images from images, labels from labels (data.x, data.label)",
        "data.levels=256",
        "left out arrays writer",
    ):
        assert words in line, line
    facts = dataset_facts(data)
    assert Dataset.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    assert facts.num_images == {"train": 182, "val": 26, "test": 52} and facts.class_names[-1] == "26"
    assert describe(facts)["left out"] == "arrays writer (data.x=NAME, data.label=NAME)"


def test_every_report_has_it(letters: Path, tmp_path: Path) -> None:
    result = run_here(tmp_path, *FAST, "data=arrays", f"data.root={letters}")
    assert result.code == 0, result.err
    assert result.out.startswith("data       letters: 182 training")
    report = report_of(tmp_path)
    assert report["dataset"] == dataset_facts(Arrays(str(letters)).load()).to_json()
    page = (tmp_path / "runs/latest/report.html").read_text(encoding="utf-8")
    assert "<h2>Images</h2>" in page and "arrays writer" in page
    result = run_here(tmp_path, *FAST, "data=arrays", f"data.root={letters}", "stage=export", "export.out=model")
    assert result.code == 0, result.err
    card = (tmp_path / "model/README.md").read_text(encoding="utf-8")
    assert "| left out | arrays writer" in card and "| classes | 26 (1, 2, 3, 4, 5, ...) |" in card


def test_check_says_it_first_and_leaves_a_sheet(letters: Path, tmp_path: Path) -> None:
    result = run_here(tmp_path, "stage=check", "prior=gaussian", "data=arrays", f"data.root={letters}")
    assert result.code == 0, result.err
    first, second, *_ = result.out.splitlines()
    assert first.startswith("data       letters: 182 training") and "runs/check-images.png" in second
    with Image.open(tmp_path / "runs/check-images.png") as sheet:
        assert sheet.format == "PNG" and min(sheet.size) > 200
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["check-images.png"]


def test_the_sheet_shows_images_the_right_way_up(tmp_path: Path) -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 0, :], image[0, 0, :, 0] = 0.5, 0.25  # a line on top, another on the left
    image_sheet(image.expand(3, -1, -1, -1), ["a", "b", "$_$" * 9], "a sheet", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as opened:
        pixels = np.asarray(opened.convert("L")).astype(int)
    black = np.argwhere(pixels == 0)
    (top, left), side = black.min(0), 5  # of the first tile; each pixel is enlarged to so many
    assert abs(pixels[top - 1, left] - 128) <= 1 and abs(pixels[top, left - 1] - 64) <= 1
    assert (pixels[top - side - 1, left], pixels[top, left - side - 1]) == (255, 255)
    with pytest.raises(ValueError, match="1 captions for 3 images"):
        image_sheet(image.expand(3, -1, -1, -1), ["a"], "a sheet", tmp_path / "sheet.png")


def test_names_are_what_users_give() -> None:
    assert sort_names(["10", "2", "1"]) == ("1", "2", "10") and sort_names(["10", "2", "b"]) == ("10", "2", "b")
    numbers = sort_names(list(map(str, range(12))))
    assert [class_number(name, numbers) for name in (2, "2", 11)] == [2, 2, 11]
    letters = tuple(map(str, range(1, 27)))
    assert class_number(1, letters) == 0 and class_number(26, letters) == 25 and class_number("07", letters) == 6
    words = ("cat", "dog", "zebra")
    assert class_number("dog", words) == 1 and class_number(2, words) == 2
    assert class_number(-1, ("-1", "1")) == 0
    for label, names, reason in (
        (10, tuple("0123456789"), "label 10 is out of range; the classes are 0 to 9"),
        (0, letters, "no class 0; the classes are 1, 2, 3, 4, 5, ..."),
        ("dgo", words, "did you mean dog?"),
        (3, words, "no class 3"),
    ):
        with pytest.raises(DataError, match=reason.replace("?", r"\?").replace("...", r"\.\.\.")):
            class_number(label, names)
    assert list_names(["a\nb", *"cdefg"]) == "a b, c, d, e, f, ..."


def test_a_label_is_drawn_by_its_name(tmp_path: Path) -> None:
    """Each class has a brightness of its own, and a name that is not its number."""
    labels = np.arange(600) % 3 * 4 + 1  # called 1, 5, 9
    images = np.clip(labels * 25 + np.random.default_rng(0).integers(0, 6, (6, 6, 600)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x=images.transpose(2, 0, 1), label=labels)
    settings = ["data=arrays", "data.root=set.npz", "prior.conditional=true", "prior.num_components=1", "logger=csv"]
    settings += ["trainer.max_steps=300", "stage=sample", "sample.num=20"]
    for label in (5, 9):
        result = run_here(tmp_path, *settings, f"sample.label={label}", "sample.out=out.npz")
        assert result.code == 0, result.err
        assert abs(np.load(tmp_path / "out.npz")["x"].mean() - (25 * label + 2.5)) < 30
    result = run_here(tmp_path, *settings, "sample.label=2")
    assert result.code == 2 and "no class 2; the classes are 1, 5, 9" in result.err


def test_the_sheet_puts_the_right_name_below_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shades = np.arange(120, dtype=np.uint8) % 3 * 100 + 20
    np.savez(tmp_path / "set.npz", x=np.broadcast_to(shades[:, None, None], (120, 6, 6)), label=shades)
    drawn: list[tuple[torch.Tensor, list[str]]] = []

    def draw(images: torch.Tensor, names: list[str], _: str, path: Path) -> None:
        drawn.append((images, list(names)))
        path.touch()

    monkeypatch.setattr("expost.evaluation.figures.image_sheet", draw)
    result = run_here(tmp_path, "stage=check", "prior=gaussian", "data=arrays", "data.root=set.npz")
    assert result.code == 0, result.err
    ((images, names),) = drawn
    assert [round(255 * image.mean().item()) for image in images] == list(map(int, names))
    assert sorted(names, key=int) == names and len(set(names)) == 3 and 30 <= len(names) <= 40


def test_drawn_latents_carry_the_label_that_the_file_has(tmp_path: Path) -> None:
    labels = np.arange(120) % 3 + 5  # called 5, 6, 7
    np.savez(tmp_path / "set.npz", loc=np.random.default_rng(0).normal(size=(120, 2)).astype("f4"), y=labels)
    settings = ("data=latents", "data.root=set.npz", "prior=gaussian", "prior.conditional=true", "logger=csv")
    done = run_here(tmp_path, *settings, "stage=sample", "sample.num=9", "sample.label=6", "sample.out=out.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "out.npz") as drawn:
        assert drawn["y"].tolist() == [6] * 9 and drawn["loc"].shape == (9, 2)
    assert class_values(("cat", "dog")).tolist() == [0, 1] and class_values(("-1", "01")).tolist() == [-1, 1]
    assert class_values(("1", "01")).tolist() == [0, 1]  # which of them, a number could not say
