"""stage=report from stored figures alone: the big files may be gone, and nothing is trained, encoded or fitted."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import SMALL, Result, report_of, run_here

BIG = ("vae", "latents", "prior", "features")
WRITTEN = ("report.html", "report.json", "config.yaml", "samples.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A whole run of which only the evaluation is left."""
    folder = tmp_path_factory.mktemp("made")
    result = run_here(folder, *SMALL)
    assert (result.code, result.err) == (0, ""), result
    for stage in BIG:
        shutil.rmtree(folder / "runs/store" / stage)
    return folder, result


def figures_of(folder: Path) -> dict[str, object]:
    """The report without what belongs to one writing of it."""
    report = report_of(folder)
    del report["provenance"]["run"]
    return report


def table_of(result: Result) -> str:
    """From the table's title to the verdict, as printed."""
    return result.out.split("what the learned prior bought")[1].split("report     ")[0]


def test_the_report_is_rebuilt_from_the_evaluation_alone(made: tuple[Path, Result]) -> None:
    folder, first = made
    before, stored = figures_of(folder), sorted(folder.glob("runs/store/**/*"))
    old = (folder / "runs/latest").resolve()
    old_page = (old / "report.html").read_text(encoding="utf-8")
    shutil.rmtree(old)
    again = run_here(folder, *SMALL, "stage=report", "upstream=require")
    assert (again.code, again.err) == (0, "")
    assert again.stages("unchanged, skipped") == ["evaluation"] and not again.stages("done in")
    assert sorted(folder.glob("runs/store/**/*")) == stored, "the store is as it was"
    assert figures_of(folder) == before
    assert table_of(again) == table_of(first)
    new = (folder / "runs/latest").resolve()
    assert all((new / name).stat().st_size for name in WRITTEN)
    page = (new / "report.html").read_text(encoding="utf-8").replace(new.name, old.name)
    assert page.replace("stage: report", "stage: all").replace("upstream: require", "upstream: run") == old_page


def test_where_it_was_measured_is_told_wherever_it_is_written(
    made: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = made
    (stored,) = folder.glob("runs/store/evaluation/*/circumstances.json")
    monkeypatch.setattr("platform.machine", lambda: "another machine")
    monkeypatch.setattr("expost.parts.identity._commit", lambda: "another commit")
    assert run_here(folder, *SMALL, "stage=report").code == 0
    provenance = report_of(folder)["provenance"]
    assert {key: provenance[key] for key in json.loads(stored.read_text(encoding="utf-8"))} == json.loads(
        stored.read_text(encoding="utf-8")
    )
    assert "another" not in json.dumps(provenance)


def test_without_figures_it_is_one_line_or_they_are_made(made: tuple[Path, Result]) -> None:
    folder, _ = made
    words = [word for word in SMALL if not word.startswith("prior.")] + ["prior=gaussian"]
    refused = run_here(folder, *words, "stage=report", "upstream=require")
    assert refused.code == 2 and len(refused.lines) == 1
    line, command = refused.lines[0].split("; make it with: ")
    assert "the evaluation of this configuration is not in" in line
    assert command.startswith("python pipeline.py stage=evaluate debug=fast") and "upstream" not in command
    assert not any((folder / "runs/store" / stage).exists() for stage in BIG)
    given = run_here(folder, *words, "stage=report")
    assert given.code == 0 and given.stages("done in") == [*BIG, "evaluation"]
    assert "gaussian" in report_of(folder)["rows"]
    again = run_here(folder, *command.replace("'", "").split()[2:])
    assert again.code == 0 and not again.stages("done in")


def test_damaged_figures_are_not_reported(made: tuple[Path, Result]) -> None:
    folder, _ = made
    for figures in folder.glob("runs/store/evaluation/*/figures.json"):
        figures.write_text(figures.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    assert run_here(folder, *SMALL, "stage=report", "upstream=require").code == 2
