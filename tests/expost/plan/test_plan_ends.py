"""A plan that is ended, in whatever way, leaves no process that goes on probing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import SMALL, run_here

from expost.base.errors import UserError
from expost.plan.command import check_target

PROJECT = Path(__file__).resolve().parents[3]
PARENT = """
import os, pathlib, signal, sys, time
from expost.plan.probe import measure_in_fork

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored

def work():
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(120)

measure_in_fork(work, threads=1)
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
    file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, file], cwd=PROJECT)
    try:
        started = time.monotonic()
        while not (file.is_file() and file.read_text(encoding="utf-8")) and time.monotonic() - started < 60:
            time.sleep(0.05)
        probe = int(file.read_text(encoding="utf-8"))
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
    command = [sys.executable, "-m", "expost.plan.server", job, result, str(os.getpid() + 1)]
    assert subprocess.run(command, cwd=PROJECT, timeout=60).returncode == 1  # type: ignore[arg-type]
    assert not result.exists() and not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("content", ["thesis", "", "[1]", '{"stages": {}, "total": {}}', "[" * 10**5])
def test_what_is_no_plan_is_not_replaced_and_nothing_is_probed(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content, encoding="utf-8")
    refused = run_here(tmp_path, *SMALL, "stage=plan", "plan.out=mine.json")
    assert (refused.code, len(refused.lines)) == (2, 1)
    assert "plan.out=mine.json is there already and is no plan; give another name, or remove it" in refused.err
    assert (tmp_path / "mine.json").read_text(encoding="utf-8") == content and "probing" not in refused.out


def test_an_earlier_plan_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"stages": {}, "total": {}, "probed": {}}', encoding="utf-8")
    check_target(tmp_path / "plan.json")
    check_target(tmp_path / "new.json")
    check_target(tmp_path / ("long" * 100))  # said by who writes it
    with pytest.raises(UserError, match="is no plan"):
        check_target(tmp_path)
