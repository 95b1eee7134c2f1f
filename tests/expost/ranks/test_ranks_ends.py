"""How stages made by two real processes over gloo end early: all of them, at once and in one line."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import PROJECT, SMALL, ctrl_c_is_heard, keys, run_here
from processes import ENDLESS, gone, ranks_alive, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two ranks in the middle of a training run that has no end."""
    command = [sys.executable, str(PROJECT / "pipeline.py"), *SMALL, *ENDLESS, "trainer=ddp", "trainer.val_every=1"]
    with ctrl_c_is_heard():
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
    try:
        wait_for(tmp_path, "runs/*/logs/vae/*.csv", process)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_rank_ends_all_in_one_line(tmp_path: Path) -> None:
    alive: dict[int, int] = {}

    def kill() -> None:
        while not list(tmp_path.glob("runs/*/logs/vae/*.csv")):
            time.sleep(0.1)
        alive.update(ranks_alive(tmp_path))
        os.kill(alive[1], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    result = run_here(tmp_path, *SMALL, *ENDLESS, "trainer=ddp", "trainer.val_every=1")
    assert set(alive) == {0, 1}
    assert result.code == 2 and len(result.lines) == 1
    assert result.err.startswith("error: rank 1 of stage vae was killed")
    assert gone(tmp_path, 0)
    assert not list(tmp_path.glob("runs/store/vae/*")) and not list(tmp_path.glob("runs/store/vae/.*.*"))


@pytest.mark.slow
@pytest.mark.parametrize("word", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ranks_end_with_their_parent(tmp_path: Path, endless: subprocess.Popen[str], word: signal.Signals) -> None:
    assert len(ranks_alive(tmp_path)) == 2
    endless.send_signal(word)
    endless.communicate(timeout=30)
    assert gone(tmp_path), "a rank outlived its parent"


@pytest.mark.slow
def test_ctrl_c_reaches_all_and_is_told_once(tmp_path: Path) -> None:
    """A terminal sends it to every process of the group."""
    command = [sys.executable, str(PROJECT / "pipeline.py"), *SMALL, *ENDLESS, "trainer=ddp", "trainer.val_every=1"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ctrl_c_is_heard():
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes)
    try:
        wait_for(tmp_path, "runs/*/logs/vae/*.csv", process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in err and err.splitlines()[-1].startswith("stopped; ")
    assert gone(tmp_path, 1)


@pytest.mark.slow
def test_a_mistake_that_a_rank_meets_is_one_line(tmp_path: Path) -> None:
    result = run_here(tmp_path, *SMALL, "trainer=ddp", "trainer.lr=1e30", "stage=vae")
    assert result.code == 2 and len(result.lines) == 1, result.err
    assert "NaN or infinite at step 1" in result.err and "trainer.lr" in result.err
    assert gone(tmp_path, 0) and not keys(tmp_path, "vae")


def spoil_rank_1(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let rank 1 alone run `lines` before anything else."""
    (folder / "broken").mkdir()
    body = "\n".join(f"    {line}" for line in lines)
    (folder / "broken/sitecustomize.py").write_text(
        f"import os\nif os.environ.get('RANK') == '1':\n{body}\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))


@pytest.mark.slow
def test_an_error_of_ours_comes_with_the_traceback_of_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_rank_1(
        tmp_path,
        monkeypatch,
        "import stage1_vae.data.digits as digits",
        "def load(self): raise ZeroDivisionError('of rank 1')",
        "digits.Digits.load = load",
    )
    result = run_here(tmp_path, *SMALL, "trainer=ddp", "stage=vae")
    assert result.code == 1 and "in load" in result.err
    assert result.lines[-1] == "error: RankError: rank 1 of stage vae: ZeroDivisionError: of rank 1"
    assert gone(tmp_path, 0) and not keys(tmp_path, "vae")


@pytest.mark.slow
def test_a_rank_that_drifted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_rank_1(
        tmp_path,
        monkeypatch,
        "from stage1_vae.training.module import VAEModule",
        "def drift(self): next(self.step.vae.parameters()).data.flatten()[0] += 1e-3",
        "VAEModule.on_train_end = drift",
    )
    result = run_here(tmp_path, *SMALL, "trainer=ddp", "stage=vae")
    assert result.code == 1 and "rank 1 ended with other weights than rank 0" in result.lines[-1], result.err
    assert gone(tmp_path, 0) and not keys(tmp_path, "vae")
