"""A command's temporary folder: gone with it; of a killed one, gone with the next."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import run_here

from expost.base import scratch
from expost.base.scratch import record_stop

HOLDER = "from expost.base import scratch; scratch.begin(); print(scratch.folder(), flush=True); input()"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(scratch.VARIABLE, raising=False)
    return tmp_path


def start(root: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TMPDIR": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_worker_on_another_host_has_no_such_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scratch.VARIABLE, str(root / f"{scratch.PREFIX}elsewhere"))
    assert scratch.folder() is None
    record_stop("vae is kept up to epoch 3 of 9")  # what Ctrl-C and a machine that is taken away come through
    assert not list(root.iterdir())


def test_a_folder_lives_as_long_as_its_process(root: Path) -> None:
    living, its = start(root)
    killed, left = start(root)
    try:
        assert its.is_dir() and left.is_dir() and {its.parent, left.parent} == {root}
        (left / "000000.json").write_text("{}", encoding="utf-8")
        elsewhere = root / f"{scratch.PREFIX}another-host-x1"  # its lock may not reach here
        elsewhere.mkdir()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        scratch.begin()
        ours = scratch.folder()
        assert ours is not None and ours.is_dir()
        assert its.is_dir() and not left.exists()
        scratch.end()
        assert sorted(root.iterdir()) == sorted([its, elsewhere])
    finally:
        for process in (living, killed):
            process.kill()
            process.communicate()


def test_without_room_for_temporary_files_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    done = run_here(tmp_path, "stage=store")
    assert done.code == 2 and len(done.lines) == 1 and "set TMPDIR=DIR" in done.err
