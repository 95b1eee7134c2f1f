"""Processes that work while a test looks on: a fit that does not end by itself, ranks as the system sees them."""

import subprocess
import time
from pathlib import Path

ENDLESS = ("stage=vae", "trainer.max_epochs=1000000", "trainer.max_steps=null", "net.hidden=[8]")


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Until there is something like `pattern` in `folder`; fails when the process ends, or after 150 seconds."""
    deadline = time.monotonic() + 150
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern} within 150 s"
        time.sleep(0.1)


def ranks_alive(folder: Path) -> dict[int, int]:
    """Rank -> process number of the ranks that work for the store in `folder`."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (entry / "cmdline").read_bytes(), (entry / "cwd").resolve()
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            continue
        if b"expost.worker" in words and place == folder.resolve():
            found[next(int(v[5:]) for v in variables if v.startswith(b"RANK="))] = int(entry.name)
    return found


def gone(folder: Path, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while ranks_alive(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not ranks_alive(folder)
