"""A plan that is ended, in whatever way, leaves no process that goes on probing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PARENT = """
import os, pathlib, sys, time
from orchestration.plan_fork import forked

def work():
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(120)

forked(work, threads=1)
"""


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != b"Z"


@pytest.mark.skipif(sys.platform != "linux", reason="plans are made on Linux")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_probe_ends_with_the_process_that_forked_it(tmp_path: Path, ending: signal.Signals) -> None:
    told = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, told], cwd=PROJECT)
    try:
        started = time.monotonic()
        while not (told.is_file() and told.read_text(encoding="utf-8")) and time.monotonic() - started < 60:
            time.sleep(0.05)
        probe = int(told.read_text(encoding="utf-8"))
        assert is_alive(probe)
        parent.send_signal(ending)
        parent.wait(10)
        ended = time.monotonic()
        while is_alive(probe) and time.monotonic() - ended < 5:
            time.sleep(0.05)
        assert not is_alive(probe)
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="plans are made on Linux")
def test_a_server_whose_command_is_gone_does_not_begin(tmp_path: Path) -> None:
    job, result = tmp_path / "job.json", tmp_path / "result.json"
    job.write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", "orchestration.plan_server", job, result, str(os.getpid() + 1)]
    assert subprocess.run(command, cwd=PROJECT, timeout=60).returncode == 1
    assert not result.exists() and not (tmp_path / "scratch").exists()
