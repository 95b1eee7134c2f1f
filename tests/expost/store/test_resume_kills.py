"""SIGKILL within stages: the same command continues, and every file is that of a run that nobody killed."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import PROJECT, SMALL, run_here

from expost.store import manifest
from expost.store.artifacts import Store

WORDS = (
    "debug=fast",
    "logger=csv",
    "trainer.max_epochs=60",
    "net.hidden=[16]",
    "prior=autoregressive",
    "prior.hidden=[16]",
    "prior.fit.max_epochs=12",
    "limits.tokens=null",  # else debug=fast ends the fit after two epochs
)


PRIOR = (*WORDS, "stage=prior")


def kill_when(folder: Path, pattern: str, *words: str) -> str:
    """Run the command in `folder` and kill it as soon as there is a file that matches `pattern`; what it said."""
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "pipeline.py"), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        deadline = time.monotonic() + 250
        while not list(folder.glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline, f"no {pattern}"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was quicker than the test"
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file of every artifact but times."""
    found = {}
    for artifact in Store(folder / "runs/store").artifacts():
        assert not list(manifest.damaged_files(artifact.path))
        for path in sorted(artifact.path.rglob("*")):
            if path.is_file() and path.name != manifest.MANIFEST:
                content = path.read_bytes()
                if path.name == "fit.json":
                    content = json.dumps(json.loads(content) | {"seconds": 0}).encode()
                found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.mark.parametrize("last", ["vae", pytest.param("prior", marks=pytest.mark.slow)])
def test_killed_in_a_stage_or_in_both(last: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert run_here(whole, *PRIOR, "trainer.keep_share=0").code == 0
    assert not (whole / "runs/store/.resume").exists()
    always = "trainer.keep_share=1e9"
    kill_when(killed, "runs/store/.resume/vae-*/epoch-2?-*", *PRIOR, always)
    if last == "prior":
        second = kill_when(killed, "runs/store/.resume/prior-*/epoch-[3-9]-*", *PRIOR, always)
        assert re.search(r"^vae +continues after epoch \d+ of 60$", second, re.M), second
    store = Store(killed / "runs/store")
    (kept,) = (folder for _, _, folder in store.resumables())
    assert kept.name.startswith(f"{last}-"), "what is finished needs no resume data"
    listing = run_here(killed, "stage=store", "store.verify=true")
    assert listing.code == 0 and re.search(r"kept up to epoch \d+ of \d+; \d{8}-", listing.out), listing
    end = run_here(killed, *PRIOR)
    assert (end.code, end.err) == (0, "")
    assert re.search(rf"^{last} +continues after epoch \d+ of \d+$", end.out, re.M), end.out
    assert end.stages("skipped") == {"vae": [], "prior": ["vae", "latents"]}[last]
    assert contents(killed) == contents(whole)
    for stage in {"vae", last}:
        (facts,) = (artifact.manifest() for artifact in store.artifacts() if artifact.stage == stage)
        assert facts["seconds"] > facts["finished"] - facts["started"] + 0.1, "those of the killed attempt count"
    assert store.resumables() == store.unfinished_folders() == store.quarantined_folders() == []
    assert not list((store.root / ".locks").glob("*.owner"))
    curves = [next(reversed(sorted(folder.glob("runs/*/logs/prior/metrics.csv")))) for folder in (whole, killed)]
    assert (
        curves[0].read_text(encoding="utf-8").splitlines()[:-1]
        == curves[1].read_text(encoding="utf-8").splitlines()[:-1]
    ), "but for the seconds"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "pattern"), [("vae", "epoch-2?-*"), ("prior", "epoch-[3-9]-*")])
def test_two_ranks_continue_together(stage: str, pattern: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    words = (*WORDS, "trainer=ddp", f"stage={stage}")
    assert run_here(whole, *words, "trainer.keep_share=0").code == 0
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "runs/store" / stage)
    kill_when(killed, f"runs/store/.resume/{stage}-*/{pattern}", *words, "trainer.keep_share=1e9")
    last = run_here(killed, *words)
    assert (last.code, last.err) == (0, "")
    assert re.search(rf"^{stage} +continues after epoch \d+ of ", last.out, re.M), last.out
    assert contents(killed) == contents(whole)
    assert Store(killed / "runs/store").resumables() == []


def test_what_a_process_left_that_died_after_its_work_was_done_is_tidied(tmp_path: Path) -> None:
    words = (*SMALL, "stage=vae", "trainer.max_epochs=2")
    assert run_here(tmp_path, *words).code == 0
    store = Store(tmp_path / "runs/store")
    (vae,) = store.artifacts()
    left = store.resume_folder("vae", vae.key)
    left.mkdir(parents=True)
    (left / f"epoch-1-of-2.{'0' * 64}.ckpt").write_bytes(b"kept")
    owner = store.root / ".locks" / f"vae-{vae.key}.owner"
    owner.write_text(json.dumps({"process": 2**22 + 1, "host": socket.gethostname(), "taken": 1.0}), encoding="utf-8")
    again = run_here(tmp_path, *words)
    assert again.code == 0 and again.stages("skipped") == ["vae"]
    assert not left.exists() and not owner.exists() and store.quarantined_folders() == []


@pytest.mark.parametrize("run_is_there", [True, False])
def test_gc_keeps_what_was_kept_as_long_as_the_run_that_began_it_is_there(tmp_path: Path, run_is_there: bool) -> None:
    key = "0123456789abcdef0123"
    folder = tmp_path / f"runs/store/.resume/vae-{key}"
    folder.mkdir(parents=True)
    path = folder / ".writing"
    path.write_bytes(b"state")
    path.rename(folder / f"epoch-12-of-300.{manifest.file_sha256(path)}.ckpt")
    if run_is_there:
        (tmp_path / "runs/mine").mkdir()
        (tmp_path / "runs/mine/begun-vae.json").write_text(
            json.dumps({"stage": "vae", "key": key, "inputs": {}}), encoding="utf-8"
        )
    listing = run_here(tmp_path, "stage=store", "store.verify=true", "store.gc=true")
    assert (listing.code, listing.err) == (0, "")
    assert f"kept up to epoch 12 of 300; {'mine' if run_is_there else 'no run'}" in listing.out
    assert folder.exists() is run_is_there
    if run_is_there:
        next(folder.iterdir()).write_bytes(b"stats")
        damaged = run_here(tmp_path, "stage=store", "store.verify=true")
        assert damaged.code == 2 and f"what is kept of vae/{key}" in damaged.err
        assert f"damaged    .resume/vae-{key}/epoch-12-of-300." in damaged.out
        assert not folder.exists() and len(Store(tmp_path / "runs/store").quarantined_folders()) == 1
