"""W&B and CSV: one run a stage, grouped, finished with its exit code; nothing outside the run, nothing on stderr."""

import csv
from pathlib import Path

import pytest
import wandb
from command_line import SMALL, STAGES, run_here
from outside.wandb_runs import FakeRun, take_runs

from expost.training.tracking import with_one_name

WANDB = (*SMALL[:-1], "logger=wandb")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    return take_runs(monkeypatch)


def test_one_run_a_stage_with_group_config_figures_and_lineage(tmp_path: Path, runs: list[FakeRun]) -> None:
    assert run_here(tmp_path, *WANDB).code == 0
    assert [run.asked["job_type"] for run in runs] == STAGES
    assert {run.asked["group"] for run in runs} == {"digits-gaussian-mixture"}
    assert {run.asked["project"] for run in runs} == {"expost"}
    assert all(run.exit_code == 0 for run in runs)
    by_stage = dict(zip(STAGES, runs, strict=True))
    for run in runs:
        assert run.asked["config"]["trainer"]["max_epochs"] == 2
        assert (tmp_path / run.asked["dir"]).is_dir() and run.asked["dir"].startswith("runs/")
    losses = [f["vae/train_loss"] for f in by_stage["vae"].logged if "vae/train_loss" in f]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert by_stage["vae"].last["vae/final/val_loss"] == by_stage["vae"].last["vae/val_loss"] > 0
    figures = by_stage["evaluation"].last
    assert 0 < figures["evaluation/final/learned/rate_nats"] < figures["evaluation/final/standard_normal/rate_nats"]
    assert isinstance(figures["evaluation/report"], wandb.Table)
    assert isinstance(figures["evaluation/samples"], wandb.Image)
    made = {stage: run.artifacts[0] for stage, run in by_stage.items()}
    assert made["prior"].type == "prior"
    vae_key = made["vae"].name.removeprefix("vae-")
    assert made["latents"].metadata["inputs"]["vae"] == vae_key
    assert made["evaluation"].metadata["inputs"]["vae"] == vae_key


def test_every_curve_has_the_epoch_as_its_axis_and_every_name_its_stage(tmp_path: Path, runs: list[FakeRun]) -> None:
    assert run_here(tmp_path, *WANDB, "stage=prior").code == 0
    for run in runs:
        stage = run.asked["job_type"]
        assert run.defined["epoch"] == {"hidden": True}
        assert run.defined[f"{stage}/val_*"] == {"step_metric": "epoch", "summary": "last,min"}
        for figures in run.logged:
            names = set(figures) - {"epoch"}
            assert all(name.startswith(f"{stage}/") for name in names)
            is_final = {name.startswith(f"{stage}/final/") for name in names}
            assert is_final == {"epoch" not in figures}, "a curve has an axis, a final figure has none"
    assert [f["epoch"] for f in runs[0].logged if "vae/train_loss" in f] == [0, 1]
    rounds = [f["epoch"] for f in runs[2].logged if "prior/train_bound_nats" in f]
    assert rounds == list(range(rounds[0], rounds[0] + len(rounds))) and len(rounds) > 1


def test_the_learned_prior_has_one_name_in_every_run() -> None:
    figures = {"mixture/rate_nats": 1.0, "standard_normal/rate_nats": 2.0}
    assert with_one_name(figures, "mixture") == {"learned/rate_nats": 1.0, "standard_normal/rate_nats": 2.0}
    assert with_one_name(figures, "standard_normal") == figures  # there is no learned prior


def test_a_failed_stage_is_finished_with_its_exit_code(tmp_path: Path, runs: list[FakeRun]) -> None:
    assert run_here(tmp_path, *WANDB, "trainer.lr=1e30").code == 2
    assert [(run.asked["job_type"], run.exit_code) for run in runs] == [("vae", 1)]


def test_csv_is_written_beside_it(tmp_path: Path) -> None:
    assert run_here(tmp_path, *SMALL, "stage=prior").code == 0
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "store")
    with (run / "logs/vae/metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows if row.get("train_loss")]
    assert len(losses) == 2 and losses[1] < losses[0]
    with (run / "logs/prior/metrics.csv").open(encoding="utf-8") as file:
        assert list(csv.DictReader(file))
