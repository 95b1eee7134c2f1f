"""What is expected of latents that come from elsewhere."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run_here
from exported_model import job

from expost.forecast import notice
from expost.forecast.latents import copy_parts, latent_evaluation_parts
from expost.training.tracking import Tracker
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.latents.spec import DerivedColumn
from stage2_prior.flows.diffusion import Diffusion
from stage2_prior.nets.residual_mlp import ResidualMLP
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.flatten import Flattened
from stage2_prior.wrappers.varying import Varying

CPU = torch.device("cpu")


def test_copying_takes_as_long_as_reading_and_writing() -> None:
    def read(rows: Any) -> np.ndarray:
        num = len(range(*rows.indices(10**6)))
        time.sleep(1e-3 * num)
        return np.zeros((num, 4), dtype=np.float32)

    slow = LatentDataset(LatentSpec((4,)), "delta", {"loc": DerivedColumn((10**6, 4), read)})
    (copying,) = copy_parts([slow])
    assert 1500 < copying.seconds < 4000


@pytest.mark.parametrize("family", ["diagonal_normal", "delta"])
def test_judging_takes_longer_of_more_latents(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "LONG_SECONDS", 0.1)
    monkeypatch.setattr(notice, "ENOUGH_SECONDS", 0.02)
    spec, num = LatentSpec((4,)), 4_000_000

    def latents(num: int) -> LatentDataset:
        params = {"loc": np.zeros((1, 4), np.float32), "log_std": np.zeros((1, 4), np.float32)}
        params = dict(list(params.items())[: 2 if family == "diagonal_normal" else 1])

        def column(values: np.ndarray) -> DerivedColumn:
            return DerivedColumn((num, 4), lambda rows: values[np.zeros(len(np.arange(num)[rows]), dtype=np.int64)])

        return LatentDataset(spec, family, {name: column(values) for name, values in params.items()})

    settings = job(tmp_path, "data=latents", "evaluation.num_samples=400").config.evaluation
    few, many = (
        latent_evaluation_parts(settings, StandardNormal(spec), latents(size), latents(500), CPU)
        for size in (5000, num)
    )
    assert many[0].seconds > 5 * few[0].seconds
    assert "evaluation.num_samples (now 400)" in many[0].remedy


def test_it_is_said_and_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loc = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    np.savez(tmp_path / "latents.npz", loc=loc, std=np.full_like(loc, 0.3))
    words = ("data=latents", "data.root=latents.npz", "debug=fast", "logger=csv", "prior=gaussian")

    def figures(root: str) -> tuple[str, str]:
        result = run_here(tmp_path, *words, f"paths.root={root}")
        assert result.code == 0, result
        (path,) = (tmp_path / root / "store/evaluation").glob("[!.]*/figures.json")
        text = path.read_text(encoding="utf-8")
        return result.out, re.sub(r'"(seconds|fit_seconds|samples_per_second)": (\{[^}]*\}|[^,\n]*)', "", text)

    _, silent = figures("silent")
    monkeypatch.setattr(notice, "LONG_SECONDS", 0.0)
    said, announced = figures("told")
    assert re.search(r"^latents +is expected to take .* fewer and larger files$", said, re.M), said
    assert re.search(r"^evaluation +is expected to take .* lower evaluation\.num_", said, re.M), said
    assert announced == silent


def test_a_mixture_of_maps_or_of_what_varies_is_timed_on_what_it_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "EM_OPERATIONS", 0.0)  # nothing is short
    spec, lent = LatentSpec((1, 2, 4)), job(tmp_path).fit_run(Tracker())
    maps = LatentDataset(
        spec, "delta", {"loc": np.random.default_rng(0).normal(size=(300, 1, 2, 4)).astype(np.float32)}
    )
    flat = Flattened(Mixture(LatentSpec((8,)), num_components=3), shape=spec.shape)
    (expected,) = notice.prior_parts(flat, maps, maps, lent)
    assert expected.seconds > 0 and "prior.max_iter" in expected.remedy
    vectors = LatentDataset(LatentSpec((8,)), "delta", {"loc": maps.params["loc"][:].reshape(300, 8)})
    some = Varying(Mixture(LatentSpec((6,)), num_components=3), fixed=[0, 3])
    (expected,) = notice.prior_parts(some, vectors, vectors, lent)
    assert expected.seconds > 0


def test_a_step_of_a_prior_is_tried_as_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass of the network a row; held-out losses take more."""
    asked, passed = [], []
    forward = ResidualMLP.forward
    monkeypatch.setattr(ResidualMLP, "forward", lambda *args: passed.append(len(args[1])) or forward(*args))
    draw = notice.draw_latents
    monkeypatch.setattr(notice, "draw_latents", lambda *args: asked.append(args[1]) or draw(*args))
    loc = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    points = LatentDataset(LatentSpec((3,)), "delta", {"loc": loc})
    prior = Diffusion(points.spec, width=16, depth=1)
    (expected,) = notice.prior_parts(prior, points, points, job(tmp_path, "prior=diffusion").fit_run(Tracker()))
    assert expected.seconds > 0 and passed and passed == asked
