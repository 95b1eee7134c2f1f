"""The plan: what it says a run will cost, beside what the run then costs."""

import json
import mmap
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, Result, run_here
from exported_model import job

from expost.base.errors import UserError
from expost.forecast.timing import lengthen, linear_seconds
from expost.job import Job
from expost.parts.assembly import ImageParts, assemble
from expost.plan.costs import annealing_factor, costs_of, power_seconds, surgery_seconds
from expost.plan.inputs import imagine_images
from expost.plan.probe import Probed, Probing, at_most, measure_in_fork, resident_bytes
from expost.plan.stages import (
    Iterations,
    few_latents,
    fit_iterations,
    imagine_inputs,
    imagine_params,
    probe_prior,
)
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import Sizes

STORED = {"vae": "vae", "encode": "latents", "prior": "prior", "features": "features", "evaluate": "evaluation"}
"""Stage -> its folder in the store."""
TEXTS = ("manifest.json", "history.json", "fit.json", "figures.json", "circumstances.json", "features.json")
GUESSED = (*TEXTS, "exploration.json", ".png", ".jpg")
"""Files of text and pictures, whose size no arithmetic gives to the byte."""
WORDS = (*SMALL, "prior.max_iter=4", "prior.tol=0")


def with_images(asked: Job) -> tuple[Job, ImageParts]:
    """The job and what was built for it."""
    built, parts = assemble(asked)
    return built, parts.of_images


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Result]:
    """A plan of the digits where the VAE is trained already, and then the run up to the prior."""
    folder = tmp_path_factory.mktemp("planned")
    assert run_here(folder, *WORDS, "stage=vae").code == 0
    result = run_here(folder, *WORDS, "stage=plan", "plan.out=plan.json", "plan.probe_seconds=0.01")
    assert (result.code, result.err) == (0, ""), result
    assert run_here(folder, *WORDS, "stage=prior").code == 0
    return folder, json.loads((folder / "plan.json").read_text(encoding="utf-8")), result


def test_what_was_taken_of_the_data_is_said_before_the_plan(planned: tuple[Path, dict[str, Any], Result]) -> None:
    lines = planned[2].out.splitlines()
    assert lines[0].startswith("data       digits: 1,258 training, 180 validation, 359 test, 1x8x8; 17 levels")


@pytest.fixture(scope="module")
def evaluated(planned: tuple[Path, dict[str, Any], Result]) -> None:
    assert run_here(planned[0], *WORDS, "stage=evaluate").code == 0


def sizes(folder: Path, stage: str) -> dict[str, int]:
    (artifact,) = (folder / "runs/store" / STORED[stage]).glob("[!.]*")
    paths = [path for path in artifact.rglob("*") if path.is_file()]
    return {path.relative_to(artifact).as_posix(): path.stat().st_size for path in paths}


def check_files(planned: tuple[Path, dict[str, Any], Result], stage: str) -> None:
    folder, plan, _ = planned
    real, files = sizes(folder, stage), plan["stages"][stage]["files"]
    exact = {name for name in real if not name.endswith(GUESSED) and not name.endswith("latents.json")}
    assert {name: files[name] for name in exact} == {name: real[name] for name in exact}
    assert exact or stage == "evaluate"
    assert sum(files.values()) == pytest.approx(sum(real.values()), rel=0.25)


@pytest.mark.parametrize("stage", ["vae", "encode", "prior"])
def test_every_file_of_the_store_is_planned_and_models_and_latents_to_the_byte(
    planned: tuple[Path, dict[str, Any], Result], stage: str
) -> None:
    check_files(planned, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["features", "evaluate"])
def test_so_is_every_file_of_an_evaluation(
    planned: tuple[Path, dict[str, Any], Result], evaluated: None, stage: str
) -> None:
    check_files(planned, stage)


def test_its_work_is_that_of_the_run(planned: tuple[Path, dict[str, Any], Result]) -> None:
    _, plan, result = planned
    assert plan["stages"]["vae"]["work"] == "20 steps of 128, 2 epochs"  # 1,258 images
    assert plan["stages"]["prior"]["work"] == "4 iterations at most"
    assert plan["stages"]["encode"]["work"] == "1,797 images"
    assert [stage for stage, cost in plan["stages"].items() if cost["cached"]] == ["vae"]
    assert "stored already" in " ".join(result.out.split())


def test_memory_and_time_are_of_the_right_size(planned: tuple[Path, dict[str, Any], Result]) -> None:
    folder, plan, _ = planned
    for stage, cost in plan["stages"].items():
        assert 200e6 < cost["memory_bytes"] < 2e9, stage
    assert real_seconds(folder, "encode") / 10 < plan["stages"]["encode"]["seconds"] < 60
    assert plan["total"]["seconds"] == pytest.approx(sum(cost["seconds"] for cost in plan["stages"].values()))


@pytest.mark.slow
def test_so_is_the_time_of_an_evaluation(
    planned: tuple[Path, dict[str, Any], Result], evaluated: None, tmp_path: Path
) -> None:
    """By probes long enough for what else the machine does."""
    shutil.copytree(planned[0] / "runs/store/vae", tmp_path / "runs/store/vae")
    assert run_here(tmp_path, *WORDS, "stage=plan", "plan.out=plan.json", "plan.probe_seconds=0.5").code == 0
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    for stage in ("features", "evaluate"):
        seconds = real_seconds(planned[0], stage)
        assert seconds / 5 < plan["stages"][stage]["seconds"] < seconds * 5, stage


def real_seconds(folder: Path, stage: str) -> float:
    manifest = json.loads(
        next((folder / "runs/store" / STORED[stage]).glob("[!.]*/manifest.json")).read_text(encoding="utf-8")
    )
    return float(manifest["finished"] - manifest["started"])


def test_images_that_are_only_talked_of_are_read_as_real_ones_would_be(tmp_path: Path) -> None:
    words = ("data=image_folder", "plan.num_images=3000", "plan.image_shape=[3,40,24]", "plan.num_test=50")
    data, reading = imagine_images(job(tmp_path, *words, "data.memory_limit_gib=0").config, tmp_path / "files")
    assert [len(split) for split in (data.train, data.val, data.test)] == [3000, 300, 50]
    batch = data.train.batch(torch.tensor([0, 1, 2999]))
    assert batch.shape == (3, 3, 40, 24) and batch.float().std() > 10
    assert reading.seconds > 0 and reading.peak_bytes > 3000 * 100
    held, _ = imagine_images(job(tmp_path, *words, "plan.num_classes=7").config, tmp_path / "held")
    assert held.train.batch(torch.tensor([2999])).shape == (1, 3, 40, 24)
    assert held.train.labels is not None and held.train.labels.max() == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan.num_images=1000",), "belong together"),
        (("data=image_folder", "plan.num_images=1000", "plan.image_shape=[5,8,8]"), "1, 3 or 4 channels"),
        (("plan.num_images=100000000", "plan.image_shape=[3,256,256]"), "data=image_folder, which reads them"),
        (("data=arrays", "plan.num_images=1000000", "plan.image_shape=[3,256,256]"), "data=image_folder, which reads"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_remedy(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        imagine_images(job(tmp_path, *words).config, tmp_path / "files")


def test_a_probe_is_charged_for_what_it_takes_and_gives_it_back() -> None:
    def filled(num: int) -> dict[str, int]:
        """Memory from the system: an allocator may have as much left from tests before this one."""
        taken = np.frombuffer(mmap.mmap(-1, num), np.uint8)
        taken[:] = 1
        return {"sum": int(taken.sum())}

    def taking(num: int) -> Probed:
        return measure_in_fork(lambda: filled(num), 1)

    before = resident_bytes()
    idle, busy, again = taking(1), taking(100 << 20), taking(1)
    assert busy.facts == {"sum": 100 << 20}
    assert busy.peak_bytes - idle.peak_bytes == pytest.approx(100 << 20, rel=0.05)
    assert abs(idle.peak_bytes - before) < 2**23
    assert abs(again.peak_bytes - idle.peak_bytes) < 2**23


def test_work_is_interrupted_and_only_there() -> None:
    done: list[int] = []
    with at_most(0.05):
        while True:
            done.append(1)
    assert done
    with at_most(30.0):
        done.clear()
    with at_most(0.01):
        pass
    time.sleep(0.03)  # the clock of a block that is over is off
    assert not done


def test_few_latents_are_read_as_the_many_that_they_stand_for() -> None:
    latents = LatentDataset(LatentSpec((4,)), "delta", {"loc": np.zeros((2**16, 4), dtype=np.float32)})  # 1 MiB
    assert not latents.fits_memory(Sizes().scale(1 / 512).in_memory_bytes)
    assert latents.fits_memory(Sizes().scale(1 / 256).in_memory_bytes)
    assert latents.fits_memory(Sizes().in_memory_bytes) and latents.fits_memory()


def test_a_mistake_in_a_probe_is_told_here() -> None:
    def work() -> dict[str, Any]:
        raise UserError("mend this")

    with pytest.raises(UserError, match="mend this"):
        measure_in_fork(work, 1)


def test_a_straight_line_is_followed_and_never_falls() -> None:
    assert linear_seconds([(10, 6.0), (30, 16.0)], 100) == pytest.approx(51.0)
    assert linear_seconds([(10, 16.0), (30, 6.0)], 100) == 6.0
    assert linear_seconds([(30, 6.0)], 60) == pytest.approx(12.0)


def test_work_that_grows_with_its_square_is_followed_as_that() -> None:
    assert power_seconds([(100, 1.0), (200, 4.0)], 1000) == pytest.approx(100.0)
    assert power_seconds([(100, 1.0), (200, 2.0)], 1000) == pytest.approx(10.0)
    assert power_seconds([(100, 1.0), (200, 9.0)], 1000) == pytest.approx(225.0)  # noise: nothing here is a cube


def test_work_is_made_longer_until_it_can_be_timed_and_no_longer() -> None:
    def run(num: int) -> float:
        return 0.001 + 0.01 * num

    times = lengthen(run, 1, 1000, 0.2)
    assert times[-2][1] < 0.2 <= times[-1][1] < 1.7
    assert lengthen(run, 5, 8, 100.0) == [(5, run(5)), (8, run(8))]
    assert lengthen(run, 50, 8, 0.01) == [(8, run(8))]


def test_the_surgery_grows_with_draws_times_images() -> None:
    latents = {"train": 100, "test": 100}
    own = [300 * (1e-5 + num * 1e-6) for num in (5, 10)]  # of the probe's few latents
    probe = {"surgery": [(5, own[0] + 0.5), (10, own[1] + 1.0)], "few_latents": latents}
    probe |= {"seconds_a_pair": 1e-6, "seconds_a_latent": 1e-5}
    counts = {"train": 10_000, "val": 5, "test": 1000}
    assert surgery_seconds(probe, 1000, counts) == pytest.approx(100 + 21.0 + 0.21)


def test_annealing_grows_with_its_images() -> None:
    assert annealing_factor(None) == 1.0
    assert annealing_factor({"num_images": 100, "bdmc_images": 0}) == 50.0
    assert annealing_factor({"num_images": 100, "bdmc_images": 40}) == pytest.approx(180 / 6)


@pytest.mark.slow
@pytest.mark.parametrize("vae", ["vq", "bernoulli"])
def test_discrete_latents_are_planned_to_the_byte(tmp_path: Path, vae: str) -> None:
    words = (f"vae={vae}", "debug=fast", "logger=csv", "prior=bigram", "evaluation.num_samples=64")
    result = run_here(tmp_path, *words, "stage=plan", "plan.out=plan.json", "plan.probe_seconds=0.01")
    assert (result.code, result.err) == (0, ""), result
    files = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["stages"]["encode"]["files"]
    assert run_here(tmp_path, *words, "stage=encode").code == 0
    real = {name: size for name, size in sizes(tmp_path, "encode").items() if name.endswith(".npy")}
    assert len(real) == 6 and {name: files[name] for name in files if name.endswith(".npy")} == real


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        (LatentSpec((5,), Support.CODES, ((2, 2), (1, 1)), (3, 700)), "codes"),
        (LatentSpec((6,), Support.BITS), "bits"),
        (LatentSpec((2, 3, 3)), "diagonal_normal"),
        (LatentSpec((4,)), "delta"),
        (LatentSpec((4,)), "draws"),
    ],
)
def test_latents_are_made_up_as_a_vae_would_store_them(spec: LatentSpec, family: str) -> None:
    params = imagine_params(spec, family)
    latents = LatentDataset(spec, family, params)
    assert {name: values.dtype for name, values in params.items()} == {name: spec.dtype(name) for name in params}
    z = latents.draw(torch.arange(len(latents)))
    assert z.shape == (len(latents), *spec.shape)
    if family == "codes":  # all of each book and none beyond
        assert [len(z[:, place].unique()) for place in range(5)] == [3, 3, 3, 3, pytest.approx(699, abs=3)]
        assert z.max() == 699
    else:
        assert z.double().std() == pytest.approx(0.5 if family == "bits" else 1.0, abs=0.05)


def test_passes_of_all_classes_are_counted_together() -> None:
    fit = Iterations(10, 9.0, {"0": [1.0, 2.0, 4.0], "1": [5.0, 6.0, 6.5]})
    assert (fit.seconds_a_pass, fit.num_passes, fit.once) == (2.5, 3, 1.5)


@pytest.mark.slow
def test_each_class_has_enough_few_latents_for_a_prior_of_its_own(tmp_path: Path) -> None:
    """25 classes, of which the last is rare."""
    labels = np.repeat(np.arange(25), [120] * 24 + [40])
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, label=labels)
    source = ("data=arrays", f"data.root={tmp_path / 'images.npz'}", "net.hidden=[8]", "plan.probe_seconds=0.001")
    words = (*source, "prior=mixture", "prior.conditional=true", "prior.num_components=20", "prior.max_iter=7")
    run = job(tmp_path, *words, "prior.lloyd_iterations=1")
    probing = Probing(*with_images(run), tmp_path / "scratch", 8)
    imagine_inputs(probing)
    facts = probe_prior(probing)
    assert facts["num"] == 7 and facts["more"] in (0, 1)
    assert all(1024 < num < 1100 for num, _ in facts["passes"])  # some more of the last class
    fit = fit_iterations(probing, few_latents(probing, 1024), 0.5, 2)
    assert set(fit.ends) == {str(y) for y in range(25)}
    one_fit = job(tmp_path, *words, "prior.conditional=false")
    alone = Probing(*with_images(one_fit), probing.scratch, 8)
    assert len(fit_iterations(alone, few_latents(alone, 1024), 0.5, 2).ends) == 1


def test_a_fit_by_gradient_is_left_when_it_was_timed(tmp_path: Path) -> None:
    words = ("net.hidden=[8]", "prior=autoregressive", "prior.hidden=[8]", "plan.probe_seconds=0.001")
    run = job(tmp_path, *words)
    probing = Probing(*with_images(run), tmp_path / "scratch", 8)
    imagine_inputs(probing)
    facts = probe_prior(probing)
    assert facts["epochs"] == 20
    assert facts["bytes_of_curve"] == facts["bytes_a_row"]  # one epoch was begun


@pytest.mark.parametrize(
    "words",
    [
        ("vae=flow_prior", "prior=learned"),
        ("prior=auto", "prior.members=[gaussian]", "prior.metric=frechet_distance"),
        ("prior=vamp_expost", "prior.num_components=2", "prior.fit.max_epochs=1"),
    ],
)
def test_no_probe_of_a_prior_trains_what_comes_before_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = job(tmp_path, "net.hidden=[8]", "trainer.max_epochs=1", "plan.probe_seconds=0.001", *words)
    probing = Probing(*with_images(run), tmp_path / "scratch", 8)
    imagine_inputs(probing)
    assert probe_prior(probing)["num_parameters"] > 0
    assert {folder.name for folder in (tmp_path / "scratch" / "prior").iterdir()} >= {"prior"}
    assert not any((tmp_path / "scratch" / "prior" / name).exists() for name in ("vae", "features"))


def test_ranks_share_the_steps_of_stage_1(planned: tuple[Path, dict[str, Any], Result], tmp_path: Path) -> None:
    """One rank's probe has its share of a batch: as many steps, each so much shorter."""
    plan = planned[1]
    facts = plan["probed"]
    config = job(tmp_path, *WORDS).config
    halved = config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 2})})
    one, two = ({cost.stage: cost for cost in costs_of(each, facts)} for each in (config, halved))
    assert one["vae"].seconds == pytest.approx(plan["stages"]["vae"]["seconds"])
    a_step = facts["probes"]["vae"]["seconds_a_step"]
    assert one["vae"].seconds - two["vae"].seconds >= 10 * a_step - 1e-9
    assert two["evaluate"].seconds == one["evaluate"].seconds
    assert two["vae"].work == one["vae"].work
