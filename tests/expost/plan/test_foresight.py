"""Stages that take long say so before they start, and nothing of them changes by it."""

import hashlib
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run_here

from expost.base.command import Command
from expost.forecast import notice
from expost.forecast.notice import Expectation, expected_seconds, foretell
from expost.job import Job
from expost.store.artifacts import Store
from stage1_vae.codes.usage import CodeUsage

SMALL = ("debug=fast", "trainer.max_steps=3", "trainer.batch_size=32", "evaluation.num_samples=20", "logger=csv")
DATA = ("data=arrays", "data.root=x.npz")
KINDS = {
    "mixtures": ("net.hidden=[8]", "prior.num_components=3", "prior.conditional=true"),
    "autoregressive": ("net.hidden=[8]", "prior=autoregressive", "prior.hidden=[8]"),
    "codes": (
        "vae=vq",
        "vae.bottleneck.num_codes=16",
        "net.channels=[4,8]",
        "prior.width=8",
        "prior.depth=1",
        "prior.conditional=true",
    ),
    "points": ("vae=delta", "net=conv", "net.channels=[4]", "net.batch_norm=true", "prior=gaussian"),
}
REMEDIES = {
    "vae": "lower trainer.max_steps (now 3)",
    "latents": "raise trainer.devices (now 1)",
    "features": "give a trained net, evaluation.features=FILE.pt",
    "samples": "lower sample.num (now 7)",
}
OF_PRIOR = {
    "mixtures": "lower prior.max_iter (now 200)",
    "autoregressive": "lower prior.fit.max_epochs (now 20)",
    "codes": "lower prior.fit.max_epochs (now 100)",
}


def digests(folder: Path) -> dict[str, str]:
    """Of everything that was trained, encoded and drawn."""
    found = {}
    for path in sorted((folder / "runs/store").rglob("*")):
        if path.suffix in (".safetensors", ".npy", ".npz") or path.name == "history.json":
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run_all(folder: Path, kind: str) -> str:
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (90, 8, 8), dtype=np.uint8), np.arange(90) % 3
    np.savez(folder / "x.npz", x=images, label=labels)
    said = ""
    for stage in ("all", "sample"):
        result = run_here(folder, *SMALL, *DATA, *KINDS[kind], f"stage={stage}", "sample.num=7")
        assert (result.code, result.err) == (0, ""), result
        said += result.out
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_tells_its_key_and_keeps_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With ten minutes lowered to none; at ten minutes nobody hears of seconds."""
    assert "is expected to take" not in run_all(tmp_path / "quiet", kind)
    monkeypatch.setattr(notice, "LONG_SECONDS", 0.0)
    said = run_all(tmp_path / "told", kind)
    remedies = dict(
        re.findall(r"^(\w+) +is expected to take up to about [\d.]+ (?:s|min|h); to shorten it, (.*)$", said, re.M)
    )
    prior, evaluation = remedies.pop("prior", None), remedies.pop("evaluation")
    assert remedies == REMEDIES
    assert prior == OF_PRIOR.get(kind)
    assert re.fullmatch(r"lower evaluation\.(num_samples|num_bound_images) \(now \d+\)", evaluation)
    for stage in (*REMEDIES, "evaluation"):
        line = f"{stage:<11}"
        assert said.index(f"{line}is expected") < said.index(f"{line}done"), stage
    assert digests(tmp_path / "told") == digests(tmp_path / "quiet")


def test_the_work_of_few_tells_that_of_many() -> None:
    """Once what is there once, and as much an item: 2 ms and 1 ms of 40 at once, a hundred times."""
    lengths: list[int] = []

    def work(num: int) -> None:
        lengths.append(num)
        time.sleep(0.002 + 0.001 * num)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(notice, "LONG_SECONDS", 0.0)
        assert 4.2 <= expected_seconds(work, 40, 4000) < 6.3
    assert lengths == [1, 1, 8, 40]


def test_work_that_cannot_take_long_is_known_by_the_first_of_it() -> None:
    lengths: list[int] = []
    assert expected_seconds(lengths.append, 500, 1000) < 1.0
    assert lengths == [1, 1]
    assert expected_seconds(lengths.append, 500, 0) == 0.0


def test_long_work_is_not_timed_for_long() -> None:
    """Half a second each time: two lengths tell enough, and a large batch is not tried."""
    lengths: list[int] = []

    def work(num: int) -> None:
        lengths.append(num)
        time.sleep(0.52 if num == 1 else 0.6)

    assert expected_seconds(work, 500, 10**6) > 1000
    assert lengths == [1, 8]


def test_a_device_is_waited_for_and_its_first_call_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls alone, which needs no device: a tenth of a second that only the wait shows."""
    lengths: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: time.sleep(0.1))
    assert 9 < expected_seconds(lengths.append, 1, 100) < 20
    assert lengths == [1, 1, 1]
    lengths.clear()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # there, and not in use
    expected_seconds(lengths.append, 1, 100)
    assert lengths == [1, 1]


def test_a_fit_is_not_expected_to_outlast_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "expected_seconds", lambda *_: 3600.0)
    words = ("debug=fast", "stage=prior", "prior=autoregressive", "prior.fit.max_seconds=1200")
    said = run_here(tmp_path, *words).out
    assert re.search(r"^prior +is expected to take up to about 20 min;", said, re.M), said


def test_the_longest_part_names_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pipeline  # noqa: F401  # the parts of a run
    from expost.config.schema import Config

    run = Job(Config.model_construct(trainer=None), Command(), Store(tmp_path))
    run.__dict__["device"] = torch.device("cpu")
    parts = [Expectation(400.0, "lower a (now 1)"), Expectation(1100.0, "lower b (now 2)")]
    state = torch.get_rng_state()
    foretell(run, "prior", lambda: [part for part in parts if torch.rand(1) >= 0])
    assert (
        capsys.readouterr().out == "prior      is expected to take up to about 25 min; to shorten it, lower b (now 2)\n"
    )
    assert torch.equal(torch.get_rng_state(), state)
    foretell(run, "prior", lambda: parts[:1])
    quiet = replace(run, quiet=True)
    foretell(quiet, "prior", lambda: parts)
    assert capsys.readouterr().out == ""


def test_a_trial_leaves_the_counts_of_codes_alone() -> None:
    model = torch.nn.Sequential(CodeUsage(3, ""))
    before = model.state_dict() | {"training": model.training}
    copied = notice.trial(model)
    copied[0].add(torch.tensor([0, 1]))
    assert not copied.training and model.state_dict() | {"training": model.training} == before
