"""Watching a reader of hostile files: what it runs, what it imports, what memory it takes, what it says."""

import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from expost.base.errors import UserError
from expost.export.two_stage import TwoStage
from expost.store.safe import UnsafeError

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
    "pickle.find_class",
    "socket.connect",
    "ctypes.dlopen",
    "code.__new__",
    "webbrowser.open",
)
UNEXPECTED = {"pickle5", "pty", "ftplib", "telnetlib", "smtplib", "antigravity", "this", "evil"}
"""Modules that nobody here needs; hostile files name them."""
GPUS = "libnvidia-ml.so.1"
"""The library by which torch with CUDA counts GPUs, on a machine without one as well."""
CANARY = "canary"
MAX_GROWTH_KIB = 200 * 1024
MAX_SECONDS = 5.0
_seen: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    strange = event == "import" and arguments[0] in UNEXPECTED
    written = event == "open" and CANARY in str(arguments[0]) and str(arguments[1]) not in ("r", "rb", "None")
    counts_gpus = event == "ctypes.dlopen" and arguments == (GPUS,)
    if (event in FORBIDDEN and not counts_gpus) or strange or written:
        _seen.append(f"{event} {arguments}")


sys.addaudithook(_audit)  # cannot be taken back: it only looks while it is asked to


@contextmanager
def nothing_runs(*folders: Path) -> Iterator[None]:
    """The block starts no program, imports nothing strange, connects to nobody and leaves no canary in `folders`."""
    global _seen
    _seen = events = list[str]()
    try:
        yield
    finally:
        _seen = None
    assert not events, events
    assert not [place for folder in folders for place in folder.rglob(CANARY)]


@contextmanager
def refused(match: str, *folders: Path, kind: type[Exception] = UserError) -> Iterator[None]:
    """The block ends in one line that says `match`, at once, without memory, with nothing executed."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    descriptors = _open_files()
    try:
        with nothing_runs(*folders):
            yield
    except kind as error:
        message = str(error)
        chain: BaseException | None = error
        while chain is not None:  # the frames that it came through hold files
            traceback.clear_frames(chain.__traceback__)
            chain = chain.__cause__ or chain.__context__
    else:
        pytest.fail(f"not refused; expected: {match}")
    seconds = time.perf_counter() - started
    assert re.search(match, message), message
    assert "\n" not in message and len(message) <= 400, message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KIB
    assert seconds < MAX_SECONDS
    assert _open_files() <= descriptors


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def refuse(folder: Path, match: str) -> None:
    """Loading the model in `folder` is refused with `match`."""
    with refused(match, folder.parent, kind=UnsafeError):
        TwoStage.load(folder)
