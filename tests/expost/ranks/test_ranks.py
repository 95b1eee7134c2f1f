"""Stages made by two real processes over gloo: one artifact each, the work divided."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import PROJECT, SMALL, Result, keys, run_here
from hydra import compose, initialize_config_dir
from processes import gone, ranks_alive
from safetensors.torch import load_file
from without_lightning import RUN

from expost.base.command import Command
from expost.cli import CONF
from expost.config.schema import validate
from expost.job import Job
from expost.parts.assembly import Parts, assemble
from expost.stages.latents import encode_images
from expost.stages.making import Making
from expost.store.artifacts import Artifact, Store
from expost.training.tracking import Tracker
from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset
from stage2_prior.fitting import FitRun

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")

CPU = torch.device("cpu")
DDP = (*SMALL, "trainer=ddp", "data.binarize=dynamic", "likelihood=bernoulli")
"""Noise in the images: what ranks draw must be theirs in training, and everybody's in encoding."""


@dataclass(frozen=True)
class Ddp:
    """What two ranks left in `folder`, and a single process with the same configuration to compare with."""

    folder: Path
    result: Result
    job: Job
    parts: Parts

    def artifact(self, stage: str) -> Artifact:
        (key,) = keys(self.folder, stage)
        return Artifact(stage, key, self.job.store.root / stage / key)


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Ddp:
    folder = tmp_path_factory.mktemp("ddp")
    result = run_here(folder, *DDP, "stage=prior")
    assert (result.code, result.err) == (0, "")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(compose("config", overrides=[*DDP, f"paths.root={folder}/runs"]))
    job = Job(config, Command(), Store(folder / "runs/store"), quiet=True)
    return Ddp(folder, result, *assemble(job))


def test_each_stage_is_made_once_and_nothing_is_left(ddp: Ddp) -> None:
    assert ddp.result.stages("done in") == ["vae", "latents", "prior"]
    for stage in ("vae", "latents", "prior"):
        assert len(keys(ddp.folder, stage)) == 1
    runs = [path for path in (ddp.folder / "runs").iterdir() if path.name not in ("store", "latest")]
    assert len(runs) == 1, "a rank made a run's folder of its own"
    assert not ddp.job.store.unfinished_folders() and not ranks_alive(ddp.folder)
    again = run_here(ddp.folder, *DDP, "stage=prior")
    assert again.stages("skipped") == ["vae", "latents", "prior"]


def test_figures_of_the_ranks_reach_the_run(ddp: Ddp) -> None:
    (log,) = ddp.folder.glob("runs/*/logs/vae/metrics.csv")
    history = json.loads((ddp.artifact("vae").path / "history.json").read_text(encoding="utf-8"))
    rows = [line.split(",") for line in log.read_text(encoding="utf-8").splitlines()]
    column = rows[0].index("train_loss")
    logged = [float(row[column]) for row in rows[1:] if row[column]]
    assert logged == pytest.approx([epoch["train_loss"] for epoch in history]) and logged


def test_encoding_is_the_same_bytes_as_by_one_process(ddp: Ddp, tmp_path: Path) -> None:
    found = ddp.artifact("latents").path
    encode_images(Making(ddp.job, ddp.parts, {"vae": ddp.artifact("vae")}, {}, tmp_path, Tracker()))
    for split in ("train", "val", "test"):
        names = sorted(path.name for path in (tmp_path / split).glob("*.npy"))
        assert names == ["labels.npy", "loc.npy", "log_std.npy"]
        for name in names:
            assert (tmp_path / split / name).read_bytes() == (found / split / name).read_bytes(), (split, name)


def test_a_mixture_fitted_in_shares_is_that_of_one_process(ddp: Ddp) -> None:
    train, val = (LatentDataset.load(ddp.artifact("latents").path / split) for split in ("train", "val"))
    prior = ddp.parts.prior
    prior.fit(train, val, RUN)
    found = load_file(ddp.artifact("prior").path / "prior.safetensors")
    for name, value in prior.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)
    fit = json.loads((ddp.artifact("prior").path / "fit.json").read_text(encoding="utf-8"))
    assert len(fit["curve"]) > 1, "no M-step to compare"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_take_the_steps_of_one_process(tmp_path: Path, strategy: str) -> None:
    """Without noise the joint batch decides: an epoch of 37 whole batches, its validation, and steps behind that."""
    words = (
        *SMALL,
        "stage=vae",
        "vae=delta",
        "trainer.batch_size=34",
        "trainer.max_steps=45",
        "trainer.keep_share=0",
        "trainer.val_every=1",
        "trainer.gradient_clip=0.5",
    )
    histories, weights = [], []
    for choice in ("trainer=default", f"trainer={strategy}"):
        folder = tmp_path / choice
        folder.mkdir()
        assert run_here(folder, choice, *words).code == 0
        (file,) = folder.glob("runs/store/vae/*/model.safetensors")
        weights.append(load_file(file))
        histories.append(json.loads((file.parent / "history.json").read_text(encoding="utf-8")))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5, msg=name)
    for one, two in zip(*histories, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("trainer.ema_decay=0.9", "trainer.patience=4"),
        ("trainer.compile=true", "trainer.precision=bf16"),
        ("net=conv", "net.batch_norm=true"),
        ("vae=iwae", "trainer.schedule=cosine", "trainer.warmup_steps=3"),
    ],
)
def test_whatever_a_trainer_may_do_leaves_equal_ranks(tmp_path: Path, words: tuple[str, ...]) -> None:
    """That they are equal, bit for bit, is checked at the end of each stage."""
    small = [word for word in SMALL if not (word.startswith("net.") and "net=conv" in words)]
    result = run_here(tmp_path, *small, "trainer=ddp", "stage=vae", *words)
    assert (result.code, result.err) == (0, "")


@pytest.mark.slow
def test_a_prior_trained_in_shares_is_that_of_one_process(ddp: Ddp) -> None:
    """Without dropout, whose masks are of a rank's rows; 48 steps of Adam make 1 % of rounding in a weight."""
    words = [word for word in DDP if "num_components" not in word]
    words += ["prior=autoregressive", "prior.dropout=0", "prior.fit.max_epochs=3", "prior.fit.precision=32-true"]
    words.append("limits.tokens=null")  # which would end it after two epochs
    result = run_here(ddp.folder, *words, "stage=prior")
    assert (result.code, result.err) == (0, "") and result.stages("done in") == ["prior"]
    made = ddp.folder / result.out.split()[-1]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(compose("config", overrides=[*words, f"paths.root={ddp.folder}/runs"]))
    _, parts = assemble(Job(config, Command(), ddp.job.store, quiet=True))
    train, val = (LatentDataset.load(ddp.artifact("latents").path / split) for split in ("train", "val"))
    lent = FitRun(CPU, 0, lambda figures, step: None, lightning_fit(config.trainer, []), config.prior["fit"])
    alone = parts.prior.fit(train, val, lent).curve
    found = json.loads((made / "fit.json").read_text(encoding="utf-8"))["curve"]
    assert [epoch["epoch"] for epoch in found] == [epoch["epoch"] for epoch in alone] == [0, 1, 2]
    assert found[0]["train_nll_nats"] == pytest.approx(alone[0]["train_nll_nats"], rel=2e-4)
    for one, two in zip(alone, found, strict=True):
        assert two == pytest.approx(one, rel=2e-3)


@pytest.mark.slow
def test_two_machines_make_each_stage_together(tmp_path: Path) -> None:
    """Two parents with one rank each, and one store: machine 0 commits, evaluates and reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = [*SMALL, "trainer.num_nodes=2", "trainer.accelerator=cpu"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    machines = []
    for number in ("0", "1"):
        own = {"NODE_RANK": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, str(PROJECT / "pipeline.py"), *words]
        machines.append(subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **own}, **pipes))
    said = [machine.communicate(timeout=200) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    first, second = (Result(0, *words).stages("done in") for words in said)
    assert first == ["vae", "latents", "prior", "features", "evaluation"] and second == []
    assert len(list(tmp_path.glob("runs/[0-9]*/report.json"))) == 1
    assert gone(tmp_path, 0) and not Store(tmp_path / "runs/store").unfinished_folders()


@pytest.mark.slow
def test_check_runs_two_batches_in_ranks_and_keeps_nothing(tmp_path: Path) -> None:
    result = run_here(tmp_path, *SMALL, "trainer=ddp", "stage=check")
    assert (result.code, result.err) == (0, "") and "nothing else was kept" in result.out
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["runs", "runs/check-images.png"]


@pytest.mark.slow
def test_jobs_of_a_sweep_share_a_vae_that_ranks_trained(tmp_path: Path) -> None:
    free = [word for word in SMALL if "num_components" not in word]
    result = run_here(tmp_path, "-m", *free, "trainer=ddp", "prior=gaussian,mixture", "stage=prior")
    assert (result.code, result.err) == (0, "")
    assert result.stages("done in") == ["vae", "latents", "prior", "prior"]
