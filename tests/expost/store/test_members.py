"""Members of an ensemble are artifacts of their own: found where they were made alone, and there for `prior=MEMBER`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import PROJECT, Result, assert_refused, run_here

from expost.store.artifacts import Store

FEW = "{prior: mixture, num_components: 3}"
MEMBERS = f"prior.members=[gaussian,{FEW}]"
FAST = ("data=latents", "data.root=latents.npz", "debug=fast", "logger=csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Latents, some of whose dimensions never vary."""
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(400, 4)).astype(np.float32)
    loc[:, 0] += 2 * np.sign(loc[:, 1])
    loc[:, 3] = 0.5
    np.savez(tmp_path / "latents.npz", mu=loc, labels=rng.integers(2, size=400))
    return tmp_path


def run(folder: Path, *words: str) -> Result:
    result = run_here(folder, *FAST, *words)
    assert result.code == 0, result
    return result


def priors(folder: Path) -> list[dict[str, Any]]:
    """Manifests of the fitted priors, the oldest first."""
    artifacts = [a for a in Store(folder / "runs/store").artifacts() if a.stage == "prior"]
    return sorted((artifact.manifest() for artifact in artifacts), key=lambda manifest: manifest["finished"])


def test_two_commands_share_what_they_fit(folder: Path) -> None:
    run(folder, "prior=gaussian", "stage=prior")
    first = run(folder, "prior=ensemble", MEMBERS, "stage=prior")
    assert "member 1, gaussian" in first.out and "member 2, mixture num_components=3" in first.out
    assert first.stages("unchanged, skipped").count("prior") == 1 and first.stages("done in").count("prior") == 2
    gaussian, mixture, ensemble = priors(folder)
    assert [ensemble["ingredients"][f"prior-{place}"] for place in (0, 1)] == [gaussian["key"], mixture["key"]]
    alone = run(folder, "prior=mixture", "prior.num_components=3", "stage=prior")
    assert alone.stages("unchanged, skipped") == ["latents", "prior"]
    again = run(folder, "prior=ensemble", MEMBERS, "stage=prior")
    assert again.stages("unchanged, skipped") == ["latents", "prior", "prior", "prior"]
    other = run(folder, "prior=ensemble", f"prior.members=[{FEW},standard_normal]", "stage=prior")
    assert other.stages("unchanged, skipped").count("prior") == 1 and len(priors(folder)) == 5


def test_seconds_are_those_of_all_and_the_report_knows_the_weights(folder: Path) -> None:
    run(folder, "prior=ensemble", MEMBERS)
    fits = [
        json.loads((folder / f"runs/store/prior/{m['key']}/fit.json").read_text(encoding="utf-8"))
        for m in priors(folder)
    ]
    assert fits[2]["seconds"] >= fits[0]["seconds"] + fits[1]["seconds"]
    row = json.loads((folder / "runs/latest/report.json").read_text(encoding="utf-8"))["rows"]["ensemble"]
    assert row["fit_seconds"] == pytest.approx(fits[2]["seconds"])
    assert any("weights of the members: gaussian 0." in note for note in row["notes"])
    assert row["rate_nats"] is None or np.isfinite(row["rate_nats"])


def test_what_a_run_needs_is_what_its_members_need(folder: Path) -> None:
    run(folder, "prior=gaussian", "stage=prior")
    run(folder, "prior=ensemble", MEMBERS, "stage=evaluate")
    run(folder, "prior=standard_normal", "stage=prior")
    for place in (folder / "runs").glob("*-standard_normal"):
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        place.rmdir()
    for place in (folder / "runs").glob("*-gaussian"):
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        place.rmdir()
    assert run_here(folder, "stage=store", "store.gc=true").code == 0
    assert len(priors(folder)) == 3  # both members, the first of which another run has made, and the ensemble
    assert run(folder, "prior=ensemble", MEMBERS).stages("unchanged, skipped")


def test_ensembles_in_ensembles_classes_export_and_plan(folder: Path) -> None:
    nested = f"prior.members=[gaussian,{{prior: ensemble, members: [standard_normal,{FEW}]}}]"
    first = run(folder, "prior=ensemble", nested, "prior.conditional=true", "stage=prior")
    assert "member 2, ensemble: member 1, standard_normal" in first.out
    inner = run(
        folder, "prior=ensemble", f"prior.members=[standard_normal,{FEW}]", "prior.conditional=true", "stage=prior"
    )
    assert inner.stages("unchanged, skipped") == ["latents", "prior", "prior", "prior"]
    run(folder, "prior=ensemble", nested, "prior.conditional=true", "stage=export", "export.out=model")

    import torch

    from expost import LearnedPrior

    loaded = LearnedPrior.load(folder / "model")
    assert loaded.sample(6, label=1).shape == (6, 4) and loaded.prior.num_classes == 2
    z = torch.zeros(3, 4) + torch.tensor([0.0, 0.0, 0.0, 0.5])
    assert loaded.log_prob(z).isfinite().all() and loaded.log_prob(torch.zeros(3, 4)).isinf().all()
    assert "gaussian" in loaded.prior.caveats[0]


def test_mistakes_are_one_line_before_any_work(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    for word, reason in {
        "prior.members=[]": "prior.members is empty",
        "prior.members=[gaussian,energy]": "the density of energy is an estimate",
        "prior.members=[gaussian,unigram]": "these latents are real",
        "prior.members=[gausian]": "no such prior; did you mean 'gaussian'",
        "prior.members=[learned,gaussian]": "prior.members: learned is what a VAE learned with itself",
    }.items():
        assert_refused(run_here(folder, *FAST, "prior=ensemble", word), folder, reason, before=before)


def test_upstream_require_asks_for_members_too(folder: Path) -> None:
    run(folder, "stage=encode")
    done = run_here(folder, *FAST, "prior=ensemble", MEMBERS, "stage=evaluate", "upstream=require")
    assert done.code == 2 and "make it with:" in done.err and "stage=prior" in done.err


@pytest.mark.slow
def test_killed_between_members_nothing_is_lost(folder: Path) -> None:
    members = f"prior.members=[gaussian,{FEW},autoregressive]"
    words = (*FAST, "prior=ensemble", members, "limits.steps=null", "limits.tokens=null", "stage=prior")
    process = subprocess.Popen([sys.executable, str(PROJECT / "pipeline.py"), *words], cwd=folder)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("runs/store/prior/????????????????????"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = run_here(folder, *words)
    assert result.code == 0, result
    assert result.stages("unchanged, skipped") == ["latents", "prior", "prior"]
    assert result.stages("done in") == ["prior", "prior"]
