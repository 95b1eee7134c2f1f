"""Whole runs with other likelihoods and other images: which figures they have, and what those mean."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import report_of
from PIL import Image
from sklearn.datasets import load_digits
from whole_run import BOUNDS, DISTANCES, finite, null, run


def test_a_plain_autoencoder_has_no_rate_and_no_bound(tmp_path: Path) -> None:
    run(tmp_path, "vae=delta")
    for name in ("standard_normal", "mixture"):
        row = report_of(tmp_path)["rows"][name]
        null(row, ("rate_nats", "elbo_nats", "iwae_nats", "bits_per_dim"))
        finite(row, ("distortion_nats", "latent_nll_nats", *DISTANCES))


def test_bernoulli_on_intensities_is_called_a_cross_entropy(tmp_path: Path) -> None:
    run(tmp_path, "likelihood=bernoulli")
    for name in ("standard_normal", "mixture"):
        row = report_of(tmp_path)["rows"][name]
        null(row, ("iwae_nats", "bits_per_dim"))
        finite(row, ("distortion_nats", "rate_nats", "elbo_nats"))
        assert any("cross-entropy" in note for note in row["notes"])
    assert "cross-entropy" in (tmp_path / "runs/latest/report.html").read_text(encoding="utf-8")


def test_dynamic_binarisation_makes_it_a_mass(tmp_path: Path) -> None:
    run(tmp_path, "likelihood=bernoulli", "data.binarize=dynamic")
    for name in ("standard_normal", "mixture"):
        row = report_of(tmp_path)["rows"][name]
        finite(row, BOUNDS)
        assert row["iwae_nats"] <= row["elbo_nats"]
        assert row["bits_per_dim"] == pytest.approx(row["iwae_nats"] / 64 / math.log(2))
        assert not row["notes"]


@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "gaussian"])
def test_densities_of_dequantised_digits(likelihood: str, tmp_path: Path) -> None:
    run(tmp_path, f"likelihood={likelihood}")
    row = report_of(tmp_path)["rows"]["mixture"]
    finite(row, BOUNDS)
    assert row["bits_per_dim"] == pytest.approx(row["iwae_nats"] / 64 / math.log(2) + math.log2(17))


def digits(num: int, width: int = 8) -> np.ndarray:
    return load_digits().images[:num, :, :width] / 16


def test_float_arrays_that_are_not_square(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", digits(700, width=5).astype(np.float32))
    run(tmp_path, "data=arrays", "data.root=mine.npy")
    report = report_of(tmp_path)
    assert report["data"] == "mine" and "40 values of the pixels" in report["features"]
    finite(report["rows"]["mixture"], (*BOUNDS, *DISTANCES))


def test_real_numbers_in_arrays(tmp_path: Path) -> None:
    images = 10 * digits(700) - 4
    labels = load_digits().target[:700]
    np.savez(tmp_path / "mine.npz", x=images, label=labels)
    words = ("data=arrays", "data.root=mine.npz", "data.domain=real", "likelihood=gaussian", "likelihood.scale=1")
    run(tmp_path, *words)
    report = report_of(tmp_path)
    assert "classifier" in report["features"]
    finite(report["rows"]["mixture"], (*BOUNDS, *DISTANCES))
    run(tmp_path, *words, "stage=sample", "sample.out=drawn.npz")
    with np.load(tmp_path / "drawn.npz", allow_pickle=False) as drawn:
        assert 20 < drawn["x"].mean() < 235 and drawn["x"].std() > 5


def test_folder_of_images_without_labels(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(digits(700)):
        Image.fromarray((255 * image).astype(np.uint8)).save(tmp_path / f"pictures/{i:03d}.png")
    run(tmp_path, "data=image_folder", "data.root=pictures")
    report = report_of(tmp_path)
    assert report["data"] == "pictures" and "random convolutions" in report["features"]
    finite(report["rows"]["mixture"], (*BOUNDS, *DISTANCES))
    (latents,) = tmp_path.glob("runs/store/latents/*/test/latents.json")
    assert json.loads(latents.read_text(encoding="utf-8"))["labels"] is False


def test_conditional_samples_are_judged_without_labels_of_test_images(tmp_path: Path) -> None:
    two = load_digits(n_class=2)
    for i, (image, label) in enumerate(zip(two.images, two.target, strict=True)):
        place = tmp_path / "set" / ("test" if i >= 260 else f"train/{label}")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(place / f"{i}.png")
    run(tmp_path, "data=image_folder", f"data.root={tmp_path / 'set'}", "prior.conditional=true")
    report = report_of(tmp_path)
    classes = report["classes"]
    assert classes["samples"]["num"] == 100 and classes["reconstructions"] is classes["test_images"] is None
    assert [each["name"] for each in classes["by_class"]] == ["0", "1"]
    assert any("the test images have no labels" in note for note in report["notes"])
