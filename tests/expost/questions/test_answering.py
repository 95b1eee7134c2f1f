"""stage=answer, as it is typed: runs, table, sentences, picture; what it refuses."""

import json
import math
from pathlib import Path

import pytest
from command_line import run_here
from PIL import Image

from expost.base.errors import UserError
from expost.evaluation.annealing.path import Annealed
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.questions import answering
from expost.questions.matched import mean_rates
from stage1_vae.latents import LatentDataset

LITTLE = (
    "question.num_seeds=2",
    "trainer.max_epochs=2",
    "evaluation.num_samples=200",
    "evaluation.importance_samples=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


def test_the_quilt_is_answered_and_found_again(folder: Path) -> None:
    done = run_here(folder, "experiment=questions/quilt", *LITTLE)
    assert done.code == 0, done.err
    assert "Does q(z) match N(0, I)" in done.out and "run        4 of 4: 16 dimensions, seed 1" in done.out
    latest = folder / "runs" / "latest"
    answer = json.loads((latest / "answer.json").read_text(encoding="utf-8"))
    assert [row[""] for row in answer["rows"]] == ["2 dimensions", "16 dimensions"]
    assert len(answer["runs"]) == 4 and all(set(answer["columns"]) <= set(run) for run in answer["runs"])
    tests = [LatentDataset.load(path) for path in (folder / "runs" / "store" / "latents").glob("*/test")]
    rates = sorted(mean_rates(latents).sum().item() for latents in tests)
    assert sorted(run["rate"] for run in answer["runs"]) == pytest.approx(rates), "of the test images, and of each run"
    for run in answer["runs"]:
        assert run["matched_kl"] > run["rate"] - math.log(359) - 0.5, "as many images, and as many draws of each"
    assert answer["images"] == {"train": 1258, "val": 180, "test": 359}
    assert "images: 1,258 for training, 180 for validation, 359 for the test; 2 seeds" in done.out
    assert "an exact match" in "".join(answer["sentences"]) and answer["command"].endswith(" ".join(LITTLE))
    with Image.open(latest / "answer.png") as picture:
        assert picture.width > 600 and len(picture.convert("RGB").getcolors(2**24)) > 50

    artifacts = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "store").glob("*/*/manifest.json")}
    again = run_here(folder, "experiment=questions/quilt", *LITTLE)
    assert again.code == 0, again.err
    found = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "store").glob("*/*/manifest.json")}
    assert found == artifacts, "what is in the store is not made again"
    repeated = json.loads((folder / "runs" / "latest" / "answer.json").read_text(encoding="utf-8"))
    assert repeated["runs"] == answer["runs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stage=answer",), "choose one by experiment=questions/NAME"),
        (
            ("experiment=questions/quilt", "vae.bottleneck.latent_dim=4"),
            "vae.bottleneck.latent_dim: this question sets",
        ),
        (("experiment=questions/training", "vae=bernoulli", "prior=unigram"), "these latents are bits; leave out vae="),
        (("experiment=questions/quilt", "question.num_seeds=0"), "question.num_seeds=0: give at least 1"),
        (("experiment=questions/quilt", "question.seeds=2"), "question.seeds: unknown key"),
        (("experiment=questions/quilt", "question._target_=pathlib.Path"), "is no question"),
        (("experiment=questions/quil",), "did you mean 'questions/quilt'"),
        (("experiment=questions/quilt", "data=mnist"), "data.root"),
        (("experiment=questions/size", "question.dims=[4]"), "give two or more different numbers"),
        (
            ("experiment=questions/absorbed", "question.early_epoch=9", "trainer.max_epochs=2"),
            "give an epoch within",
        ),
        (("experiment=questions/absorbed", "question.early_epoch=0"), "give at least 1"),
        (("experiment=questions/training", "question.steps=[1,2]"), "three or more"),
        (("experiment=questions/training", "net.hidden=[8]", "trainer.val_every=1"), "needs a linear decoder"),
        (("experiment=questions/perfect", "question.dims=[]"), "give one or more numbers"),
        (("experiment=questions/perfect", "question.dims=[2,64]"), "64 components of 64 pixels leave no noise"),
        (("experiment=questions/gradients", "question.samples=[2,4]"), "samples from 1 on"),
        (("experiment=questions/collapse", "question.sides=[8]"), "give two or more different sizes"),
        (("experiment=questions/collapse", "question.sides=[8,12]"), "digits are 8 x 8; give a multiple"),
        (("experiment=questions/absorbed", "trainer.val_every=3"), "trainer.val_every=3"),
        (("experiment=questions/training", "trainer.schedule=cosine"), "only under trainer.schedule=constant"),
        (("experiment=questions/training", "vae=learned_gaussian"), "trained against N(0, I)"),
        (("experiment=questions/perfect", "question.num_images=1"), "question.num_images=1: give at least 2"),
        (("experiment=questions/gradients", "vae.objective.beta=4"), "a loss that is the ELBO"),
        (("experiment=questions/training", "vae.objective.warmup_steps=9"), "a loss that is the ELBO"),
        (("experiment=questions/perfect", "vae=iwae"), "a loss that is the ELBO"),
        (("experiment=questions/perfect", "question.num_images=1000"), "there are 359 test images; give no more"),
        (("experiment=questions/collapse", "question.warmup_steps=600"), "training is 1,000 steps"),
        (("experiment=questions/size", "question.width=0"), "question.width=0: give at least 1"),
        (("experiment=questions/ladder", "prior.min_std=0.01"), "prior.min_std'; leave that out"),
        (("experiment=questions/collapse", "question.beta=1"), "a heavy weight is above 1"),
        (("experiment=questions/collapse", "data=mixture_rings"), "a choice that you made does not go together"),
        (("experiment=questions/scale", "seeds.vae=3"), "seeds.vae: seeds of a question differ"),
        (("experiment=questions/scale", "seeds={prior:3}"), "seeds.prior: seeds of a question differ"),
        (("experiment=questions/scale", "question.stds=[0.5,1.5,2]"), "1.0 among them"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run_here(tmp_path, *words)
    assert done.code == 2 and said in done.err, done.err
    assert len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err
    assert not list(tmp_path.glob("runs/store/vae/*")), "met before the first run is made"


def test_what_is_trained_is_in_the_mode_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning keeps the mode that it meets, and in that of evaluation nothing would be dropped out or normalised."""
    modes: list[bool] = []

    def noted(goal: str, job: Job, parts: ImageParts) -> None:
        modes.append(parts.vae.training)
        raise UserError("far enough")

    monkeypatch.setattr(answering, "made", noted)
    done = run_here(tmp_path, "experiment=questions/perfect")
    assert done.code == 2 and "far enough" in done.err and modes == [True]


def test_annealing_that_is_not_trusted_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Annealed, "mean_nats", lambda self: None)
    words = ("question.dims=[2]", "question.num_seeds=1", "question.num_images=2", "question.num_steps=2")
    done = run_here(tmp_path, "experiment=questions/perfect", *words, "trainer.max_epochs=1")
    assert done.code == 2 and "question.num_steps=2: annealing has no figure here" in done.err, done.err
    assert len(done.err.strip().splitlines()) == 1 and not list(tmp_path.glob("runs/*/answer.json"))
