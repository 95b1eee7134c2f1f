"""The W&B workspace as code: built and printed without a network, and every name in it is one that a run logs."""

import csv
import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wandb
from command_line import PROJECT, SMALL, run_here
from outside.wandb_runs import take_runs

from expost.evaluation.report import FIGURES

SCRIPT = PROJECT / "dashboards/workspace.py"
SECTIONS = ("Stage 1", "The door", "Stage 2", "Comparison", "Sweep")
NAMED = ("metrics", "xAxis", "yAxis", "accessor", "mediaKeys", "targetKey", "key")
PREFIXES = ("vae/", "latents/", "prior/", "features/", "evaluation/", "compare/")


@pytest.fixture(scope="module")
def workspace() -> ModuleType:
    if importlib.util.find_spec("wandb_workspaces") is None:
        pytest.skip("needs the extra: pip install -c constraints.txt -e '.[dashboards]'")
    spec = importlib.util.spec_from_file_location("workspace", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own validators are of pydantic's first version
        spec.loader.exec_module(module)
    return module


def strings(node: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from strings(inner)


def names_in(text: str) -> set[str]:
    """The figures, pictures and tables that a printed workspace shows."""
    bare = {text.removeprefix("summary:") for text in strings(json.loads(text))}
    return {text for text in bare if text.startswith(PREFIXES)}


def test_the_workspace_has_its_sections_and_survives_a_round_trip(workspace: ModuleType) -> None:
    made = workspace.workspace("someone", "expost")
    spec = json.loads(workspace.as_json(made))
    sections = spec["section"]["panelBankConfig"]["sections"]
    assert len(sections) == len(SECTIONS)
    assert all(found["name"].startswith(name) for found, name in zip(sections, SECTIONS, strict=True))
    assert all(found["panels"] for found in sections)
    assert len(names_in(workspace.as_json(made))) > 40
    again = type(made)._from_model(made._to_model())
    assert names_in(workspace.as_json(again)) == names_in(workspace.as_json(made))
    line = sections[0]["panels"][0]["config"]
    assert line["xAxis"] == "epoch" and line["metrics"] == ["vae/train_loss", "vae/val_loss"]


def test_every_name_in_it_is_logged_by_some_stage(
    workspace: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = take_runs(monkeypatch)
    logged = SMALL[:-1]
    words = ("logger=wandb", "paths.root=runs")
    gradient = ("prior=autoregressive", "prior.hidden=[16]", "prior.fit.max_epochs=2", "prior.fit.precision=null")
    assert run_here(tmp_path, *logged, *words).code == 0
    others = [word for word in logged if not word.startswith("prior.")]
    assert run_here(tmp_path, *others, *words, *gradient, "stage=prior").code == 0
    assert run_here(tmp_path, *words, "stage=compare").code == 0
    said = {name for run in runs for name in run.last}
    asked = names_in(workspace.as_json(workspace.workspace("someone", "expost")))
    absent = {"evaluation/final/learned/gap_closed"}  # None after two epochs: reconstructions are no better
    assert asked <= said | absent, f"no stage logs {sorted(asked - said - absent)}"
    assert {name.rsplit("/", 1)[1] for name in absent} <= set(FIGURES)
    for file in tmp_path.glob("runs/*/logs/*/metrics.csv"):
        stage = file.parent.name
        with file.open(encoding="utf-8") as lines:
            columns = set(next(csv.reader(lines))) - {"step"}
        assert {name if name.startswith(f"{stage}/") else f"{stage}/{name}" for name in columns} <= said


def test_a_dry_run_lists_its_panels_and_needs_no_name(
    workspace: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workspace.main(["--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Expost: 5 sections, ") and len(lines) < 70
    assert [line for line in lines[1:] if line.startswith(SECTIONS)] == [line for line in lines[1:] if line[:1].strip()]
    assert {"  Loss, nats", "  Gap closed", "  compare/comparison"} <= set(lines)
    panels = sum(line.startswith("  ") for line in lines)
    assert f", {panels} panels" in lines[0] and panels > 25


def test_the_whole_is_printed_as_json(workspace: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert workspace.main(["--project", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["section"]


def test_what_cannot_be_pushed_is_one_line(
    workspace: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(made: Any) -> None:
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(type(workspace.workspace("someone", "mine")), "save", refuse)
    for words, remedy in ((["--entity", "someone"], "`wandb login`"), ([], "--entity ENTITY")):
        assert workspace.main([*words, "--push"]) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1
        assert said.err.startswith("error: ") and remedy in said.err


def test_push_saves_what_was_built(
    workspace: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[Any] = []
    kind = type(workspace.workspace("someone", "mine"))
    monkeypatch.setattr(kind, "save", lambda made: saved.append(made))
    monkeypatch.setattr(kind, "url", "https://the.address")
    workspace.main(["--entity", "someone", "--project", "mine", "--push"])
    assert [(made.entity, made.project) for made in saved] == [("someone", "mine")]
    assert capsys.readouterr().out == "https://the.address\n"


def test_without_the_extra_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, runpy; sys.path.insert(0, '.'); runpy.run_path('{SCRIPT}')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "pip install" in done.stderr
