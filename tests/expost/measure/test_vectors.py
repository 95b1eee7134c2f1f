"""A whole run on vectors: plots in place of pictures, samples in the units of the file, features of the numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, run_here
from PIL import Image

from expost.evaluation.images.features import FeatureNet, make_feature_net
from expost.evaluation.latents.pictures import profiles

SCALES = np.array([1e-3, 1.0, 1e3, 5.0, 2.0, 1.0])
X = (np.random.default_rng(0).standard_normal((400, 6)) * SCALES + 7).astype(np.float32)


def test_a_run_on_vectors(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=X, label=np.arange(400) % 2)
    words = ("data=vectors", "data.root=set.npz", *SMALL, "prior.conditional=true")
    checked = run_here(tmp_path, "stage=check", *words)
    assert checked.code == 0, checked.err
    with Image.open(tmp_path / "runs/check-images.png") as plot:
        assert plot.size[1] > 100
    done = run_here(tmp_path, *words)
    assert done.code == 0, done.err
    assert "columns standardised" in done.out
    pictures = {path.stem for path in (tmp_path / "runs/latest").glob("*.png")}
    assert pictures == {"columns", "curves", "latents", "profiles"}
    report = json.loads((tmp_path / "runs/latest/report.json").read_text(encoding="utf-8"))
    assert "the 6 numbers themselves" in json.dumps(report) and report["classes"] is not None
    drawn = run_here(tmp_path, "stage=sample", *words, "sample.num=200", "sample.noise=true", "sample.out=drawn.npz")
    assert drawn.code == 0, drawn.err
    with np.load(tmp_path / "drawn.npz") as archive:
        x = archive["x"]
    assert x.shape == (200, 6) and x.dtype == np.float32
    assert (np.abs(x.mean(0) - 7) < SCALES).all() and (np.abs(np.log(x.std(0) / SCALES)) < 1).all()
    refused = run_here(tmp_path, "stage=sample", *words, "sample.out=folder")
    assert refused.code == 2 and "vectors are no pictures" in refused.err and not (tmp_path / "folder").exists()


def test_points_of_images_that_repeat_a_column_are_said_to_have_no_density(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.concatenate([X, X[:, 1:2]], 1))
    words = ("data=vectors", "data.root=set.npz", "vae=identity", "prior=gaussian", "stage=prior", "logger=csv")
    done = run_here(tmp_path, *words)
    assert done.code == 0, done.err
    said = next(line for line in done.out.splitlines() if "1 of 7 dimensions never vary, or are sums" in line)
    root = next(word for word in said.split() if word.startswith("data.root="))
    again = run_here(tmp_path, "data=latents", root, *words[3:])
    assert "1 of 7 dimensions are sums or repeats of others (6, counted from 0)" in again.out, again.err


@pytest.mark.parametrize("num", [6, 300])
@pytest.mark.parametrize("classes", [0, 2])
def test_features_are_the_numbers(num: int, classes: int) -> None:
    x = torch.rand(500, 1, 1, num) * torch.linspace(0.01, 1, num)
    x[..., 0] = 0.5  # never varies
    labels = (x[:, 0, 0, -1] > 0.5).long() if classes else None
    net = make_feature_net(x, labels, classes, 0, "cpu", of_vectors=True)
    again = FeatureNet.from_config(json.loads(json.dumps(net.to_config())))
    again.load_state_dict(net.state_dict())
    features = net.extract(x)
    assert torch.equal(again.extract(x), features) and features.shape == (500, min(num, 256))
    if num == 6:
        assert torch.allclose(features.std(0, correction=0), torch.tensor([0.0, 1, 1, 1, 1, 1]), atol=1e-3)
    if labels is not None:
        assert (net.classify(x) == labels).double().mean() > 0.8


def test_nets_of_pictures_are_kept_as_before() -> None:
    net = make_feature_net(torch.rand(20, 1, 9, 9), None, 0, 0, "cpu")
    assert "of_vectors" not in net.to_config() and net.scale.shape == ()


def test_profiles_of_numbers_of_every_size(tmp_path: Path) -> None:
    for name, rows in (("plain", torch.randn(50, 30)), ("apart", torch.from_numpy(X)), ("flat", torch.ones(20, 3))):
        profiles([("test vectors", "#123456", rows), ("draws", "#654321", 3 * rows)], tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as plot:
            assert plot.size[0] > 500
