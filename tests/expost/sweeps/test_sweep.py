"""Sweeps: jobs share what they have in common, and `runs/latest` leads to all of them."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from command_line import SMALL, keys, run_here, run_outside

FREE = tuple(word for word in SMALL if "num_components" not in word)  # what holds for every prior


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    result = run_here(folder, "-m", *FREE, "prior=mixture,gaussian", "seed=0,1")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1].split() == ["next", "python", "pipeline.py", "stage=compare"]
    assert result.out.count("stage=compare") == 1
    return folder


def test_one_vae_a_seed_and_one_prior_a_job(swept: Path) -> None:
    assert len(keys(swept, "vae")) == 2 and len(list(swept.glob("runs/store/vae/**/model.safetensors"))) == 2
    assert len(keys(swept, "latents")) == 2
    assert len(keys(swept, "prior")) == 4 and len(keys(swept, "evaluation")) == 4
    assert len(keys(swept, "features")) == 1


def test_latest_leads_to_the_sweep_with_a_report_a_job(swept: Path) -> None:
    latest = swept / "runs/latest"
    assert latest.is_symlink() and latest.resolve().parent == (swept / "runs/sweeps").resolve()
    assert sorted(path.name for path in latest.glob("[!.]*")) == ["0", "1", "2", "3"]
    for job, (prior, seed) in enumerate([("mixture", 0), ("mixture", 1), ("gaussian", 0), ("gaussian", 1)]):
        report = json.loads((latest / f"{job}/report.json").read_text(encoding="utf-8"))
        assert prior in report["rows"]
        config = yaml.safe_load((latest / f"{job}/config.yaml").read_text(encoding="utf-8"))
        assert config["seeds"] == {"vae": seed, "prior": seed, "sample": seed}
        assert (latest / f"{job}/report.html").is_file() and (latest / f"{job}/samples.png").is_file()
    assert {path.name for path in swept.iterdir()} == {"runs"}


def test_a_preset_needs_no_flag(swept: Path) -> None:
    result = run_here(swept, *FREE, "sweep=seeds", "stage=prior", "prior=gaussian")
    assert (result.code, result.err) == (0, "")
    assert len(keys(swept, "vae")) == 3  # seeds 0 and 1 were there
    assert result.stages("done in") == ["vae", "latents", "prior"]
    assert result.stages("skipped") == ["vae", "latents", "prior"] * 2


def test_a_sweep_is_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "runs/store").mkdir(parents=True)
    result = run_here(tmp_path, "-m", *FREE, "paths.root=runs,others", "stage=store")
    assert result.code == 2 and len(result.lines) == 1
    assert result.lines[0].startswith("error: job 1 ") and "paths.root=others: a sweep has one" in result.err


def test_latest_stays_with_the_last_report(swept: Path) -> None:
    leads_to = (swept / "runs/latest").readlink()
    result = run_here(swept, "-m", *FREE, "prior=gaussian", "seed=0,1", "stage=prior")
    assert "stage=compare" not in result.out  # no job wrote a report
    assert (swept / "runs/latest").readlink() == leads_to


@pytest.mark.slow
def test_jobs_side_by_side_share_a_store_and_tell_their_failures(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "runs/store/features", tmp_path / "runs/store/features")
    words = ("launcher=joblib", "-m", *FREE, "prior=mixture", "prior.num_components=5,6,99999", "stage=prior")
    result = run_outside(tmp_path, *words)
    assert result.code == 2, result
    assert len(result.lines) == 1 and result.lines[0].startswith("error: job 2 "), result.err
    assert "lower prior.num_components" in result.lines[0]
    assert len(list(tmp_path.glob("runs/store/vae/**/model.safetensors"))) == 1  # waited for, not made twice
    assert len(keys(tmp_path, "prior")) == 2
    assert not list(tmp_path.glob("runs/store/*/.*"))


def test_the_hint_is_given_where_some_jobs_fail_and_leads_to_the_sweep(swept: Path) -> None:
    words = ("stage=report", *FREE, "prior=gaussian")
    assert "stage=compare" not in run_here(swept, *words, "seed=0").out  # no sweep
    root = f"paths.root={swept}/runs"
    swept_again = run_here(swept, "-m", *words, "seed=0,-1", root)
    command = swept_again.out.splitlines()[-1].split()[3:]
    assert swept_again.code == 2 and command == ["stage=compare", root]
    compared = run_here(swept, *command)
    assert compared.code == 0 and "1 run of the last sweep" in compared.out
    assert "compare    left out: job 1: seed=-1: " in compared.out
