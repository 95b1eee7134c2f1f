"""Ctrl-C in the middle of a fit: one line, exit code 130, nothing half-finished in the store."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from command_line import PROJECT, SMALL

ENDLESS = ("stage=vae", "trainer.max_epochs=1000000", "trainer.max_steps=null", "net.hidden=[8]")


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern} within a minute"
        time.sleep(0.1)


def test_ctrl_c_in_a_fit_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "pipeline.py"), *SMALL, *ENDLESS]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(tmp_path, "runs/*/logs/vae/*.csv", process)  # written at the end of an epoch: the fit is under way
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines() == ["stopped; the same command continues with the first stage that is not finished"]
    assert not list(tmp_path.glob("runs/store/vae/*"))
    assert not list(tmp_path.glob("runs/store/vae/.*.*")), "the scratch folder stayed"
