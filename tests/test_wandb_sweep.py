"""dashboards/sweep.yaml as W&B's own agent uses it: the command that it writes, and the run that it waits for."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import PROJECT
from test_tracking import records_of
from wandb.wandb_agent import Agent

SMALL = {"debug": "fast", "net.hidden": [32], "evaluation.num_samples": 128, "stage": "all"}


def first_value(parameter: dict[str, Any]) -> Any:
    """What a server might ask for: W&B sends values, not distributions."""
    return parameter.get("value", parameter.get("values", [parameter.get("min")])[0])


def test_the_agents_run_is_the_report_and_has_the_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load((PROJECT / "dashboards/sweep.yaml").read_text())
    chosen = {name: first_value(parameter) for name, parameter in sweep["parameters"].items()}
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "put back afterwards: the agent sets them itself")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(PROJECT)
    agent = Agent(api=None, queue=None, sweep_id="sweep123")
    agent._sweep_command = sweep["command"]
    asked = {**chosen, **SMALL, "paths.root": str(tmp_path / "runs")}
    told = {"run_id": "run456", "program": sweep["program"], "args": {k: {"value": v} for k, v in asked.items()}}
    agent._command_run(told)
    assert agent._run_processes["run456"].wait(timeout=150) == 0
    runs = {}
    for file in tmp_path.glob("runs/*/logs/wandb/offline-run-*/*.wandb"):
        records = list(records_of(file))
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        runs[run.job_type] = run, records
    assert set(runs) == {"vae", "latents", "prior", "features", "evaluation", "report"}
    report, records = runs.pop("report")
    assert (report.run_id, report.sweep_id) == ("run456", "sweep123")
    assert not any(run.sweep_id or run.run_id == "run456" for run, _ in runs.values())
    logged = {
        item.key or "/".join(item.nested_key)
        for record in records
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
    }
    assert sweep["metric"]["name"] in logged
    assert {key for key in chosen if "." in key} <= {
        item.key or "/".join(item.nested_key) for item in report.config.update
    }
