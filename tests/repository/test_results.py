"""docs/RESULTS.md: our figures come from stored runs alone and stand beside the published ones, told as they are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import PROJECT

sys.path.insert(0, str(PROJECT))

from benchmarks import child, figures, results
from benchmarks.codes.table import RECIPE
from benchmarks.published import RECIPES
from benchmarks.pythae import __main__ as against_pythae
from benchmarks.pythae import codes
from benchmarks.pythae.sides import Side
from benchmarks.shelf.table import NAMES, words_for
from expost.parts.priors import is_able, prior_nodes
from stage1_vae.latents import LatentSpec
from stage1_vae.machine import BF16_FLAGS, has_native_bf16


def store(
    root: Path, name: str, recipe: str, rows: dict[str, Any], seed: int = 0, samples: int = 5000, **provenance: Any
) -> None:
    """A stored run of `recipe` with bounds by `samples` importance samples."""
    facts = {
        "date": f"2026-01-0{seed + 1} 10:00",
        "commit": "abc1234",
        "hardware": "x86_64, 2 threads, no GPU",
        "torch": "2.13.0",
        "seeds": {"vae": seed, "prior": seed, "sample": seed},
        "vae": f"{recipe}{seed}",
        "data": "f00d",
        "prior": name,
        "evaluation": name,
        "group": recipe,
        "stage1": recipe,
        "stage2": "standard_normal",
        "likelihood": "Bernoulli on dynamic binary pixels",
        "vae_recipe": recipe,
        "prior_recipe": f"{recipe} prior",
        **provenance,
    }
    report = {
        "data": "mnist",
        "features": "64 features of a small classifier",
        "reference": "10,000 test images",
        "num_samples": 10_000,
        "num_bound_images": 10_000,
        "importance_samples": samples,
        "baseline": "standard_normal",
        "rows": rows,
        "provenance": facts,
    }
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of one recipe that falls short, one of another in features of its own."""
    root = tmp_path / "runs"
    for seed, bound in enumerate((88.0, 88.5)):
        store(root, f"vae{seed}", "mnist_dynamic_vae", {"standard_normal": {"iwae_nats": bound}}, seed)
    rows = {"standard_normal": {"frechet_distance": 5.0}, "mixture": {"frechet_distance": 1.25, "fit_seconds": 2.0}}
    store(root, "rae", "mnist_rae_vae", rows, stage2="mixture num_components=10")
    return root


def generate(runs: Path, out: Path) -> str:
    assert results.main(["--runs", str(runs), "--measured", str(runs / "none"), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_page_shows_ours_beside_the_published_and_where_it_falls_short(runs: Path, tmp_path: Path) -> None:
    page = generate(runs, tmp_path / "docs" / "RESULTS.md")
    (line,) = (line for line in page.splitlines() if line.startswith("| [mnist_dynamic_vae]"))
    assert "| 86.76 | 88.25 ± 0.35 | 1.49 | 10,000 test images |" in line
    assert "1.49 nats short (standard error 0.25)" in page
    (mixture,) = (line for line in page.splitlines() if line.startswith("| [mnist_rae_vae]") and "mixture" in line)
    assert "| 17.66 | 1.250 | other features: no common scale |" in mixture
    unrun = [claim for recipe in RECIPES[1:] if recipe.experiment != "mnist_rae_vae" for claim in recipe.claims]
    assert sum("| not run | - |" in line for line in page.splitlines()) == len(unrun)
    assert page.count("**Not run.**") == len(RECIPES) - 2
    for fact in ("2026-01-01 10:00; 2026-01-02 10:00", "abc1234", "x86_64, 2 threads", "seeds: 0; 1", "5,000 samples"):
        assert fact in page, fact
    assert "64 features of a small classifier" in page and results.COMMAND in page


def test_a_bound_by_fewer_samples_stands_beside_no_published_one(runs: Path, tmp_path: Path) -> None:
    """The newest run of each recipe took 64 samples; one recipe has older runs of 5,000, the other none."""
    row = {"standard_normal": {"iwae_nats": 91.0}}
    for recipe in ("mnist_dynamic_vae", "mnist_dynamic_iwae50"):
        store(runs, f"quick {recipe}", recipe, row, seed=8, samples=64)
    page = generate(runs, tmp_path / "R.md")
    (line,) = (line for line in page.splitlines() if line.startswith("| [mnist_dynamic_vae]"))
    assert "| 86.76 | 88.25 ± 0.35 | 1.49 |" in line
    assert "runs left out, because they were measured on other terms: 1." in page
    (line,) = (line for line in page.splitlines() if line.startswith("| [mnist_dynamic_iwae50]"))
    assert "| 84.78 | not run | - | - |" in line
    assert "published 84.78; not run with 5,000 importance samples." in page and "64 samples an image" in page


def test_a_prior_that_learned_with_the_vae_stands_beside_its_own_claim_alone(runs: Path, tmp_path: Path) -> None:
    joint = "mnist_dynamic_mlp, then joint (max_epochs=1)"
    rows = {"autoregressive": {"iwae_nats": 81.0}}
    store(runs, "joint", "mnist_dynamic_mlp", rows, stage1=joint, stage2="autoregressive", vae_recipe="joint")
    rows = {"autoregressive": {"iwae_nats": 83.0}}
    store(runs, "frozen", "mnist_dynamic_mlp", rows, stage2="autoregressive")
    page = generate(runs, tmp_path / "R.md")
    assert "published 82.09, ours 81.00, then joint (max_epochs=1): reached, by 1.09 nats." in page


def test_what_benchmarks_measured_stands_after_the_recipes(runs: Path, tmp_path: Path) -> None:
    measured = tmp_path / "measured"
    measured.mkdir()
    for name in ("b", "a"):
        (measured / f"{name}.md").write_text(f"## Table {name}\n\n| x |\n|---|\n| {name} |\n", encoding="utf-8")
    (measured / "notes.txt").write_text("no section", encoding="utf-8")
    out = tmp_path / "R.md"
    assert results.main(["--runs", str(runs), "--measured", str(measured), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    heads = ("## mnist_resnet_flow", "## Table a", "## Table b", "## Published figures")
    places = [text.index(words) for words in heads]
    assert places == sorted(places) and "| b |\n\n## Published" in text and "no section" not in text


def test_same_runs_same_bytes(runs: Path, tmp_path: Path) -> None:
    first = results.page([results.load(runs, folder) for folder in results.report_folders(runs)])
    for folder in sorted(runs.iterdir(), reverse=True):  # other times of writing, the same content
        (folder / "report.json").write_text((folder / "report.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert results.page([results.load(runs, folder) for folder in results.report_folders(runs)]) == first


def test_a_figure_that_beats_the_published_one_and_changed_settings_are_told(runs: Path) -> None:
    changed = {"stage1": "mnist_dynamic_iwae50 max_epochs=5", "vae_recipe": "w"}
    store(runs, "iwae", "mnist_dynamic_iwae50", {"standard_normal": {"iwae_nats": 84.0}}, **changed)  # type: ignore[arg-type]
    page = results.page([results.load(runs, folder) for folder in results.report_folders(runs)])
    assert "reached, by 0.78 nats" in page and "ours 84.00 with max_epochs=5" in page
    store(runs, "iwae0", "mnist_dynamic_iwae50", {"standard_normal": {"iwae_nats": 85.0}})
    page = results.page([results.load(runs, folder) for folder in results.report_folders(runs)])
    assert "0.22 nats short" in page and "with max_epochs=5:" not in page, "the recipe as it is comes first"


def test_every_recipe_is_an_experiment_of_that_name() -> None:
    for recipe in RECIPES:
        text = (PROJECT / f"conf/experiment/{recipe.experiment}.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text)["name"] == recipe.experiment
        assert "prior" not in yaml.safe_load(text), "an experiment that sets a prior leaks into every other"
        for claim in recipe.claims:
            assert f"{claim.published:.2f}" in text, f"{recipe.experiment} does not say what it aims at"


def test_an_empty_folder_gives_a_page_and_damage_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = generate(tmp_path / "none", tmp_path / "R.md")
    assert page.count("**Not run.**") == len(RECIPES)
    store(tmp_path / "bad", "a", "mnist_rae_ae", {})
    capsys.readouterr()
    assert results.main(["--runs", str(tmp_path / "bad"), "--out", str(tmp_path / "B.md")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: a: report.json") and line.count("\n") == 1
    assert not (tmp_path / "B.md").exists()


def test_a_section_says_whether_its_machine_has_bfloat16() -> None:
    with_it = has_native_bf16(torch.device("cpu"))
    assert f"cores {'with' if with_it else 'without'} instructions for bfloat16" in child.machine()
    assert child.BF16_FLAGS == BF16_FLAGS


def test_every_section_has_its_benchmark_and_every_benchmark_that_writes_one_is_among_them() -> None:
    """A section that no benchmark wrote would be put together by hand."""
    sections = {file.stem for file in figures.MEASURED.glob("*.md")}
    assert sections <= set(figures.SECTIONS)
    writing = {
        ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__main__")
        for file in (PROJECT / "benchmarks").rglob("*.py")
        if '"--out"' in file.read_text(encoding="utf-8")
    }
    others = {"benchmarks.results", "benchmarks.questions", "benchmarks.figures"}  # of pages of their own
    assert {section.module for section in figures.SECTIONS.values()} == writing - others


def test_figures_say_what_they_lack_and_what_broke_and_leave_the_section_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "MEASURED", tmp_path)
    (tmp_path / "masked.md").write_text("as it was", encoding="utf-8")
    assert not figures.measure("masked", {"mnist": None}, tmp_path / "logs")
    assert "masked: left out, it needs --mnist DIR" in capsys.readouterr().out
    assert not figures.measure("masked", {"mnist": tmp_path / "nowhere"}, tmp_path / "logs")
    assert "masked: FAILED" in capsys.readouterr().out
    assert (tmp_path / "masked.md").read_text(encoding="utf-8") == "as it was"
    assert "nowhere" in (tmp_path / "logs" / "masked.log").read_text(encoding="utf-8")


def codes_measured(side: int, *_: Any) -> tuple[list[Side], dict[str, list[float]]]:
    """Two rounds of 100 images of each side of the comparison of codes, of which none was run."""
    sides, process = [], subprocess.Popen([sys.executable, "-c", ""], encoding="utf-8")
    process.wait()
    for name, nats, seconds in ((codes.SHIPPED, 138.375, 4.0), (codes.EVALUATING, 138.375, 2.5), (codes.OURS, 95.0, 1)):
        facts = {"name": name, "torch": "2.13.0", "python": "3.11.7", "threads": 1, "nats": nats}
        sides.append(Side(name, process, Path("log"), facts, [seconds, 2 * seconds]))
    return sides, {at.name: [seconds / 2 for seconds in at.seconds] for at in sides}


def test_codes_against_pythae_are_written_where_the_figures_want_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, and with no side of it run: `figures` takes a page that is not written for a failure."""
    section, out = figures.SECTIONS["vs_pythae_codes"], tmp_path / "page.md"
    monkeypatch.setattr(codes, "compare_codes", codes_measured)
    monkeypatch.setattr(against_pythae, "pythae_python", lambda folder: folder)
    words = [section.module, *section.words, "--out", str(out), "--data", str(tmp_path), "--samples", "100"]
    monkeypatch.setattr(sys, "argv", words)
    assert against_pythae.main() == 1
    head, *rows = [line for line in out.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    page = (figures.MEASURED / "vs_pythae_codes.md").read_text(encoding="utf-8")
    assert out.read_text(encoding="utf-8").splitlines()[0] == page.splitlines()[0] and head in page.splitlines()
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {grid}", name] for grid in ("7x7", "4x4") for name in (codes.SHIPPED, codes.EVALUATING, codes.OURS)
    ]
    assert rows[0] == f"| 7x7 | {codes.SHIPPED} | 3 | 138.38 | 19 (12 - 25) | 38 | 4.0 |"
    assert rows[2] == f"| 7x7 | {codes.OURS} | 1 | 95.00 | 75 (50 - 100) | 150 | - |"
    assert "7x7, 3 times the images a second of both: MISSED; 7x7, no more nats: reached" in out.read_text(
        encoding="utf-8"
    )
    assert {"prior.fit.max_epochs=1", "prior.width=64", "prior.depth=3"} <= set(RECIPE), "which the rows name"


def test_one_file_takes_no_two_parts_against_pythae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pythae", "--data", str(tmp_path), "--out", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit) as ended:
        against_pythae.main()
    assert ended.value.code == 2 and "a file holds the section of one part" in capsys.readouterr().err


def test_the_shelf_holds_priors_of_vectors_alone() -> None:
    spec, offered = LatentSpec((16,)), prior_nodes()
    able = {name for name, node in offered.items() if is_able(node, spec, offered)}
    words = {words_for(name)[0].removeprefix("prior=") for name in NAMES}
    assert words <= able
    assert able - words <= {"glow", "masked", "transformer"}, "they take over from what is asked for, and are in no row"
