"""What a command imports that has nothing to do: neither Lightning nor, where the same was asked before, torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROJECT, SMALL, STAGES, report_of

HEAVY = {"pytorch_lightning", "torchmetrics", "scipy", "sklearn", "matplotlib", "wandb"}


def imported(folder: Path, *command: str) -> tuple[set[str], str]:
    """The packages that Python imports for `python COMMAND` in `folder`, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    names = (line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in names}, done.stdout


def pipeline(folder: Path, *words: str) -> tuple[set[str], str]:
    return imported(folder, str(PROJECT / "pipeline.py"), *SMALL, *words)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything was made once."""
    folder = tmp_path_factory.mktemp("root")
    names, out = pipeline(folder)
    assert names >= {"torch", "pytorch_lightning", "torchmetrics", "scipy", "matplotlib"} and out.count(
        " done in "
    ) == len(STAGES)
    return folder


def test_the_package_alone_imports_neither_torch_nor_lightning(tmp_path: Path) -> None:
    names, _ = imported(tmp_path, "-c", "import expost; print(expost.__all__)")
    assert "expost" in names and not names & {*HEAVY, "torch", "numpy", "hydra", "pydantic"}


@pytest.mark.parametrize("words", [(), ("stage=evaluate",), ("stage=report",)])
def test_what_was_asked_before_is_answered_without_torch(root: Path, words: tuple[str, ...]) -> None:
    names, out = pipeline(root, *words)
    assert not names & {*HEAVY, "torch"}
    skipped = ["evaluation"] if words == ("stage=report",) else STAGES
    assert [line.split()[0] for line in out.splitlines() if "unchanged, skipped" in line] == skipped


def test_a_sweep_of_what_was_asked_before_imports_no_torch(root: Path) -> None:
    grid = ("-m", "prior.num_components=3,4")
    first, _ = pipeline(root, *grid)
    again, out = pipeline(root, *grid)
    assert "torch" in first and "torch" not in again
    assert out.count("unchanged, skipped") == 2 * len(STAGES)


def test_what_is_in_the_store_is_found_without_lightning(root: Path) -> None:
    """Where nothing was written down: keys come from images and nets."""
    for path in (root / "runs/store/.answers").iterdir():
        path.unlink()
    pipeline(root, "stage=sample", "sample.num=2")
    for words in ((), ("stage=report",), ("stage=prior",), ("stage=sample", "sample.num=2")):
        names, _ = pipeline(root, *words, f"name=run{len(words)}")
        assert "torch" in names and not names & HEAVY


def test_the_answer_is_what_would_be_worked_out(root: Path) -> None:
    """Every file of the run's folder and every line, but for the name of that folder."""

    def outcome() -> tuple[dict[str, bytes], str, dict[str, object]]:
        _, out = pipeline(root, "stage=all")
        folder = (root / "runs/latest").resolve()
        files = {p.name: p.read_bytes().replace(folder.name.encode(), b"RUN") for p in folder.iterdir() if p.is_file()}
        return files, out.replace(folder.name, "RUN"), report_of(root)["provenance"]

    pipeline(root, "stage=all")
    remembered = outcome()
    for path in (root / "runs/store/.answers").iterdir():
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(content | {"checksum": "0" * 64}), encoding="utf-8")
    worked_out = outcome()
    assert remembered[:2] == worked_out[:2] and "report.html" in remembered[0]
    assert {**remembered[2], "run": ""} == {**worked_out[2], "run": ""}
