"""The processes of a job with several ranks, as the system sees them."""

import time
from pathlib import Path


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
