"""Priors of classes: every `conf/prior/*.yaml` that can be conditional, and labels and knobs on the command line."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, run_here
from prior_cases import section
from torch import Tensor
from training_run import settings as trainer_settings

from expost.parts.priors import construct_prior, prior_nodes, why_not
from expost.parts.sections import sized, with_held, written_out
from expost.training.trainer import lightning_fit
from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitRun
from stage2_prior.prior import GradientPrior, Prior

GROUP = Path(__file__).parents[3] / "conf" / "prior"
IDLE = {"learned", "uniform", "standard_normal", "isotropic", "aggregate"}
"""Which learn nothing, or not where points are, or not of points."""
NAMES = sorted({path.stem for path in GROUP.glob("*.yaml")} - IDLE)
SPECS = {
    "vector": LatentSpec((3,), num_classes=2),
    "codes": LatentSpec((6,), Support.CODES, ((2, 3),), (5,), num_classes=2),
}
SMALLER = {"width": 32, "depth": 2, "num_heads": 2, "hidden": [64, 64], "num_components": 4}


def build(name: str, kind: str) -> Prior | None:
    node = written_out(section(name) | {"conditional": True}, prior_nodes())
    if why_not(node, SPECS[kind]) is not None:
        return None
    torch.manual_seed(0)
    return construct_prior(sized(smaller(node), 3000), SPECS[kind])


def smaller(node: dict[str, Any]) -> dict[str, Any]:
    return with_held(node | {key: value for key, value in SMALLER.items() if key in node}, smaller)


CASES = [(name, kind) for name in NAMES for kind in SPECS if build(name, kind) is not None]


def two_classes(kind: str, num: int, seed: int) -> LatentDataset:
    """Class 1, a quarter of all, lies apart: to the right of class 0, or at its largest codes."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(num) < 0.25).astype(np.int64)
    if kind == "vector":
        loc = np.float32(rng.normal(size=(num, 3)) * 0.5 + 3.0 * labels[:, None])
        return LatentDataset(SPECS[kind], "delta", {"loc": loc}, labels)
    z = np.where(rng.random((num, 6)) < 0.9, 4 * labels[:, None], rng.integers(5, size=(num, 6)))
    return LatentDataset(SPECS[kind], "codes", {"codes": z.astype(np.uint8)}, labels)


def with_encoder(run: FitRun, train: LatentDataset) -> FitRun:
    """The run with images of three pixels, the latents themselves, and posteriors as wide as a class."""

    def encode(x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(x.flatten(1), torch.full_like(x.flatten(1), math.log(0.5)))

    return replace(run, encoder=encode, images=lambda rows: train.posterior(rows).mean.view(-1, 1, 1, 3))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_each_class_is_learned_and_all_together(name: str, kind: str) -> None:
    """Samples of a class are of that class; a label is worth the entropy of the classes, 0.56 nats; without one the
    classes come as often as they are. Seven short epochs teach a network that roughly; counts and EM exactly."""
    prior = build(name, kind)
    assert prior is not None
    train, val = two_classes(kind, 3000, 0), two_classes(kind, 1000, 1)
    fit = lightning_fit(trainer_settings(), [])
    learns = any(isinstance(part, GradientPrior) for part in prior.modules())
    settings = {"max_epochs": 7, "batch_size": 64, "learning_rate": 5e-3, "average": 0.98, "precision": "32-true"}
    run = FitRun(torch.device("cpu"), 0, lambda figures, step: None, fit, settings if learns else {})
    prior.fit(train, val, with_encoder(run, train) if prior.needs_encoder else run)
    z, y = val.draw(torch.arange(1000)), val.labels
    assert y is not None
    with torch.no_grad():  # a density along an equation keeps gigabytes for its gradient
        of_own, of_other, of_all = prior.log_prob(z, y), prior.log_prob(z, 1 - y), prior.log_prob(z)
    assert (of_own - of_all).mean().item() == pytest.approx(0.56, abs=0.1 if learns else 0.05)
    assert (of_other < of_own).float().mean() > 0.95
    middle = 1.5 if kind == "vector" else 2.0
    torch.manual_seed(0)
    for label in (0, 1):
        drawn = prior.sample(500, torch.full((500,), label)).float().mean(1)
        assert ((drawn > middle) == label).float().mean() > (0.8 if learns else 0.97)
    share = (prior.sample(2000).float().mean(1) > middle).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.08 if learns else 0.04)
    mixed = prior.sample(60, torch.arange(60) % 2).float().mean(1) > middle
    assert (mixed == (torch.arange(60) % 2 == 1)).float().mean() > 0.75, "each sample has its own label"


def test_labels_reach_the_samples_file(tmp_path: Path) -> None:
    words = (*SMALL, "trainer.max_epochs=40", "prior=mixture", "prior.num_components=2", "prior.conditional=true")
    asked = (*words, "stage=sample", "sample.num=40")
    assert run_here(tmp_path, *asked, "sample.out=all.npz").code == 0
    for label in (0, 1):
        result = run_here(tmp_path, *asked, f"sample.label={label}", f"sample.out={label}.npz", "upstream=require")
        assert (result.code, result.err) == (0, "")
        assert result.stages("done in") == ["samples"], "a label is a draw of its own from the same prior"
    x = [np.load(tmp_path / f"{name}.npz")["x"].astype(float).mean(0) for name in ("all", "0", "1")]
    centre = x[1][0, 3:5, 3:5].mean(), x[2][0, 3:5, 3:5].mean()
    assert centre[1] > centre[0] + 30, "a one is dark where a nought is empty"


FEW = (
    "debug=fast",
    "trainer.max_epochs=30",
    "trainer.val_every=10",
    "logger=csv",
    "prior.conditional=true",
    "prior.fit.max_epochs=10",
)
OF_CODES = (
    "prior.fit.learning_rate=0.01",
    "prior.fit.average=0.9",
    "vae=vq",
    "net.channels=[4,8]",
    "vae.bottleneck.num_codes=16",
    "prior.width=16",
    "prior.depth=1",
)
NETWORKS = {
    "autoregressive": ("net.hidden=[16]", "prior=autoregressive", "prior.hidden=[16]"),
    "transformer": (*OF_CODES, "prior=transformer", "prior.num_heads=2"),
    "pixelcnn": (*OF_CODES, "prior=pixelcnn"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_draw_a_class_alone(name: str, tmp_path: Path) -> None:
    """The same bytes for the same class when it is drawn once more, others for another class or with a knob."""
    asked = (*FEW, *NETWORKS[name], "stage=sample", "sample.num=20")
    files = {"three": ["3"], "again": ["3"], "four": ["4"], "cold": ["3", "sample.temperature=0.1"]}
    if name != "autoregressive":  # of codes alone is there a likeliest few
        files["few"] = ["3", "sample.top_k=2"]
    found = {}
    for file, (label, *knob) in files.items():
        for stored in (tmp_path / "runs/store").glob("samples/*"):
            stored.rename(tmp_path / f"{stored.name} before {file}")  # away: the same command draws once more
        result = run_here(tmp_path, *asked, f"sample.label={label}", f"sample.out={file}.npz", *knob)
        assert (result.code, result.err) == (0, ""), result
        assert result.stages("done in")[-1] == "samples"
        found[file] = (tmp_path / f"{file}.npz").read_bytes()
    assert found.pop("again") == found["three"]
    assert len(set(found.values())) == len(found) == (3 if name == "autoregressive" else 4)


REFUSED = [
    (("prior.conditional=true", "sample.label=10"), "label 10 is out of range; the classes are 0 to 9"),
    (("sample.label=3",), "this prior knows no classes; fit one with prior.conditional=true"),
    (("sample.guidance=2",), "sample.guidance needs a prior of classes; fit one with prior.conditional=true"),
    (("sample.top_k=5",), "this prior cannot follow sample.top_k"),
    (("prior.conditional=true", "sample.prior=base", "sample.label=3"), "sample.label is for the learned prior"),
    (("sample.temperature=-1",), "sample.temperature=-1"),
    (("sample.temperature=1e30",), "give 0 or more, at most 1000"),
    (("sample.top_p=0",), "sample.top_p=0"),
    (
        ("prior.conditional=true", "data=mixture_rings"),
        "prior.conditional=true needs labels and these images have none; set it to false",
    ),
]


def test_a_temperature_is_refused_by_a_prior_that_cannot_follow_it(tmp_path: Path) -> None:
    result = run_here(tmp_path, "data=digits", "prior=energy", "stage=sample", "sample.temperature=0.5")
    assert result.code == 2 and len(result.lines) == 1, result
    assert "this prior cannot follow sample.temperature" in result.err
    assert not (tmp_path / "runs/store/vae").exists()


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_cannot_be_drawn_is_refused_before_any_work(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = run_here(tmp_path, *SMALL, "prior=autoregressive", "stage=sample", *words)
    assert result.code == 2 and len(result.lines) == 1 and message in result.err, result
    assert not (tmp_path / "runs/store/vae").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample.top_k=17", "vae.bottleneck.num_codes=16"), "sample.top_k=17 is more than the 16 codes"),
        (("prior.max_tokens=3",), "more than prior.max_tokens=3"),
        (("prior.conditional=true", "sample.guidance=1"), "give sample.label too"),
        (
            ("prior.conditional=true", "prior.label_dropout=0", "sample.label=1", "sample.guidance=1"),
            "this prior cannot follow sample.guidance",
        ),
    ],
)
def test_knobs_of_codes_are_refused_before_any_work(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    small = [word for word in SMALL if "hidden" not in word]
    result = run_here(tmp_path, *small, "vae=vq", "prior=transformer", "stage=sample", *words)
    assert result.code == 2 and len(result.lines) == 1 and message in result.err, result
