"""Three lines of Python do what the command does, and refuse in one line what it refuses."""

import json
import random
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import PROJECT, run_here
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from expost import LatentDataset, LearnedPrior, fit_prior, judge
from expost.base.places import CONF
from expost.config.defaults import LOADER, default_config, read_conf
from expost.config.schema import validate
from expost.direct import split
from expost.evaluation.report import Report, Row
from stage2_prior.fitting import FitReport
from stage2_prior.prior import innermost

NUM, SAMPLES = 240, 40
LABEL = np.arange(NUM) % 3
RNG = np.random.default_rng(0)
LOC = (RNG.normal(size=(NUM, 3)) + 2 * LABEL[:, None]).astype("f4")
DEAD = np.concatenate([LOC, np.full((NUM, 1), 7.0, "f4")], 1)
DOUBLED = np.concatenate([LOC, LOC[:, 1:2], LOC.sum(1, keepdims=True)], 1)
MAPS = RNG.normal(size=(NUM, 2, 3, 3)).astype("f4")
CODES = RNG.integers(0, 5, (NUM, 2, 3))
STD = np.full_like(MAPS, 0.3)

SMALL_NET = {"width": 8, "depth": 1, "num_heads": 2, "fit": {"max_epochs": 1}}
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "normals": ({"loc": LOC, "log_std": LOC / 9 - 1}, "mixture", {"num_components": 4}),
    "a prior a class": (
        {"loc": LOC, "log_std": LOC / 9 - 1, "labels": LABEL},
        "mixture",
        {"num_components": 2, "conditional": True},
    ),
    "a network of classes": (
        {"loc": LOC, "labels": LABEL},
        "autoregressive",
        {"hidden": [8, 8], "conditional": True, "fit": {"max_epochs": 1}},
    ),
    "points of which one never varies": ({"loc": DEAD, "labels": LABEL}, "gaussian", {}),
    "points of which some are repeats and sums": (
        {"loc": DOUBLED, "labels": LABEL},
        "mixture",
        {"num_components": 2},
    ),
    "maps": ({"loc": MAPS, "std": STD}, "autoregressive", {"fit": {"max_steps": 2}}),
    "codes": ({"codes": CODES, "labels": LABEL}, "bigram", {}),
    "codes and a network": ({"codes": CODES}, "transformer", SMALL_NET),
}
NOT_COMPARED = ("fit_seconds", "samples_per_second")


def words(settings: dict[str, Any], above: str = "prior") -> list[str]:
    """Settings as they are typed."""
    typed = []
    for key, value in settings.items():
        typed += words(value, f"{above}.{key}") if isinstance(value, dict) else [f"{above}.{key}={value}"]
    return [word.replace(" ", "").replace("=True", "=true") for word in typed]


@pytest.mark.parametrize(("arrays", "prior", "settings"), KINDS.values(), ids=KINDS.keys())
def test_the_same_prior_and_the_same_figures_as_the_command(
    tmp_path: Path, arrays: dict[str, Any], prior: str, settings: dict[str, Any]
) -> None:
    np.savez(tmp_path / "mine.npz", allow_pickle=False, **arrays)
    job = ("data=latents", "data.root=mine.npz", "stage=evaluate", "logger=csv", "trainer.accelerator=cpu", "seed=5")
    result = run_here(tmp_path, *job, f"prior={prior}", f"evaluation.num_samples={SAMPLES}", *words(settings))
    assert result.code == 0, result.err
    latents = LatentDataset.of(**arrays)
    learned, fitted = fit_prior(latents, prior, seed=5, device="cpu", **settings)
    (weights,) = tmp_path.glob("runs/store/prior/*/prior.safetensors")
    theirs, ours = load_file(weights), learned.prior.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    stored = json.loads((weights.parent / "fit.json").read_text(encoding="utf-8"))
    assert isinstance(fitted, FitReport) and fitted.val_nll_nats == stored["val_nll_nats"]
    (figures,) = tmp_path.glob("runs/store/evaluation/*/figures.json")
    expected = Report.from_json(json.loads(figures.read_text(encoding="utf-8")))
    report = judge(learned, latents, seed=5, num_samples=SAMPLES)
    assert isinstance(report, Report) and list(report.rows) == list(expected.rows) and prior in report.rows
    for name, row in report.rows.items():
        for key in (field.name for field in fields(Row) if field.name not in NOT_COMPARED):
            assert getattr(row, key) == getattr(expected.rows[name], key), (name, key)
    assert (report.verdict, report.surgery, report.notes) == (expected.verdict, expected.surgery, expected.notes)
    assert (report.missing, report.fitting, report.classes) == (expected.missing, expected.fitting, expected.classes)
    assert report.rows[prior].fit_seconds == fitted.seconds


def test_repeats_are_computed_or_kept_as_is_asked() -> None:
    latents = LatentDataset.of(DOUBLED)
    computed, fitted = fit_prior(latents, "gaussian")
    assert "2 of 5 dimensions are sums or repeats of others (3, 4, counted from 0)" in fitted.notes[0]
    z = computed.sample(50)
    assert torch.equal(z[:, 3], z[:, 1]) and torch.isfinite(computed.log_prob(z)).all()
    kept, _ = fit_prior(latents, "gaussian", dependent="keep")
    rows = judge(kept, latents, num_samples=SAMPLES).rows
    assert (
        rows["standard_normal"].latent_nll_nats > judge(computed, latents).rows["standard_normal"].latent_nll_nats + 1
    )
    with pytest.raises(ValueError, match="dependent='drop': give 'compute' or 'keep'"):
        fit_prior(latents, "gaussian", dependent="drop")


def test_arrays_and_tensors_are_the_same() -> None:
    first, _ = fit_prior(LatentDataset.of(LOC, log_std=LOC / 9), num_components=2)
    tensors = LatentDataset.of(torch.from_numpy(LOC).double(), log_std=torch.from_numpy(LOC / 9))
    second, _ = fit_prior(tensors, num_components=np.int64(2))
    assert torch.equal(first.prior.state_dict()["means"], second.prior.state_dict()["means"])


def test_nothing_is_said_written_or_drawn_from_the_callers_generators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    learned, _ = fit_prior(LatentDataset.of(LOC), "autoregressive", hidden=(8,), fit={"max_epochs": 1}, seed=3)
    judge(learned, LatentDataset.of(LOC), num_samples=SAMPLES)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert capfd.readouterr() == ("", "") and list(tmp_path.iterdir()) == []


def test_within_an_app_of_hydra(tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        theirs = compose("config", overrides=["prior=autoregressive", "prior.hidden=[8,8]", "prior.fit.max_epochs=1"])
        settings = {str(key): value for key, value in theirs.prior.items() if key not in ("_target_", "otherwise")}
        learned, _ = fit_prior(LatentDataset.of(LOC), "autoregressive", **settings)
        learned.save(tmp_path / "prior")
        again = compose("config", overrides=["prior=gaussian"])
    assert again.prior._target_.endswith("Gaussian")
    assert torch.equal(LearnedPrior.load(tmp_path / "prior").log_prob(LOC), learned.log_prob(LOC))


def test_import_expost_is_free_and_a_fit_needs_neither_hydra_nor_the_judge() -> None:
    code = (
        "import sys, expost; print('torch' in sys.modules); import numpy as np\n"
        "z = np.random.default_rng(0).normal(size=(60, 2))\n"
        "expost.fit_prior(expost.LatentDataset.of(z), num_components=2)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")
    assert (done.stdout.split("\n")[:2], done.stderr) == (["False", "[]"], "")


HEAVY = ("hydra", "omegaconf", "matplotlib", "jinja2", "PIL", "wandb", "pytorch_lightning", "sklearn", "expost.stages")


def test_what_is_held_out() -> None:
    """With `val`, all of `latents` is fitted, and `judge` wants what nobody has seen."""
    latents = LatentDataset.of(LOC, log_std=LOC / 9)
    parts = split(latents, (0.1, 0.2))
    assert {name: len(part) for name, part in parts.items()} == {"train": 168, "val": 24, "test": 48}
    cut, _ = fit_prior(latents, num_components=3)
    given, _ = fit_prior(parts["train"], val=parts["val"], num_components=3)
    assert torch.equal(cut.prior.state_dict()["means"], given.prior.state_dict()["means"])
    assert cut.fractions == (0.1, 0.2) and given.fractions is None
    with pytest.raises(ValueError, match="nothing was held out"):
        judge(given, parts["train"])
    report = judge(given, parts["train"], test=parts["test"], num_samples=SAMPLES)
    same = judge(cut, latents, num_samples=SAMPLES)
    assert report.rows["mixture"].latent_nll_nats == same.rows["mixture"].latent_nll_nats
    other = judge(cut, latents, test=parts["val"], num_samples=SAMPLES)
    assert other.num_training_images == 168, "what was held out for the fit is not counted as seen by it"
    assert other.rows["mixture"].latent_nll_nats != same.rows["mixture"].latent_nll_nats


def test_the_judge_of_a_prior_that_was_loaded(tmp_path: Path) -> None:
    latents = LatentDataset.of(LOC, labels=LABEL)
    learned, _ = fit_prior(latents, "autoregressive", hidden=[8], fit={"max_epochs": 1, "max_seconds": 1e-9})
    learned.save(tmp_path / "prior")
    loaded = LearnedPrior.load(tmp_path / "prior")
    report = judge(loaded, latents, num_samples=SAMPLES, folder=tmp_path / "judged")
    row, before = report.rows["autoregressive"], judge(learned, latents, num_samples=SAMPLES).rows["autoregressive"]
    assert row.fit_seconds is None and row.latent_nll_nats == before.latent_nll_nats
    stored = json.loads((tmp_path / "judged/figures.json").read_text(encoding="utf-8"))
    assert Report.from_json(stored).rows["autoregressive"] == row
    assert {path.suffix for path in (tmp_path / "judged").iterdir()} == {".json", ".png"}
    assert "mine" in judge(loaded, latents, num_samples=SAMPLES, name="mine").rows


ONE_OF_THREE = LatentDataset.of(LOC, None, LABEL == 1)
NORMALS, CODED = LatentDataset.of(LOC, LOC / 9, LABEL), LatentDataset.of(codes=CODES)


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        ("did you mean 'mixture'", {"prior": "mixtrue"}),
        ("num_components", {"num_componets": 3}),
        ("max_epochs", {"prior": "autoregressive", "fit": {"max_epoch": 3}}),
        ("prior.fit=3", {"prior": "autoregressive", "fit": 3}),
        ("at least 1", {"num_components": 0}),
        ("valid integer", {"num_components": "many"}),
        ("finite", {"tol": float("nan")}),
        ("counts codes", {"prior": "unigram"}),
        ("needs at least 500", {"num_components": 500}),
        ("5 latents are too few", {"latents": LatentDataset.of(LOC[:5])}),
        ("ndarray", {"latents": LOC}),
        ("needs labels", {"latents": LatentDataset.of(LOC), "conditional": True, "num_components": 2}),
        ("class 1 has", {"latents": ONE_OF_THREE, "conditional": True, "num_components": 60}),
        ("fractions=(2, 0.1)", {"fractions": (2, 0.1)}),
        ("fractions=0.1", {"fractions": 0.1}),
        ("leave 0 of 240", {"fractions": (0.5, 0.6)}),
        ("device='tpu'", {"device": "tpu"}),
        ("seed=-1", {"seed": -1}),
        ("seed='a'", {"seed": "a"}),
        ("real of shape (2)", {"val": LatentDataset.of(LOC[:, :2])}),
        ("delta beside one of diagonal_normal", {"val": LatentDataset.of(LOC)}),
        ("labels of 3 classes", {"latents": ONE_OF_THREE, "val": LatentDataset.of(LOC, None, LABEL)}),
        ("num_codes=SIZE", {"latents": CODED, "prior": "unigram", "val": LatentDataset.of(codes=CODES + 1)}),
    ],
)  # fmt: skip
def test_what_a_fit_refuses(reason: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as refused:
        fit_prior(**{"latents": NORMALS, **arguments})
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_of_few_latents_a_default_has_fewer_components_and_says_so() -> None:
    few, said = LatentDataset.of(LOC[:40]), "14 components and not 50, for there are 28 latents to fit; prior"
    prior, report = fit_prior(few, "mixture")
    assert report.notes[0] == f"{said}.num_components sets it"
    assert innermost(prior.prior).num_clusters == 14
    members = ["gaussian", "mixture"]
    assert fit_prior(few, "ensemble", members=members)[1].notes[0] == f"mixture: {said}.members sets it"
    flow = fit_prior(few, "realnvp", fit={"max_epochs": 1})[1].notes[0]
    assert flow.endswith(f"{said.replace('50', '100')}.base.num_components sets it")
    network = fit_prior(LatentDataset.of(LOC[:12]), "autoregressive", fit={"max_epochs": 1})[1]
    assert not any("components" in note for note in network.notes), "those are of a conditional"
    ladder = fit_prior(few, "auto", members=members)[1].ladder
    assert ladder[1]["words"] == "skipped: it needs 50 latents", "or rungs would become the same"


@pytest.fixture(scope="module")
def learned() -> LearnedPrior:
    return fit_prior(NORMALS, num_components=2, conditional=True)[0]


@pytest.mark.parametrize(
    ("reason", "latents", "arguments"),
    [
        ("real of shape (2)", LatentDataset.of(LOC[:, :2]), {}),
        ("codes of shape (6)", CODED, {}),
        ("test: these latents are real of shape (2)", NORMALS, {"test": LatentDataset.of(LOC[:, :2])}),
        ("delta", NORMALS, {"test": LatentDataset.of(LOC)}),
        ("knows 3 classes", LatentDataset.of(LOC, LOC / 9), {}),
        ("too few", LatentDataset.of(LOC[:5], LOC[:5], LABEL[:5]), {}),
        ("num_samples=0", NORMALS, {"num_samples": 0}),
        ("seed=1.5", NORMALS, {"seed": 1.5}),
        ("ndarray", LOC, {}),
        ("is there already", NORMALS, {"folder": PROJECT}),
        ("is there already", NORMALS, {"folder": __file__}),
    ],
)
def test_what_the_judge_refuses(learned: LearnedPrior, reason: str, latents: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as refused:
        judge(learned, latents, **arguments)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_the_configuration_is_that_of_the_command() -> None:
    """Hydra and OmegaConf read the files of `conf/` as they are read here."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        theirs = validate(compose("config", overrides=["seed=3"]))
    assert default_config(3, theirs.prior) == theirs
    assert read_conf("prior/mixture.yaml")["tol"] == 0.001 and LOADER.__name__.endswith("SafeLoader")
