"""Conditional priors in a job of two ranks: networks see the labels of their share, one prior a class is alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, keys, run_here
from exported_model import job
from safetensors.torch import load_file
from training_run import equal

from expost.parts.assembly import assemble
from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset
from stage2_prior.fitting import FitRun

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*litlogger")]
NETWORK = ("prior=autoregressive", "prior.hidden=[16]", "prior.dropout=0")
SHORT = ("prior.fit.max_epochs=2", "prior.fit.precision=32-true")
PRIORS = {
    "per_class": (*SMALL, "prior=mixture", "prior.num_components=3"),
    "autoregressive": (*(word for word in SMALL if "num_components" not in word), *NETWORK, *SHORT),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_two_ranks_fit_what_one_process_fits(kind: str, tmp_path: Path) -> None:
    """The same bits for one prior a class, which one process fits; a network but for the order of sums."""
    words = (*PRIORS[kind], "trainer=ddp", "prior.conditional=true")
    done = run_here(tmp_path, *words, "stage=sample", "sample.label=1", "sample.num=30", "sample.out=ones.npz")
    assert (done.code, done.err) == (0, "")
    assert done.stages("done in") == ["vae", "latents", "prior", "samples"]
    assert np.load(tmp_path / "ones.npz")["x"].shape == (30, 1, 8, 8)
    (latents,), (made,) = keys(tmp_path, "latents"), keys(tmp_path, "prior")
    alone = job(tmp_path / "runs", *words)
    alone, parts = assemble(alone)
    train, val = (LatentDataset.load(tmp_path / "runs/store/latents" / latents / split) for split in ("train", "val"))
    settings = alone.config.prior.get("fit") or {}
    one = alone.config.trainer.model_copy(update={"devices": 1, "strategy": "auto"})
    lent = FitRun(torch.device("cpu"), 0, lambda figures, step: None, lightning_fit(one, []), settings)
    report = parts.prior.fit(train, val, lent)
    folder = tmp_path / "runs/store/prior" / made
    found = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    if kind == "per_class":
        assert equal(load_file(folder / "prior.safetensors"), parts.prior.state_dict())
        assert (found["val_nll_nats"], found["curve"]) == (report.val_nll_nats, report.curve)
    else:
        assert found["val_nll_nats"] == pytest.approx(report.val_nll_nats, rel=1e-3)
        assert parts.prior.num_classes == 10
