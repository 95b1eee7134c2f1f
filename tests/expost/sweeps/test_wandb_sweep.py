"""W&B offline for real, through dashboards/sweep.yaml as its own agent uses it.

What is seen: the command that the agent writes, the run that it waits for, a quiet terminal, and what would be synced.
"""

import contextlib
import io
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import PROJECT, STAGES
from wandb.proto import wandb_internal_pb2
from wandb.wandb_agent import Agent

SMALL = {"debug": "fast", "net.hidden": [32], "evaluation.num_samples": 128, "stage": "all"}
BLOCK, FULL, LAST = 32768, 1, 4
"""Of LevelDB's log: bytes of a block, and the types of a chunk that ends a record."""


def first_value(parameter: dict[str, Any]) -> Any:
    """What a server might ask for: W&B sends values, not distributions."""
    return parameter.get("value", parameter.get("values", [parameter.get("min")])[0])


def test_the_agents_run_is_the_report_and_has_the_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = yaml.safe_load((PROJECT / "dashboards/sweep.yaml").read_text(encoding="utf-8"))
    chosen = {name: first_value(parameter) for name, parameter in sweep["parameters"].items()}
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "put back afterwards: the agent sets them itself")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "WANDB_MODE": "offline",
        "XDG_CACHE_HOME": str(home / "c"),
        "PYTHONWARNINGS": "default",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(PROJECT)
    agent = Agent(api=None, queue=None, sweep_id="sweep123")
    agent._sweep_command = sweep["command"]
    asked = {**chosen, **SMALL, "paths.root": str(tmp_path / "runs")}
    order = {"run_id": "run456", "program": sweep["program"], "args": {k: {"value": v} for k, v in asked.items()}}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # the agent is not quiet
        agent._command_run(order)
    assert agent._run_processes["run456"].wait(timeout=150) == 0
    out, err = capfd.readouterr()
    assert err == "" and "wandb" not in out
    assert [line.split()[0] for line in out.splitlines() if "done in" in line] == STAGES
    assert not [path for path in home.rglob("*") if "wandb" in path.name]
    offline = list(tmp_path.glob("runs/[0-9]*/logs/wandb/offline-run-*"))
    read_back(offline)
    runs = {}
    for file in (file for folder in offline for file in folder.glob("*.wandb")):
        records = list(records_of(file))
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        runs[run.job_type] = run, records
    assert set(runs) == {*STAGES, "report"} and len(offline) == 6
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


def read_back(offline: list[Path]) -> None:
    """The axes, the summaries and the figures are in the files that `wandb sync` would send."""
    records = {folder: list(records_of(next(folder.glob("*.wandb")))) for folder in offline}
    vae = next(rows for rows in records.values() if any(r.run.job_type == "vae" for r in rows))
    axes = {r.metric.name or r.metric.glob_name: r.metric for r in vae if r.WhichOneof("record_type") == "metric"}
    assert axes["epoch"].options.hidden
    assert axes["vae/val_*"].step_metric == axes["vae/train_*"].step_metric == "epoch"
    assert axes["vae/val_*"].summary.min and axes["vae/val_*"].summary.last
    curve = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in vae
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["epoch"] for row in curve if "vae/train_loss" in row] == [0, 1]
    assert {"vae/final/val_loss"} <= set(curve[-1])


def records_of(file: Path) -> Iterator[Any]:
    """Records of an offline run: protobuf in LevelDB's log (blocks of 32 KiB; chunks of checksum, length, type)."""
    content, whole, at = file.read_bytes(), b"", 7
    while at + 7 <= len(content):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(whole)  # type: ignore[attr-defined]
            whole = b""
