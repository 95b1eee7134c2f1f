"""`limits:`, which bound the work of a prior whatever the latents: debug=fast and stage=check."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, keys, report_of, run_here
from omegaconf import OmegaConf
from torch import Tensor
from training_run import settings as trainer_settings

from expost.cli import CONF
from expost.config import limits
from expost.config.limits import EM_TOKENS, affordable_draws, limited_evaluation, limited_prior
from expost.config.schema import Evaluation, Limits
from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import Course, FitRun, FitSettings
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.transformer import Transformer

FAST = Limits(**OmegaConf.load(CONF / "debug/fast.yaml").limits)
LONG = LatentSpec((2475,), Support.CODES, ((45, 55),), (512,), num_classes=10)
SHORT = LatentSpec((16,))


def node(prior: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(CONF / f"prior/{prior}.yaml"), resolve=True)  # type: ignore[return-value]


@pytest.mark.parametrize("prior", sorted(path.stem for path in CONF.glob("prior/*.yaml")))
@pytest.mark.parametrize(("spec", "num"), [(LONG, 35), (LONG, 10**7), (SHORT, 35), (SHORT, 10**7)])
def test_debug_fast_bounds_every_prior(prior: str, spec: LatentSpec, num: int) -> None:
    """In steps and in tokens, but for the two steps, or the one pass over all latents, that show whether it runs."""
    limited = limited_prior(node(prior), spec, num, FAST, a_class=False)
    assert FAST.steps is not None and FAST.tokens is not None
    if "fit" in limited:
        course = FitSettings(**limited["fit"]).course(num, spec.num_dims)
        steps = course.steps * course.epochs
        assert 2 <= steps <= FAST.steps + course.steps
        assert steps * course.batch_size * spec.num_dims <= 2 * FAST.tokens
        assert course.held_out is not None and course.held_out * course.epochs * spec.num_dims <= FAST.tokens
    elif "max_iter" in limited:
        assert 1 <= limited["max_iter"] <= FAST.steps
        assert limited["max_iter"] == 1 or limited["max_iter"] * num * spec.num_dims <= EM_TOKENS * FAST.tokens
    else:
        assert limited == node(prior)  # in closed form


def test_without_limits_nothing_changes() -> None:
    none = Limits(steps=None, tokens=None)
    for prior in ("mixture", "gaussian"):
        assert limited_prior(node(prior), LONG, 35, none, a_class=False) == node(prior)
    as_before = {key: value for key, value in node("transformer")["fit"].items() if key != "max_tokens"}
    assert limited_prior(node("transformer"), LONG, 35, none, a_class=False)["fit"] == as_before  # and so is its key
    settings = Evaluation(**OmegaConf.load(CONF / "evaluation/default.yaml"))  # type: ignore[arg-type]
    assert limited_evaluation(settings, LONG, 10, none) is settings
    fit = FitSettings(max_epochs=100, max_steps=3400, batch_size=128)
    assert fit.course(35, 2475) == Course(32, 1, 100, None)
    assert fit.course(60_000, 49) == Course(128, 468, 8, None)
    assert FitSettings(max_epochs=20, batch_size=512).course(60_000, 16) == Course(512, 117, 20, None)


def test_one_prior_a_class_has_its_share_and_restarts_count() -> None:
    limits = Limits(steps=100, tokens=10_000)
    fit = limited_prior(node("transformer"), LONG, 35, limits, a_class=True)["fit"]
    assert (fit["max_steps"], fit["max_tokens"]) == (10, 1000)
    limits = Limits(steps=None, tokens=100)
    mixture = node("mixture") | {"num_restarts": 2}
    assert limited_prior(mixture, SHORT, 20, limits, a_class=True)["max_iter"] == EM_TOKENS * 100 // (20 * 16 * 2)


@pytest.mark.parametrize("many", [1000, 1000.0, "1000"])
def test_whole_numbers_count_however_they_are_written(many: Any) -> None:
    """As the prior reads them; one below the limit stays as it was written, and so does its key."""
    limits = Limits(steps=20, tokens=None)
    assert limited_prior(node("mixture") | {"max_iter": many}, SHORT, 35, limits, a_class=False)["max_iter"] == 20
    fit = {"max_steps": many}
    assert limited_prior(node("transformer") | {"fit": fit}, SHORT, 35, limits, a_class=False)["fit"]["max_steps"] == 20
    few = limited_prior(node("mixture") | {"max_iter": 3.0}, SHORT, 35, limits, a_class=False)["max_iter"]
    assert few == 3 and isinstance(few, float)
    mixture = node("mixture") | {"num_restarts": 2.0}
    limits = Limits(steps=None, tokens=100)
    assert limited_prior(mixture, SHORT, 20, limits, a_class=False)["max_iter"] == EM_TOKENS * 100 // (20 * 16 * 2)


def test_samples_and_bounds_of_long_latents_are_few() -> None:
    """All that is drawn and decoded: passes of a network a class, and draws of each bound, count."""
    settings = Evaluation(**OmegaConf.load(CONF / "evaluation/default.yaml"))  # type: ignore[arg-type]
    limits = Limits(steps=None, tokens=495_000)
    few = limited_evaluation(settings, LONG, 1, limits)
    assert (few.num_samples, few.num_bound_images) == (200, 200)
    few = limited_evaluation(settings, LONG, 10, limits)
    assert (few.num_samples, few.num_bound_images) == (20, 20)
    few = limited_evaluation(settings, LatentSpec((495,)), 1, limits)
    assert (few.num_samples, few.num_bound_images) == (1000, 16)  # 64 draws each
    assert limited_evaluation(settings, LONG, 1, Limits(steps=None, tokens=1)).num_samples == 1


def test_a_limited_fit_looks_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, all validations together and each of the two figures at the end, counted where they look."""
    spec = LatentSpec((6,), Support.CODES, ((2, 3),), (3,))
    prior = Transformer(spec, width=4, depth=1, num_heads=1)
    looked = {"trained": 0, "measured": 0}
    given = prior._log_prob_given

    def counted(z: Tensor, labels: Tensor) -> Tensor:
        looked["trained" if torch.is_grad_enabled() else "measured"] += z.numel()
        return given(z, labels)

    monkeypatch.setattr(prior, "_log_prob_given", counted)
    rng = np.random.default_rng(0)
    train, val = (
        LatentDataset(spec, "codes", {"codes": rng.integers(3, size=(num, 6)).astype(np.uint8)}) for num in (5000, 900)
    )
    settings: dict[str, Any] = {"max_epochs": 50, "batch_size": 64, "max_tokens": 3840, "precision": "32-true"}
    lent = FitRun(torch.device("cpu"), 0, lambda *_: None, lightning_fit(trainer_settings(), ()), settings)
    report = prior.fit(train, val, lent)
    assert looked["trained"] == 3840 and len(report.curve) == 1
    assert looked["measured"] <= 3 * 3840


@pytest.mark.parametrize("words", [("vae=vq",), ("vae=vq", "prior=pixelcnn"), ("vae=bernoulli", "net=mlp")])
def test_a_debug_run_writes_what_it_was_limited_to(tmp_path: Path, words: tuple[str, ...]) -> None:
    """And no figure is lost by it."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8))
    quick = ("limits.steps=3", "limits.tokens=500", "trainer.max_steps=2", "logger=csv", "data=arrays")
    result = run_here(tmp_path, *quick, "debug=fast", "data.root=x.npy", *words)
    assert (result.code, result.err) == (0, ""), result
    (fitted,) = (tmp_path / "runs/store/prior").glob("[!.]*")
    settings = json.loads((fitted / "manifest.json").read_text(encoding="utf-8"))["ingredients"]["prior"]["fit"]
    assert (settings["max_steps"], settings["max_tokens"]) == (3, 500)
    report = json.loads((tmp_path / "runs/latest/report.json").read_text(encoding="utf-8"))
    assert report["num_samples"] <= 500 // 49 and report["rows"]


def test_a_check_of_long_latents_is_cut_to_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of codes an image: no batch of the prior, and no split, holds more than its share of them."""
    from expost.parts import reduced

    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (60, 64, 64), dtype=np.uint8))
    monkeypatch.setattr(reduced, "TOKENS", 1024)
    monkeypatch.setattr(reduced, "IMAGE_TOKENS", 4096)
    drawn: list[int] = []
    given = Transformer._sample_given

    def counted(self: Transformer, labels: Tensor, how: Any) -> Tensor:
        drawn.append(len(labels))
        return given(self, labels, how)

    monkeypatch.setattr(Transformer, "_sample_given", counted)
    words = ("stage=check", "vae=vq", "prior.width=8", "prior.depth=1", "logger=csv", "data=arrays", "data.root=x.npy")
    result = run_here(tmp_path, *words)
    assert (result.code, result.err) == (0, ""), result
    assert drawn == [4]  # of 256 codes each, once: pictures show the same draws


def test_a_dear_density_is_taken_of_fewer_draws_and_its_row_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Evaluation(**OmegaConf.load(CONF / "evaluation/default.yaml"))  # type: ignore[arg-type]
    assert (settings.num_bound_images, settings.importance_samples) == (10_000, 64)
    assert [affordable_draws(settings, passes) for passes in (1, 10, 250, 100_000)] == [64, 64, 2, 1]
    many = settings.model_copy(update={"importance_samples": 5000})  # as many passes as the decoder takes are no more
    assert [affordable_draws(many, passes) for passes in (1, 10, 250, 100_000)] == [5000, 500, 20, 1]
    assert [affordable_draws(many, passes, decodes=False) for passes in (1, 250)] == [700, 2]
    monkeypatch.setattr(Mixture, "passes", 2)
    words = (*SMALL, "evaluation.importance_samples=4", "evaluation.num_bound_images=50")
    reports = {}
    for name, passes in {
        "all": limits.DENSITY_PASSES,
        "few": 100,
    }.items():  # of 50 images two draws, of two passes each
        monkeypatch.setattr(limits, "DENSITY_PASSES", passes)
        (tmp_path / name).mkdir()
        assert run_here(tmp_path / name, *words).code == 0
        reports[name] = report_of(tmp_path / name)
    assert not keys(tmp_path / "all", "evaluation") & keys(tmp_path / "few", "evaluation")
    assert keys(tmp_path / "all", "prior") == keys(tmp_path / "few", "prior")
    row, before = (reports[name]["rows"]["mixture"] for name in ("few", "all"))
    assert row["iwae_nats"] is None and before["iwae_nats"] is not None
    assert row["rate_nats"] != before["rate_nats"] and abs(row["rate_nats"] - before["rate_nats"]) < 2
    assert any("of 2 of 4 draws" in note for note in row["notes"]) and reports["few"]["importance_samples"] == 4
    assert reports["few"]["rows"]["standard_normal"]["iwae_nats"] is not None
