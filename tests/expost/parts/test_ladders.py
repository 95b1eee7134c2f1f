"""prior=auto on the command line: the ladder stands on the terminal, on the page and in report.json."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused, report_of, run_here
from whole_run import run_lent

from expost import LatentDataset, LearnedPrior, TwoStage, fit_prior
from expost.config.defaults import read_conf

FAST = ("debug=fast", "logger=csv", "trainer.val_every=2", "net.hidden=[32]")
NETWORKS = ["realnvp", "autoregressive", "diffusion"]
FEW = "prior.members=[unigram,gaussian,{prior: mixture, num_components: 5},realnvp]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(600, 3)).astype(np.float32)
    loc[:, 0] += 3 * np.sign(loc[:, 1])
    np.savez(tmp_path / "latents.npz", mu=loc)
    return tmp_path


def test_the_ladder_is_told_everywhere(folder: Path) -> None:
    result = run_here(folder, "data=latents", "data.root=latents.npz", *FAST[:2], "prior=auto", FEW)
    assert result.code == 0, result
    assert "without unigram: unigram counts codes and bits; these latents are real" in result.out
    assert "Ladder of auto, by held-out nats" in result.out
    assert "mixture num_components=5 pays: it buys" in result.out or "is enough" in result.out
    ladder = report_of(folder)["fitting"]["auto"]["ladder"]
    assert [rung["rung"] for rung in ladder][:2] == ["gaussian", "mixture num_components=5"]
    assert sum("taken" in rung["words"] for rung in ladder) == 1
    page = (folder / "runs/latest/report.html").read_text(encoding="utf-8")
    assert "<h2>Which prior</h2>" in page and "Ladder of auto" in page
    assert any(" is enough" in note or " pays" in note for note in report_of(folder)["rows"]["auto"]["notes"])
    done = run_here(
        folder, "data=latents", "data.root=latents.npz", *FAST[:2], "prior=auto", FEW, "stage=export", "export.out=m"
    )
    assert done.code == 0 and done.stages("unchanged, skipped") == ["latents", "prior"]
    loaded = LearnedPrior.load(folder / "m")
    assert loaded.sample(5).shape == (5, 3) and len(loaded.prior.caveats) == 1


def test_too_few_seconds_are_one_line(folder: Path) -> None:
    words = ("data=latents", "data.root=latents.npz", *FAST[:2], "prior=auto", FEW)
    assert run_here(folder, *words, "stage=encode").code == 0
    result = run_here(folder, *words, "prior.seconds=0.0001", "stage=prior")
    assert result.code == 2 and "not even gaussian, the first rung, is fitted within" in result.err.splitlines()[-1]
    assert len(result.lines) == 1
    before = sorted(folder.rglob("*"))
    assert_refused(
        run_here(folder, *words, "prior.members=[gaussian]", "prior.seconds=0"),
        folder,
        "prior.seconds=0",
        before=before,
    )


def test_by_the_distance_of_decoded_samples(tmp_path: Path) -> None:
    words = (*FAST, "prior=auto", FEW, "prior.metric=frechet_distance")
    result = run_lent(tmp_path, *words, "stage=prior")
    assert result.code == 0, result
    made = result.stages("done in") + result.stages("unchanged, skipped")
    assert sorted(made) == ["features", "latents", "prior", "vae"]
    assert run_lent(tmp_path, *words).code == 0
    ladder = report_of(tmp_path)["fitting"]["auto"]["ladder"]
    assert all(rung["frechet_distance"] >= 0 for rung in ladder if "fitted" in rung["words"])
    exported = run_here(tmp_path, *words, "stage=export", "export.out=m")
    assert exported.code == 0, exported
    assert TwoStage.load(tmp_path / "m").sample(2).shape[0] == 2


def test_on_many_tight_clusters_it_is_ahead_of_kernels() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 6))
    fitted_to, fresh = (
        (centres[rng.integers(200, size=1500)] + 0.02 * rng.normal(size=(1500, 6))).astype(np.float32) for _ in range(2)
    )
    ladder = [member for member in read_conf("prior/auto.yaml")["members"] if member not in NETWORKS]
    latents = LatentDataset.of(fitted_to)
    auto, kernels = fit_prior(latents, "auto", members=ladder)[0], fit_prior(latents, "kde")[0]
    z = torch.from_numpy(fresh)
    assert auto.log_prob(z).mean() > kernels.log_prob(z).mean()


def test_in_python(folder: Path) -> None:
    latents = LatentDataset.of(np.load(folder / "latents.npz")["mu"])
    for name in ("auto", "ensemble"):
        prior, report = fit_prior(latents, name, members=["gaussian", {"prior": "mixture", "num_components": 4}])
        assert prior.sample(4).shape == (4, 3) and prior.log_prob(prior.sample(9)).isfinite().all()
        prior.save(folder / name)
        loaded = LearnedPrior.load(folder / name)
        z = prior.sample(9)
        assert (loaded.log_prob(z) == prior.log_prob(z)).all()
        assert (name == "auto") == bool(report.ladder)
