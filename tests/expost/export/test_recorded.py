"""Models that were exported before the rooms moved load as ever, and say of latents what they said then."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from expost import LearnedPrior, TwoStage

RECORDED = Path(__file__).with_name("recorded")
EXPECTED = json.loads((RECORDED / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_export_of_before_loads(name: str) -> None:
    model = TwoStage.load(RECORDED / name)
    torch.manual_seed(0)
    z = model.sample_latents(4)
    nats = model.prior.log_prob(z)
    assert nats.tolist() == pytest.approx(EXPECTED[name]["log_prob_nats"], abs=2e-3)
    assert model.decode(z).double().mean().item() == pytest.approx(EXPECTED[name]["decoded"], abs=1e-4)


def test_a_prior_beside_constants_of_before_loads() -> None:
    """Of commit 12b48f5, when no dimension was computed from others."""
    learned = LearnedPrior.load(RECORDED / "constants")
    z = np.random.default_rng(0).normal(size=(120, 3)).astype("f4")[:4]
    nats = learned.log_prob(np.concatenate([z, z[:, :1] * 0 + 7], 1))
    assert nats.tolist() == pytest.approx([-2.9785, -2.9712, -4.3031, -3.7526], abs=2e-3)
    assert (learned.sample(5)[:, 3] == 7).all()
