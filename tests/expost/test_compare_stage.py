"""stage=compare on stored runs: which it takes, what it writes, and what it answers to a mistake."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb
from command_line import SMALL, Result, run_here
from whole_run import run_lent

FREE = tuple(word for word in SMALL if "num_components" not in word)  # what holds for every prior


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a prior on the VAEs of two seeds, then one run of another prior under a name of its own."""
    folder = tmp_path_factory.mktemp("stored")
    swept = run_lent(folder, "-m", *FREE, "prior=gaussian", "seed=0,1")
    assert (swept.code, swept.err) == (0, "")
    alone = run_here(folder, *SMALL, "name=mine")
    assert (alone.code, alone.err) == (0, "")
    return folder


@pytest.fixture
def place(stored: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage; without the store, which nothing here needs."""
    ignored = shutil.ignore_patterns("store", "logs", "*.png")
    shutil.copytree(stored / "runs", tmp_path / "runs", ignore=ignored, symlinks=True)
    return tmp_path


def compare(place: Path, *words: str) -> Result:
    return run_here(place, "stage=compare", "logger=csv", *words)


def written(place: Path) -> Path:
    (folder,) = place.glob("runs/*-compare*")
    return folder


def table(place: Path) -> dict[str, dict[str, str]]:
    with (written(place) / "comparison.csv").open(encoding="utf-8") as file:
        return {line["prior"]: line for line in csv.DictReader(file)}


def sweep_of(place: Path) -> Path:
    (sweep,) = (place / "runs/sweeps").iterdir()
    return sweep


def run_of(place: Path) -> Path:
    (run,) = place.glob("runs/*-mine")
    return run


def test_a_sweep_stands_for_its_jobs_and_seeds_are_averaged(place: Path) -> None:
    latest = (place / "runs/latest").readlink()
    result = compare(place, f"compare.runs=[{sweep_of(place).name}]", "data=mnist")  # has no data.root: needs none
    assert (result.code, result.err) == (0, "")
    gaussian = table(place)["gaussian"]
    reports = [json.loads((sweep_of(place) / f"{job}/report.json").read_text(encoding="utf-8")) for job in range(2)]
    own = [report["rows"]["gaussian"]["rate_nats"] for report in reports]
    assert gaussian["num_seeds"] == "2" and float(gaussian["rate_nats"]) == pytest.approx(sum(own) / 2)
    assert float(gaussian["rate_nats_seed_std"]) == pytest.approx(abs(own[0] - own[1]) / 2**0.5)
    assert table(place)["N(0, I)"]["num_seeds"] == "2", "once a VAE, and there are two"
    assert {"comparison.csv", "comparison.md", "comparison.html", "comparison.png"} <= {
        path.name for path in written(place).iterdir()
    }
    assert f"{written(place).relative_to(place)}/comparison.html" in result.out
    assert (place / "runs/latest").readlink() == latest, "a comparison is no report"
    assert not (place / "runs/store").exists()
    assert "gaussian" in result.out and max(map(len, result.out.splitlines())) <= 120


def test_a_report_names_its_feature_net_without_making_it(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored / "runs/store", tmp_path / "runs/store")
    report = json.loads((run_of(stored) / "report.json").read_text(encoding="utf-8"))
    (net,) = (tmp_path / "runs/store/features").iterdir()
    assert report["provenance"]["features"] == net.name
    assert report["neighbours"] == 5 and report["annealing_settings"] is None
    shutil.rmtree(net.parent)
    result = run_here(tmp_path, *SMALL, "name=again", "stage=report", "upstream=require")
    assert (result.code, result.err) == (0, "")
    (again,) = (tmp_path / "runs").glob("*-again")
    assert json.loads((again / "report.json").read_text(encoding="utf-8"))["provenance"]["features"] == net.name
    assert not net.parent.exists(), "a feature net was trained for a stored report"


def test_names_paths_and_latest_are_runs_and_a_second_comparison_is_none(place: Path) -> None:
    job = f"sweeps/{sweep_of(place).name}/0"
    result = compare(place, f"compare.runs=[latest,{job},{run_of(place)}]", "compare.sort=rate_nats")
    assert (result.code, result.err) == (0, "")
    assert {"mixture num_components=5", "gaussian", "N(0, I)"} <= table(place).keys()
    assert table(place)["N(0, I)"]["num_seeds"] == "1", "all three stand on one VAE"
    assert compare(place, "compare.group=compare").code == 2


def test_without_a_word_it_takes_what_goes_with_the_newest_and_says_so(place: Path) -> None:
    result = compare(place)
    assert result.code == 0 and "3 runs on the same VAE as the newest" in result.out
    shutil.rmtree(run_of(place))
    shutil.rmtree(written(place))
    result = compare(place)
    assert result.code == 0 and "2 runs of the last sweep" in result.out


def test_a_group(place: Path) -> None:
    result = compare(place, "compare.group=mine")
    assert result.code == 0 and "1 run of the group mine" in result.out
    assert "mixture num_components=5" in table(place)


def test_wandb_gets_the_table_and_the_figure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    logged: dict[str, Any] = {}

    class Fake:
        summary: ClassVar[dict[str, Any]] = {}
        config = type("Config", (), {"update": lambda *_, **__: None})()
        step = 0
        id = "abc"

        def log(self, figures: dict[str, Any], **_: Any) -> None:
            logged.update(figures)

        def define_metric(self, *_: Any, **__: Any) -> None: ...

        def finish(self, exit_code: int = 0) -> None:
            logged["exit_code"] = exit_code

    def init(**words: Any) -> Fake:
        asked.update(words)
        return Fake()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run_here(place, "stage=compare", "compare.runs=[latest]").code == 0
    assert asked["job_type"] == "compare" and logged["exit_code"] == 0
    (table,) = (value for value in logged.values() if isinstance(value, wandb.Table))
    assert "rate_nats" in table.columns and len(table.data) >= 4
    assert any(isinstance(value, wandb.Image) for value in logged.values())


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        target = report["provenance"] if key in report["provenance"] and key != "data" else report
        target[key] = value
    path.write_text(json.dumps(report), encoding="utf-8")


def refused(result: Result, *words: str) -> None:
    assert result.code == 2 and len(result.lines) == 1 and result.lines[0].startswith("error: "), result
    for word in words:
        assert word in result.lines[0], result.lines[0]


def test_mistakes_get_one_line(place: Path) -> None:
    name = run_of(place).name
    refused(compare(place, "paths.root=elsewhere"), "there is no run in elsewhere", "paths.root")
    refused(compare(place, f"compare.runs=[{name[:-1]}]"), f"did you mean {name!r}?")
    refused(compare(place, "compare.group=mime"), "did you mean 'mine'?")
    refused(compare(place, "compare.sort=frechet"), "did you mean 'frechet_distance'?")
    refused(compare(place, "compare.group=mine", f"compare.runs=[{name}]"), "give one of them")
    (place / "runs/empty").mkdir()
    refused(compare(place, "compare.runs=[empty]"), "holds no report.json")
    assert not list(place.glob("runs/*-compare*")), "a refusal leaves nothing behind"


def test_runs_that_cannot_be_compared_get_one_line(place: Path) -> None:
    both = f"compare.runs=[{run_of(place).name},{sweep_of(place).name}]"
    edited(run_of(place), features="2048 features of another net")
    refused(compare(place, both), "different feature nets", "choose with compare.runs=")
    assert compare(place).code == 0, "without a word, only what is comparable is taken"
    (run_of(place) / "report.json").write_text('{"rows": ', encoding="utf-8")
    refused(compare(place, both), run_of(place).name, "damaged")
    (run_of(place) / "report.json").write_bytes(b"\xff\xfe")
    refused(compare(place, both), "cannot be read")
    (run_of(place) / "report.json").write_text('{"name": "of another project"}', encoding="utf-8")
    refused(compare(place, both), "not a report of this project")
