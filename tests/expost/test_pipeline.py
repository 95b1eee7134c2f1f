"""The pipeline from end to end on real images: what it writes, what it skips, what it notices."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from command_line import SMALL, Result, keys, report_of, run_here
from PIL import Image
from safetensors.numpy import load_file
from whole_run import ALL, BOUNDS, DISTANCES, FIT, LATENTS, ROWS, finite, null, run

from expost import pipeline
from expost.__main__ import help_text
from expost.base.errors import UserError
from expost.config.schema import Stage
from expost.evaluation.page import PICTURES as OF_ALL_KINDS
from expost.store.artifacts import MANIFEST

PICTURES = OF_ALL_KINDS.keys() - {"codes", "classes", "maps", "marginals", "profiles", "columns", "traversals"}
"""Of real latents; after two epochs no dimension is active yet, and there is nothing to traverse."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One whole run that the tests below only look at or build on."""
    folder = tmp_path_factory.mktemp("made")
    result = run_here(folder, *SMALL)  # from nothing: no feature net is lent
    assert (result.code, result.err) == (0, ""), result
    return folder, result


def test_report_has_the_promised_structure(made: tuple[Path, Result]) -> None:
    report = report_of(made[0])
    assert report["data"] == "digits" and report["baseline"] == "standard_normal"
    assert "classifier" in report["features"]
    assert tuple(report["rows"]) == ROWS
    for name, row in report["rows"].items():
        assert set(row) == {*ALL, "notes", "spread"} | ({"gain"} if name == "mixture" else set())
        assert set(row["spread"]) <= set(ALL) and row["spread"]["frechet_distance"] > 0
        finite(row["spread"], row["spread"])
    rows = report["rows"]
    for name in ("standard_normal", "mixture"):
        finite(rows[name], (*BOUNDS, *DISTANCES, *LATENTS, *FIT, "memorisation", "samples_per_second"))
        null(rows[name], ["ais_nats"])
        assert {"frechet_distance", "memorisation", "iwae_nats", "two_sample_accuracy"} <= set(rows[name]["spread"])
    assert (rows["mixture"]["gap_closed"] is None) == ("gap_closed" not in rows["mixture"]["spread"])
    finite(rows["aggregate_draws"], (*DISTANCES, "memorisation", "rate_nats", "latent_nll_nats", "marginal_kl_nats"))
    null(rows["aggregate_draws"], ("elbo_nats", "iwae_nats", *FIT, "gap_closed"))
    null(rows["train_against_test"], ["memorisation"])  # copies by construction
    assert report["surgery"]["train"]["ceiling_nats"] == pytest.approx(math.log(1258))
    for name in ("reconstructions", "train_against_test"):
        finite(rows[name], DISTANCES)
        null(rows[name], (*(key for key in BOUNDS if key != "distortion_nats"), *FIT, "gap_closed"))
    finite(rows["reconstructions"], ["distortion_nats"])
    null(rows["train_against_test"], ["distortion_nats"])
    null(rows["standard_normal"], ["gap_closed"])
    assert report["rows"]["standard_normal"]["num_parameters"] == 0 < rows["mixture"]["num_parameters"]


def test_figures_obey_their_definitions(made: tuple[Path, Result]) -> None:
    rows = report_of(made[0])["rows"]
    for row in (rows["standard_normal"], rows["mixture"]):
        assert row["elbo_nats"] == pytest.approx(row["distortion_nats"] + row["rate_nats"], abs=1e-6)
        assert row["iwae_nats"] < row["elbo_nats"]
        assert row["bits_per_dim"] == pytest.approx(row["iwae_nats"] / 64 / math.log(2))  # 17 levels: a mass
        assert row["num_samples"] == 256
    base, mixture = rows["standard_normal"], rows["mixture"]
    assert base["distortion_nats"] == mixture["distortion_nats"]
    # the entropy of q(z|x) is shared: a nat of rate is a nat of held-out density, up to the noise of different draws
    assert base["rate_nats"] - mixture["rate_nats"] == pytest.approx(
        base["latent_nll_nats"] - mixture["latent_nll_nats"], abs=0.4
    )


def test_latest_leads_to_everything_that_was_written(made: tuple[Path, Result]) -> None:
    latest = made[0] / "runs/latest"
    assert latest.is_symlink() and not Path(latest.readlink()).is_absolute()
    names = {path.name for path in latest.iterdir()}
    assert names == {"report.json", "report.html", "config.yaml", "logs", *(f"{stem}.png" for stem in PICTURES)}
    for stem in PICTURES:
        with Image.open(latest / f"{stem}.png") as picture:
            assert np.asarray(picture).std() > 0
    page = (latest / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(PICTURES) and "://" not in page.split("<pre", 1)[0]
    explored = json.loads(page.split('id="exploration">', 1)[1].split("</script>", 1)[0])
    assert [len(cloud["x"]) for cloud in explored["clouds"]] == [256] * 3
    assert explored["points"]["address"].startswith("data:image/jpeg;base64,/9j/")
    config = yaml.safe_load((latest / "config.yaml").read_text(encoding="utf-8"))
    assert config["trainer"]["max_epochs"] == 2 and config["prior"]["num_components"] == 5


def test_terminal_shows_table_paths_and_next_command(made: tuple[Path, Result]) -> None:
    folder, result = made
    assert result.stages("done in") == ["vae", "latents", "prior", "features", "evaluation"]
    assert "Frechet distance" in result.out and "train" in result.out
    page = next(line.split()[1] for line in result.out.splitlines() if line.startswith("report "))
    assert (folder / page).is_file()
    following = next(line for line in result.out.splitlines() if line.startswith("next "))
    assert "python pipeline.py stage=sample" in following and "net.hidden=[32]" in following.replace("'", "")


def test_store_holds_one_folder_a_stage(made: tuple[Path, Result]) -> None:
    store = made[0] / "runs/store"
    for stage in ("vae", "latents", "prior", "features", "evaluation"):
        assert len(keys(made[0], stage)) == 1, stage
    vae = next(store.glob("vae/*"))
    assert {path.name for path in vae.iterdir()} == {"model.safetensors", "history.json", MANIFEST}
    latents = next(store.glob("latents/*"))
    for split, num in (("train", 1258), ("val", 180), ("test", 359)):
        assert np.load(latents / split / "loc.npy", allow_pickle=False).shape == (num, 16)
        assert np.load(latents / split / "labels.npy", allow_pickle=False).shape == (num,)


def test_what_has_not_changed_is_skipped_and_says_so(made: tuple[Path, Result]) -> None:
    folder, _ = made
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/store/*/*/*")}
    again = run(folder)
    assert again.stages("unchanged, skipped") == ["vae", "latents", "prior", "features", "evaluation"]
    assert not again.stages("done in")
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("runs/store/*/*/*")}
    neutral = run(
        folder, "logger.project=other", "trainer.accelerator=cpu", "trainer.progress=false", "name=another", "stage=vae"
    )
    assert neutral.stages("skipped") == ["vae"]
    assert run(folder, "trainer.num_workers=1", "stage=encode").stages("skipped") == ["vae", "latents"]


def test_another_prior_reuses_the_vae(made: tuple[Path, Result]) -> None:
    folder, _ = made
    result = run_here(folder, *(word for word in SMALL if "num_components" not in word), "prior=gaussian")
    assert result.code == 0 and result.err == ""
    assert result.stages("skipped") == ["vae", "latents", "features"]
    assert result.stages("done in") == ["prior", "evaluation"]
    assert len(list(folder.glob("runs/store/vae/**/model.safetensors"))) == 1
    assert tuple(report_of(folder)["rows"]) == ("standard_normal", "gaussian", *ROWS[2:])


def test_equal_seeds_give_equal_weights_and_figures_and_other_seeds_do_not(
    made: tuple[Path, Result], tmp_path: Path
) -> None:
    (tmp_path / "runs/store/features").mkdir(parents=True)  # so that the feature net is trained anew too
    run(tmp_path, "seed=7", "seeds.vae=0", "seeds.prior=0", "seeds.sample=0")  # seeds.* win over seed
    for stage, file in (("vae", "model"), ("prior", "prior"), ("features", "features")):
        (path,) = tmp_path.glob(f"runs/store/{stage}/*/{file}.safetensors")
        other = made[0] / "runs/store" / stage / path.parent.name / path.name  # the same key
        first, second = load_file(path), load_file(other)
        assert all(np.array_equal(first[name], second[name]) for name in first | second), stage
    ours, theirs = (report_of(folder)["rows"] for folder in (tmp_path, _rerun(made[0])))
    for row in ROWS:
        unlike = {k: (ours[row][k], theirs[row][k]) for k in ALL if ours[row][k] != theirs[row][k]}
        assert set(unlike) <= {"fit_seconds", "samples_per_second"}, (row, unlike)
    assert run(tmp_path, "seeds.prior=1", "stage=prior").stages("skipped") == ["vae", "latents"]
    assert run(tmp_path, "seed=1", "seeds.vae=0", "stage=vae").stages("skipped") == ["vae"]
    assert run(tmp_path, "seed=1", "stage=vae").stages("done in") == ["vae"]
    assert run(tmp_path, "trainer.lr=2e-3", "stage=vae").stages("done in") == ["vae"]
    one, two, three = (load_file(path) for path in tmp_path.glob("runs/store/vae/*/model.safetensors"))
    assert not any(np.array_equal(a[k], b[k]) for a, b in ((one, two), (two, three)) for k in a if k.endswith("weight"))


def _rerun(folder: Path) -> Path:
    """Make `latest` of the shared folder lead to the run with the mixture again."""
    run(folder)
    return folder


def test_each_stage_makes_what_it_needs_and_no_more(tmp_path: Path) -> None:
    assert run(tmp_path, "stage=vae").stages("done in") == ["vae"]
    encoded = run(tmp_path, "stage=encode")
    assert encoded.stages("skipped") == ["vae"] and encoded.stages("done in") == ["latents"]
    required = run_here(tmp_path, *SMALL, "stage=evaluate", "upstream=require")
    assert required.code == 2 and len(required.lines) == 1
    command = required.lines[0].split("make it with: ")[1]
    assert command.startswith("python pipeline.py stage=prior debug=fast") and "upstream" not in command
    fitted = run_here(tmp_path, *command.replace("'", "").split()[2:])
    assert fitted.code == 0 and fitted.stages("done in") == ["prior"]
    assert not (tmp_path / "runs/latest").exists()
    sampled = run(tmp_path, "stage=sample", "sample.num=3", "upstream=require")
    assert sampled.stages("skipped") == ["vae", "latents", "prior"] and sampled.stages("done in") == ["samples"]
    assert not (tmp_path / "runs/latest").exists()
    evaluated = run(tmp_path, "stage=evaluate", "upstream=require")
    assert evaluated.stages("done in")[-1:] == ["evaluation"]
    reported = run(tmp_path, "stage=report", "upstream=require")
    assert not reported.stages("done in") and (tmp_path / "runs/latest/report.json").is_file()


def test_check_runs_everything_and_keeps_a_sheet_of_images(tmp_path: Path) -> None:
    refused = run_here(tmp_path, "stage=check", "prior.num_components=99999")
    assert refused.code == 2 and not list(tmp_path.iterdir())
    result = run_here(tmp_path, "stage=check", "net=conv", "net.channels=[4,8]")
    assert (result.code, result.err) == (0, "") and "nothing else was kept" in result.out
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["runs", "runs/check-images.png"]


def test_check_reads_few_images_but_as_many_as_a_mixture_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = []

    def stop(goal: str, job: Any, parts: Any, given: Any) -> None:
        captured.append(parts)
        raise UserError("seen enough")

    monkeypatch.setattr(pipeline, "made", stop)
    for words in ((), ("prior.num_components=700",)):
        run_here(tmp_path, "stage=check", "experiment=oracle", "prior=mixture", "net.hidden=[8]", *words)
    assert [len(parts.data.train) for parts in captured] == [512, 700]


def test_check_keeps_enough_images_of_each_class_for_a_prior_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 classes, of which the last is rare and some images of it are held out."""
    labels = np.repeat(np.arange(25), [120] * 24 + [40])
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, label=labels)
    captured = []

    def stop(goal: str, job: Any, parts: Any, given: Any) -> None:
        captured.append(parts)
        raise UserError("seen enough")

    monkeypatch.setattr(pipeline, "made", stop)
    words = ("data=arrays", f"data.root={tmp_path / 'images.npz'}", "net.hidden=[8]", "prior=mixture")
    result = run_here(tmp_path, "stage=check", *words, "prior.conditional=true", "prior.num_components=20")
    assert "seen enough" in result.err, result
    (parts,) = captured
    assert parts.data.train.labels.bincount().min() >= 20 and len(parts.data.train) < 700
    refused = run_here(tmp_path, "stage=check", *words, "prior.conditional=true", "prior.num_components=41")
    assert "class 24 has" in refused.err, refused


def test_check_of_the_oracle_and_of_the_rings(tmp_path: Path) -> None:
    for words in (["experiment=oracle"], ["data=mixture_rings", "prior=gaussian"]):
        result = run_here(tmp_path, "stage=check", "net.hidden=[8]", *words)
        assert (result.code, result.err) == (0, "")


def test_check_of_an_autoregressive_prior(tmp_path: Path) -> None:
    result = run_here(tmp_path, "stage=check", "net.hidden=[32]", "prior=autoregressive", "prior.hidden=[16]")
    assert (result.code, result.err) == (0, "")


def test_a_damaged_vae_is_noticed_moved_aside_and_made_again(tmp_path: Path) -> None:
    run(tmp_path, "stage=vae")
    (file,) = tmp_path.glob("runs/store/vae/*/model.safetensors")
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert run(tmp_path, "stage=vae").stages("done in") == ["vae"]
    assert file.read_bytes() == whole  # the same seed, the same bytes
    (aside,) = (tmp_path / "runs/store/quarantine").iterdir()
    assert aside.name.startswith(f"vae-{file.parent.name}") and (aside / file.name).read_bytes() != whole


def test_autoregressive_prior_from_end_to_end(made: tuple[Path, Result]) -> None:
    folder, _ = made
    words = ("prior=autoregressive", "prior.hidden=[32,32]", "prior.fit.max_epochs=20", "prior.fit.precision=null")
    assert run(folder, *words).stages("done in") == ["prior", "evaluation"]
    row = report_of(folder)["rows"]["autoregressive"]
    finite(row, (*BOUNDS, *DISTANCES, *FIT))
    curve = json.loads(next(folder.glob("runs/store/prior/*/fit.json")).read_text(encoding="utf-8"))
    assert curve["num_parameters"] > 0


def test_every_word_of_stage_is_done_by_something_and_told_in_the_help() -> None:
    words = set(get_args(Stage))
    assert words == pipeline.GOALS.keys() | {"answer", "compare", "oracle", "plan", "store"}
    assert words <= set(help_text().split())
