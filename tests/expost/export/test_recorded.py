"""Models that were exported before the rooms moved load as ever, and say of latents what they said then."""

import json
from pathlib import Path

import pytest
import torch

from expost import TwoStage

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
