"""Runs whose stage 1 somebody else has trained: what is made, what is made again, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import SMALL, Result, assert_refused, keys, report_of, run_here
from sklearn.datasets import load_digits

SOURCE = """
import torch
from torch import nn

class Rotated(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(64, 6))
        self.mean = nn.Buffer(torch.zeros(64))
    def encode(self, x):
        z = (x.flatten(1) - self.mean) @ self.matrix
        return {"mean": z, "log_std": torch.full_like(z, -2.0)}
    def decode(self, z):
        return (z @ self.matrix.T + self.mean).view(-1, 1, 8, 8)

class Bent(Rotated):
    def encode(self, x):
        return super().encode(x)["mean"] + torch.randn(1)

class Levels(nn.Module):
    num_codes = 8
    def encode(self, x):
        return (nn.functional.avg_pool2d(x, 2)[:, 0] * 7.999).long()
    def decode(self, z):
        return nn.functional.interpolate((z[:, None] + 0.5) / 8, scale_factor=2)

def make():
    model = Rotated()
    model.load_state_dict(torch.load("weights.pt", weights_only=True))
    return model
"""


def write_weights(folder: Path, first: int = 0) -> None:
    """Six principal components of digits, from the component `first` on."""
    x = torch.tensor(load_digits().images.reshape(-1, 64) / 16, dtype=torch.float32)
    matrix = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[first : first + 6].T.contiguous()
    torch.save({"matrix": matrix, "mean": x.mean(0)}, folder / "weights.pt")


def run(folder: Path, *words: str) -> Result:
    return run_here(folder, *SMALL, "vae=module", "vae.module=their.py:make", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result]]:
    folder = tmp_path_factory.mktemp("external")
    (folder / "their.py").write_text(SOURCE, encoding="utf-8")
    write_weights(folder)
    result = run(folder)
    assert result.code == 0, result.err
    yield folder, result


def test_it_goes_through_to_the_report(made: tuple[Path, Result]) -> None:
    folder, result = made
    assert "their.py:make: mean and log standard deviation, by the name log_std; real of shape (6)" in result.out
    assert "Gaussian scale 0." in result.out and "maximum likelihood on 1,258 training images" in result.out
    assert report_of(folder)
    (stored,) = folder.glob("runs/store/vae/*/external.json")
    assert json.loads(stored.read_text(encoding="utf-8"))["name"] == "their.py:make"


def test_what_cannot_change_it_makes_nothing_again(made: tuple[Path, Result]) -> None:
    folder, _ = made
    same = run(folder, "stage=encode", "seed=1", "trainer.batch_size=7", "trainer.max_epochs=3")
    assert same.stages("skipped") == ["vae", "latents"], same


def test_other_weights_under_the_same_name_are_another_model(made: tuple[Path, Result]) -> None:
    folder, _ = made
    before = keys(folder, "vae")
    write_weights(folder, first=6)
    assert run(folder, "stage=encode").stages("done in") == ["vae", "latents"]
    write_weights(folder)
    assert run(folder, "stage=encode").stages("skipped") == ["vae", "latents"]
    assert len(keys(folder, "vae")) == len(before) + 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("vae=module",), ("vae.module is missing", "FILE.py:NAME")),
        (("vae=module", "vae.module=their.py:none"), ("it has Rotated, Bent, Levels, make",)),
        (("vae=module", "vae.module=their.py:Bent"), ("as a random draw does: return mean and log-variance",)),
        (("vae=module", "vae.module=their.py:Rotated", "vae.rnage=3"), ("vae.rnage", "range")),
        (("vae=diffusers", "vae.path=none"), ("there is no such folder",)),
        (("vae=checkpoint", "vae.path=none.ckpt"), ("there is no such file",)),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    (tmp_path / "their.py").write_text(SOURCE, encoding="utf-8")
    before = list(tmp_path.rglob("*"))
    result = run_here(tmp_path, *SMALL, *words)
    for line in result.out.splitlines():
        assert line.startswith(("data ", "vae "))
    assert_refused(
        Result(result.code, "", result.err), tmp_path, *parts, before=[*before, *tmp_path.glob("__pycache__/**")]
    )


def test_codes_have_the_priors_of_codes(tmp_path: Path) -> None:
    (tmp_path / "their.py").write_text(SOURCE, encoding="utf-8")
    words = ("debug=fast", "logger=csv", "vae=module", "vae.module=their.py:Levels", "prior=unigram", "stage=prior")
    result = run_here(tmp_path, *words)
    assert result.stages("done in") == ["vae", "latents", "prior"], result.err
    assert "codes 4x4 of a codebook of 8 (num_codes); codes of shape (16)" in result.out


def test_a_likelihood_that_would_be_passed_over_is_refused(made: tuple[Path, Result]) -> None:
    result = run(made[0], "stage=vae", "likelihood=bernoulli")
    assert result.code == 2 and len(result.lines) == 1, result
    assert "BernoulliLikelihood" in result.err and "set likelihood=gaussian" in result.err
