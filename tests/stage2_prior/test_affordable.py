"""Densities over all classes cost a pass of the network a class: then fewer latents are looked at."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_run import settings as trainer_settings

from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitRun
from stage2_prior.held_out import affordable
from stage2_prior.priors.transformer import Transformer
from stage2_prior.wrappers.standardize import Standardized

SPEC = LatentSpec((2,), Support.CODES, ((1, 2),), (3,), num_classes=40)


def small(spec: LatentSpec, conditional: bool) -> Transformer:
    return Transformer(spec, width=4, depth=1, num_heads=1, conditional=conditional)


@pytest.mark.parametrize(("conditional", "rows"), [(False, 50_000), (True, 1250)])
def test_passes_are_bounded_and_a_mean_remains(conditional: bool, rows: int) -> None:
    prior = small(SPEC, conditional)
    assert affordable(50_000, prior) == rows
    assert affordable(5000, prior) == (1000 if conditional else 5000)
    assert affordable(70, prior) == 70
    around = Standardized(small(LatentSpec((3,), num_classes=40), conditional))
    assert affordable(50_000, around) == rows


def test_a_fit_looks_at_fewer_latents_of_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = small(SPEC, conditional=True)
    rng, given, num_latents = np.random.default_rng(0), prior._log_prob_given, [0]

    def split(num: int) -> LatentDataset:
        codes = rng.integers(3, size=(num, 2)).astype(np.uint8)
        return LatentDataset(SPEC, "codes", {"codes": codes}, rng.integers(40, size=num))

    def counted(z: Tensor, labels: Tensor) -> Tensor:
        num_latents[0] += len(z) if len(labels.unique()) == 1 else 0  # one class after the other: no label was given
        return given(z, labels)

    monkeypatch.setattr(prior, "_log_prob_given", counted)
    settings: dict[str, Any] = {"max_epochs": 1, "batch_size": 256, "val_draws": 64, "precision": "32-true"}
    fit = lightning_fit(trainer_settings(), [])
    prior.fit(split(4000), split(1500), FitRun(torch.device("cpu"), 0, lambda figures, step: None, fit, settings))
    assert num_latents[0] == 40 * (1000 + 1000)
