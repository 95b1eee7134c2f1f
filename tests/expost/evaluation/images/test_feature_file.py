"""Features from the user's TorchScript file: the convention, the checksum, and every way a file can be wrong."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL, report_of, run_here
from outside.torchscript import script
from torch import Tensor, nn

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images.feature_file import FeatureFile, checked_sha256
from expost.stages import vae


class Means(nn.Module):
    """Mean of each channel over each quarter of the image, and what the input's range is."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)  # [B, 12]


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Demanding(nn.Module):
    """Asserts a size, as nets that were scripted from a library do."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 299, "299 pixels wanted"
        return x.flatten(1)


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 12)


@pytest.fixture
def means(tmp_path: Path) -> Path:
    return script(Means(), tmp_path / "means.pt")


def test_reads_grey_and_rgb_in_the_unit_range(means: Path) -> None:
    net = FeatureFile(means, None, "cpu")
    grey, rgb = torch.rand(120, 1, 8, 8), torch.rand(120, 3, 8, 8)
    torch.testing.assert_close(net.extract(rgb), Means()(rgb))  # several batches
    torch.testing.assert_close(net.extract(grey), Means()(grey.repeat(1, 3, 1, 1)))
    assert net.extract(grey.double()).dtype == torch.float32
    assert net.sha256 == hashlib.sha256(means.read_bytes()).hexdigest()
    assert net.description == f"12 features of means.pt (SHA-256 {net.sha256})"


def test_checksum_decides(means: Path) -> None:
    right = hashlib.sha256(means.read_bytes()).hexdigest()
    assert checked_sha256(means, right.upper()) == right
    with pytest.raises(EvaluationError, match=f"has SHA-256 {right}, not {'0' * 64}: it is another file"):
        FeatureFile(means, "0" * 64, "cpu")
    with pytest.raises(EvaluationError, match=r"No such file.*or null"):
        checked_sha256(means.with_name("none.pt"), None)


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_nothing_but_torchscript_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(_Evil()))
    torch.save({"weight": torch.zeros(2), "evil": _Evil()}, tmp_path / "saved.pt")
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    for name in ("pickle.pt", "saved.pt", "text.pt"):
        with pytest.raises(EvaluationError, match=r"holds no TorchScript net; write one: torch\.jit\.trace"):
            FeatureFile(tmp_path / name, None, "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_net_that_breaks_the_convention_is_refused(tmp_path: Path) -> None:
    images = torch.rand(4, 1, 8, 8)
    with pytest.raises(EvaluationError, match=r"returned \(4, 3, 8, 8\), not \[4, D\]"):
        FeatureFile(script(Flat(), tmp_path / "flat.pt"), None, "cpu").extract(images)
    with pytest.raises(EvaluationError, match=r"cannot read float32 images \(3, 8, 8\)"):
        FeatureFile(script(nn.Linear(3, 4), tmp_path / "linear.pt"), None, "cpu").extract(images)
    with pytest.raises(EvaluationError, match=r"cannot read float32 images \(3, 8, 8\).*299 pixels wanted"):
        FeatureFile(script(Demanding(), tmp_path / "demanding.pt"), None, "cpu").extract(images)
    with pytest.raises(EvaluationError, match="not 2 channels"):
        FeatureFile(script(Means(), tmp_path / "means.pt"), None, "cpu").extract(torch.rand(4, 2, 8, 8))


def test_a_run_measures_with_the_file_and_says_which(tmp_path: Path, means: Path) -> None:
    sha256 = hashlib.sha256(means.read_bytes()).hexdigest()
    words = (*SMALL, f"evaluation.features={means}")
    wrong = run_here(tmp_path, *words, f"evaluation.features_sha256={'a' * 64}")
    assert wrong.code == 2 and "it is another file" in wrong.err and len(wrong.err.strip().splitlines()) == 1
    assert not (tmp_path / "runs/store").exists()  # before any work
    alone = run_here(tmp_path, *SMALL, f"evaluation.features_sha256={'a' * 64}")
    assert alone.code == 2 and "evaluation.features=FILE.pt" in alone.err
    done = run_here(tmp_path, *words, f"evaluation.features_sha256={sha256}")
    assert (done.code, done.err) == (0, "") and sha256 in done.out
    report = report_of(tmp_path)
    assert report["features"] == f"12 features of means.pt (SHA-256 {sha256})"
    assert report["rows"]["mixture"]["frechet_distance"] > 0
    moved = means.rename(tmp_path / "moved.pt")
    again = run_here(tmp_path, *SMALL, f"evaluation.features={moved}")
    assert again.code == 0 and "evaluation" in again.stages("unchanged, skipped"), again  # the key is the content's
    script(nn.Sequential(Means(), nn.Linear(12, 5)), moved)
    other = run_here(tmp_path, *SMALL, f"evaluation.features={moved}")
    assert other.code == 0 and "evaluation" in other.stages("done in")
    assert json.loads((tmp_path / "runs/latest/report.json").read_text(encoding="utf-8"))["features"].startswith(
        "5 features of moved.pt"
    )


def test_a_file_that_is_replaced_during_the_run_is_found_out(
    tmp_path: Path, means: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are known before the VAE is trained: no figures of another net may come under them."""
    train = vae.train

    def replacing(*words: Any) -> Any:
        script(nn.Sequential(Means(), nn.Linear(12, 5)), means)
        return train(*words)

    monkeypatch.setattr(vae, "train", replacing)
    result = run_here(tmp_path, *SMALL, f"evaluation.features={means}")
    assert result.code == 2 and "has SHA-256" in result.err and len(result.lines) == 1, result
    assert not list(tmp_path.glob("runs/store/evaluation/*/figures.json"))


@pytest.mark.parametrize("stage", ["all", "evaluate", "check"])
def test_a_net_that_cannot_be_used_is_refused_before_any_work(tmp_path: Path, stage: str) -> None:
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    script(Flat(), tmp_path / "flat.pt")
    script(Demanding(), tmp_path / "demanding.pt")
    reasons = {"text": "holds no TorchScript net", "flat": "returned (2, 3, 8, 8)", "demanding": "images (3, 8, 8)"}
    for name, words in reasons.items():
        result = run_here(tmp_path, *SMALL, f"stage={stage}", f"evaluation.features={tmp_path / name}.pt")
        assert result.code == 2 and len(result.lines) == 1 and words in result.lines[0], result
    assert not list(tmp_path.glob("runs/store/vae/*"))


def test_a_net_that_sees_nothing_gives_no_figures_but_a_note(tmp_path: Path) -> None:
    file = script(Blind(), tmp_path / "blind.pt")
    assert run_here(tmp_path, *SMALL, f"evaluation.features={file}").code == 0
    report = report_of(tmp_path)
    for row in report["rows"].values():
        assert [row[name] for name in ("frechet_distance", "precision", "density", "memorisation")] == [None] * 4
    assert sum("do not vary" in note for note in report["notes"]) == 2  # of distances, and of memorisation


def test_a_fit_that_looks_at_images_through_the_file_is_planned(tmp_path: Path, means: Path) -> None:
    prior = ("prior=auto", "prior.members=[gaussian]", "prior.metric=frechet_distance", "plan.probe_seconds=0.01")
    common = ("debug=fast", "net.hidden=[8]", "logger=csv", f"evaluation.features={means}", "stage=plan")
    planned = run_here(tmp_path, *common, *prior)
    assert planned.code == 0, planned.err
