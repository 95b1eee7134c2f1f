"""stage=score: what one model says of images that somebody has, by real runs in little."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, assert_refused, report_of, run_here
from PIL import Image

from stage1_vae.data.digits import Digits
from stage1_vae.data.images import subset

NUM_TEST = 256
"""Of the digits' test images, as many as debug=fast measures."""
DRAWS = (*SMALL, "evaluation.importance_samples=64", "limits.tokens=null")
"""All images share their draws, whose chance does not average out over images as that of the report does."""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def digits(num: int = NUM_TEST) -> np.ndarray:
    """Test images, uint8 [n, 8, 8] of 17 levels, evenly spread as those that are measured."""
    test = subset(Digits().load().test, num)
    return test.batch(torch.arange(len(test))).numpy()[:, 0]


def noise(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (num, 8, 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated, and its test images with three of noise behind them, scored."""
    folder = tmp_path_factory.mktemp("scored")
    np.savez(folder / "new.npz", x=np.concatenate([digits(), noise(3)]))
    assert run_here(folder, *DRAWS).code == 0
    done = run_here(folder, *DRAWS, "stage=score", "score.root=new.npz", "score.out=scores.csv")
    assert done.code == 0, done.err
    assert done.stages("skipped") == ["vae", "latents", "prior", "features"]
    assert done.stages("done in") == ["reference", "scores"]
    assert "given      new.npz: 259 images, 1x8x8; 0 to 16 seen" in done.out.splitlines()
    return folder


def test_test_images_get_the_figures_of_the_report(root: Path) -> None:
    rows = rows_of(root / "scores.csv")[:NUM_TEST]
    learned = report_of(root)["rows"]["mixture"]
    assert np.mean(column(rows, "distortion_nats")) == pytest.approx(learned["distortion_nats"], abs=1)
    assert -np.mean(column(rows, "log_prob_bound_nats")) == pytest.approx(learned["iwae_nats"], abs=1)
    assert -np.mean(column(rows, "log_prob_z_nats")) == pytest.approx(learned["latent_nll_nats"], abs=0.5)
    assert np.mean(column(rows, "bits_per_dim")) == pytest.approx(learned["bits_per_dim"], abs=0.02)
    assert np.mean(column(rows, "test_likelier_percent")) == pytest.approx(50)
    assert np.mean(column(rows, "novelty_percent")) == pytest.approx(50)


def test_noise_is_less_likely_and_farther_than_every_digit(root: Path) -> None:
    rows = rows_of(root / "scores.csv")
    of_noise = rows[NUM_TEST:]
    assert all(row["test_likelier_percent"] == "100" for row in of_noise)
    assert column(of_noise, "log_prob_bound_nats").max() < column(rows[:NUM_TEST], "log_prob_bound_nats").min()
    assert column(of_noise, "novelty_percent").min() > 90 and "100" in {row["novelty_percent"] for row in of_noise}
    assert [row["row"] for row in of_noise] == ["256", "257", "258"] and of_noise[0]["name"] == "new.npz"


def test_a_score_depends_on_no_other_image_and_comes_again_to_the_byte(root: Path) -> None:
    before = rows_of(root / "scores.csv")
    content = (root / "scores.csv").read_bytes()
    again = run_here(root, *DRAWS, "stage=score", "score.root=new.npz", "score.out=scores.csv")
    assert again.stages("skipped")[-2:] == ["reference", "scores"] and (root / "scores.csv").read_bytes() == content
    np.save(root / "few.npy", np.concatenate([noise(2), digits()[[200, 7]]]))
    assert run_here(root, *DRAWS, "stage=score", "score.root=few.npy", "score.out=few.csv").code == 0
    few, same = rows_of(root / "few.csv"), [before[row] for row in (256, 257, 200, 7)]
    for name in ("log_prob_bound_nats", "rate_nats", "distortion_nats", "log_prob_z_nats", "nearest_distance"):
        assert column(few, name) == pytest.approx(column(same, name), abs=1e-3), name
    assert [row["nearest_training_row"] for row in few] == [row["nearest_training_row"] for row in same]


def test_the_page_and_the_pictures_lie_in_the_runs_folder(root: Path) -> None:
    folder = max(path for path in (root / "runs").iterdir() if (path / "score.html").exists())
    page = (folder / "score.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") == 2 and "The least likely" in page and "% of test images" in page
    with Image.open(folder / "score.png") as sheet, Image.open(folder / "score-standing.png") as chart:
        assert min(*sheet.size, *chart.size) > 100


def test_a_folder_of_pictures_finds_its_training_images_by_name(tmp_path: Path) -> None:
    images = digits(60) * 15
    for place in ("train", "new"):
        (tmp_path / place).mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"train/{i:02d}.png")
    words = ("data=image_folder", "data.root=train", "data.classes=none", "prior.num_components=2")
    Image.fromarray(images[0]).save(tmp_path / "new/one, of.png")
    done = run_here(tmp_path, *SMALL, *words, "stage=score", "score.root=new", "score.out=s.csv")
    assert done.code == 0, done.err
    (row,) = rows_of(tmp_path / "s.csv")
    assert row["name"] == "one, of.png" and row["nearest_training_name"].endswith(".png")
    if row["nearest_distance"] == "0":  # it was a training image
        assert row["nearest_training_name"] == "00.png"
    assert "% of test images are nearer to a training image" in done.out


def test_point_masses_have_no_bound(tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", digits())
    words = (*SMALL, "vae=delta")
    done = run_here(tmp_path, *words, "stage=score", "score.root=new.npy", "score.out=s.csv")
    assert "no bound on log p(x): q(z|x) are point masses" in done.out, done.err
    rows = rows_of(tmp_path / "s.csv")
    for name in ("log_prob_bound_nats", "bits_per_dim", "rate_nats", "test_likelier_percent"):
        assert {row[name] for row in rows} == {""}
    assert run_here(tmp_path, *words).code == 0
    learned = report_of(tmp_path)["rows"]["mixture"]
    assert -np.mean(column(rows, "log_prob_z_nats")) == pytest.approx(learned["latent_nll_nats"], rel=1e-4)
    assert np.mean(column(rows, "distortion_nats")) == pytest.approx(learned["distortion_nats"], rel=1e-4)


def test_latents_are_scored_without_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(200, 4)).astype(np.float32)
    np.savez(tmp_path / "fitted.npz", loc=loc, std=np.full_like(loc, 0.1))
    np.savez(tmp_path / "new.npz", loc=np.concatenate([loc[:5], [[9.0, 9, 9, 9]]]), std=np.full((6, 4), 0.1))
    words = (*SMALL, "data=latents", "data.root=fitted.npz", "prior.num_components=2")
    done = run_here(tmp_path, *words, "stage=score", "score.root=new.npz", "score.out=s.csv")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "s.csv")
    assert rows[-1]["test_likelier_z_percent"] == rows[-1]["novelty_percent"] == "100"
    assert {row["log_prob_bound_nats"] + row["distortion_nats"] for row in rows} == {""}
    assert np.isfinite(column(rows, "rate_nats")).all()
    assert "no bound on log p(x): there are no images" in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["stage=score", "score.root=FILE or FOLDER"]),
        ("score.root=gone", ["score.root=gone does not exist"]),
        ("score.root=new.npy score.out=s.txt", ["score.out=s.txt", "FILE.csv"]),
        ("score.root=new.npy score.out=new.csv", ["score.out=new.csv", "holds no scores"]),
        ("score.root=new.npy score.out=gone/s.csv", ["the folder", "does not exist"]),
        ("score.root=. score.out=s.csv", ["score.out=s.csv lies where score.root=. is read from"]),
        ("score.root=new.npy data=mixture_rings", ["holds images of 1x8x8", "this model is of 1x1x2"]),
        ("score.root=large.npy", ["holds images of 1x9x9", "1x8x8", "bring them to that shape"]),
        ("score.root=new.npy score.num_pictured=0", ["score.num_pictured=0"]),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_work(tmp_path: Path, words: str, expected: list[str]) -> None:
    np.save(tmp_path / "new.npy", digits(4))
    np.save(tmp_path / "large.npy", np.zeros((2, 9, 9), np.uint8))
    (tmp_path / "new.csv").write_text("mine", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(run_here(tmp_path, *SMALL, "stage=score", *words.split()), tmp_path, *expected, before=before)
