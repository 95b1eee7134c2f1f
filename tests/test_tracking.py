"""W&B and CSV: one run a stage, grouped, finished with its exit code; nothing outside the run, nothing on stderr."""

import csv
from pathlib import Path
from typing import Any

import pytest
import wandb
from command_line import SMALL, run_here, run_outside

WANDB = (*SMALL[:-1], "logger=wandb")
STAGES = ["vae", "latents", "prior", "features", "evaluation"]


class FakeRun:
    """Takes what a W&B run takes and remembers it."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked, self.summary, self.logged, self.artifacts = asked, {}, [], []
        self.exit_code: int | None = None
        self.config: Any = type("Config", (), {"update": lambda *_, **__: None})()
        self.step = 0

    def log(self, figures: dict[str, Any], **_: Any) -> None:
        self.logged.append(figures)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def finish(self, exit_code: int = 0) -> None:
        assert self.exit_code is None, "finished twice"
        self.exit_code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Every run that is opened, in place of W&B's own."""
    opened: list[FakeRun] = []

    def init(**asked: Any) -> FakeRun:
        assert all(run.exit_code is not None for run in opened), "two runs at once would share a step axis"
        opened.append(FakeRun(asked))
        return opened[-1]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return opened


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
    losses = [f["train_loss"] for f in by_stage["vae"].logged if "train_loss" in f]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert by_stage["vae"].summary["val_loss"] > 0
    assert by_stage["evaluation"].summary["mixture/rate_nats"] > 0
    logged = {name: value for figures in by_stage["evaluation"].logged for name, value in figures.items()}
    assert isinstance(logged["report"], wandb.Table) and isinstance(logged["samples"], wandb.Image)
    made = {stage: run.artifacts[0] for stage, run in by_stage.items()}
    assert made["prior"].type == "prior"
    vae_key = made["vae"].name.removeprefix("vae-")
    assert made["latents"].metadata["inputs"]["vae"] == vae_key
    assert made["evaluation"].metadata["inputs"]["vae"] == vae_key


def test_a_failed_stage_is_finished_with_its_exit_code(tmp_path: Path, runs: list[FakeRun]) -> None:
    assert run_here(tmp_path, *WANDB, "trainer.lr=1e30").code == 2
    assert [(run.asked["job_type"], run.exit_code) for run in runs] == [("vae", 1)]


def test_csv_is_written_beside_it(tmp_path: Path) -> None:
    assert run_here(tmp_path, *SMALL, "stage=prior").code == 0
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "store")
    with (run / "logs/vae/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows if row.get("train_loss")]
    assert len(losses) == 2 and losses[1] < losses[0]
    with (run / "logs/prior/metrics.csv").open() as file:
        assert list(csv.DictReader(file))


def test_wandb_offline_for_real_and_a_quiet_terminal(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir()
    place.mkdir()
    told = {"HOME": str(home), "WANDB_MODE": "offline", "XDG_CACHE_HOME": str(home / "c"), "PYTHONWARNINGS": "default"}
    result = run_outside(place, *WANDB, "prior=mixture", "stage=prior", **told)
    assert (result.code, result.err) == (0, "")
    assert [line.split()[0] for line in result.out.splitlines()] == ["vae", "latents", "prior"], result.out
    assert not [path for path in home.rglob("*") if "wandb" in path.name]
    assert {path.name for path in place.iterdir()} == {"runs"}
    offline = list(place.glob("runs/*/logs/wandb/offline-run-*"))
    assert len(offline) == 3 and all(list(folder.glob("*.wandb")) for folder in offline)
