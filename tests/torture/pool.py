"""Processes: attempts at a command that may be killed, and faults tried side by side.

Importing torch and Lightning takes seconds, so most attempts are children forked from a process that has imported all
and computed nothing: real processes that run the real command line. A share of them are new processes from the first
instruction, so that start-up is hit too.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LONGEST_SECONDS = 300.0
"""What has not ended by then hangs."""


@dataclass
class Plan:
    """Attributes:
    root: where everything is written.
    seed: of all faults.
    share: of the full number of faults.
    workers: faults side by side.
    number: of the only fault to try; None: all.
    """

    root: Path
    seed: int
    share: float
    workers: int
    number: int | None = None

    def numbers(self, full: int) -> list[int]:
        """The faults of a family that has `full` of them."""
        return [self.number] if self.number is not None else list(range(max(1, round(full * self.share))))

    def clear(self, keep: bool) -> None:
        if not keep:
            shutil.rmtree(self.root)


@dataclass
class Tally:
    """How many faults were tried, and why some did not hold."""

    tried: int = 0
    held: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        return f"{self.held} of {self.tried} held" + "".join(f" ({remark})" for remark in self.remarks)


def preload() -> None:
    """Import everything that a run needs; compute nothing."""
    for name in ("pipeline", "stage2_prior.fit"):
        importlib.import_module(name)


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        code: exit code, or minus the signal.
        out, err: both streams.
        seconds: wall time.
    """

    code: int
    out: str
    err: str
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def new_file(folder: Path, suffix: str = "") -> Path:
    """An empty file with a name of its own."""
    descriptor, name = tempfile.mkstemp(suffix=suffix, dir=folder)
    os.close(descriptor)  # an open file would keep its disk mounted
    return Path(name)


class Attempt:
    """`python pipeline.py WORDS` in `folder`, which is made; its temporary files go to `folder/tmp`.

    Args:
        folder, words: where and what.
        anew: a new process; else a fork of this one, which has imported everything.
    """

    def __init__(self, folder: Path, words: Iterable[str], anew: bool = False) -> None:
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.folder, self.words = folder, list(words)
        self.streams = tuple(new_file(folder, f".{name}") for name in ("out", "err"))
        self.started = time.monotonic()
        self.process = self._launched() if anew else self._forked()
        self.ended: Ended | None = None

    def _launched(self) -> int:
        out, err = (path.open("wb") for path in self.streams)
        with out, err:
            return subprocess.Popen(
                [sys.executable, str(PROJECT / "pipeline.py"), *self.words],
                cwd=self.folder,
                env={**os.environ, "TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(PROJECT)},
                stdout=out,
                stderr=err,
            ).pid

    def _forked(self) -> int:
        sys.stdout.flush()
        if process := os.fork():
            return process
        code = 70
        try:
            for descriptor, path in zip((1, 2), self.streams, strict=True):
                os.dup2(os.open(path, os.O_WRONLY), descriptor)
            os.environ["TMPDIR"], tempfile.tempdir = str(self.folder / "tmp"), None
            os.chdir(self.folder)
            sys.argv = [str(PROJECT / "pipeline.py"), *self.words]
            from expost.__main__ import main

            code = main()
        except BaseException:  # a fork must not run on in its parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> Ended | None:
        """How it ended; None while it runs."""
        if self.ended is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                self._reap(status)
        return self.ended

    def _reap(self, status: int) -> None:
        out, err = (path.read_text(encoding="utf-8") for path in self.streams)
        for path in self.streams:
            path.unlink()
        self.ended = Ended(os.waitstatus_to_exitcode(status), out, err, time.monotonic() - self.started)

    def kill(self) -> Ended:
        if self.poll() is None:
            os.kill(self.process, signal.SIGKILL)
            self._reap(os.waitpid(self.process, 0)[1])
        assert self.ended is not None
        return self.ended

    def wait(self, seconds: float = LONGEST_SECONDS) -> Ended:
        """Until it ends, or is killed after `seconds`."""
        while self.poll() is None:
            if time.monotonic() - self.started > seconds:
                return self.kill()
            time.sleep(0.002)
        assert self.ended is not None
        return self.ended


def side_by_side(plan: Plan, faults: Iterable[tuple[str, Callable[[], str | None]]]) -> Tally:
    """Try each fault in a process of its own, a few at once; each gives back what did not hold, or None."""
    tally = Tally()
    waiting, running = iter(faults), dict[int, tuple[str, Path]]()
    while _fill(plan, running, waiting):
        process, _ = os.waitpid(-1, 0)
        name, answer = running.pop(process)
        said = json.loads(answer.read_text(encoding="utf-8") or '"the process that tried it died"')
        answer.unlink()
        tally.tried += 1
        tally.held += said is None
        if said is not None:
            print(f"{'not held':<13}{name}, seed {plan.seed}: {said}", flush=True)
        if tally.tried % 10 == 0:
            print(f"{'':<13}{tally.words} so far", flush=True)
    return tally


def _fill(
    plan: Plan, running: dict[int, tuple[str, Path]], waiting: Iterator[tuple[str, Callable[[], str | None]]]
) -> bool:
    """Start faults while there is room; whether any is running."""
    while len(running) < plan.workers and (following := next(waiting, None)):
        name, fault = following
        answer = new_file(plan.root)
        sys.stdout.flush()
        if process := os.fork():
            running[process] = (name, answer)
            continue
        try:
            said = fault()
        except BaseException:  # as above
            said = traceback.format_exc()
        answer.write_text(json.dumps(said), encoding="utf-8")
        os._exit(0)
    return bool(running)
