"""A piece of work in a process of its own, forked from this one, with the peak of its memory.

A fork starts with everything imported, so a probe costs no start of an interpreter; and what it took is given back when
it ends. A fork has no pages of the libraries' code mapped until it touches them, which is why its growth is counted and
not its size. No fork may find a pool of threads half alive: whoever forks computes with one thread.
"""

import ctypes
import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from expost.base.errors import UserError
from stage1_vae.machine import available_bytes as available_bytes

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STATUS = Path("/proc/self/status")
Facts = dict[str, Any]
"""What a probe measured, as JSON."""


@dataclass(frozen=True)
class Probed:
    """Attributes:
    facts: what the work returned.
    peak_bytes: largest resident memory that a process doing this work alone would have.
    before_bytes: of the process that forked.
    start_bytes: of the fork at its start, in its own count.
    seconds: that the probe itself took.
    """

    facts: Facts
    peak_bytes: int
    before_bytes: int
    start_bytes: int
    seconds: float

    @property
    def circumstances(self) -> Facts:
        return {"peak_bytes": self.peak_bytes, "seconds_probed": self.seconds}

    def whole(self, num_bytes: float) -> float:
        """What a process doing this work alone would have where the fork counts `num_bytes`."""
        return self.before_bytes + num_bytes - self.start_bytes


def kib_of(file: Path, name: str) -> int:
    """The line `name` of a file in /proc, in bytes.

    Raises:
        UserError: there is no /proc here.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError("stage=plan reads memory from /proc, which this system has not; run it on Linux") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def resident_bytes() -> int:
    return kib_of(STATUS, "VmRSS")


def peak_bytes() -> int:
    return kib_of(STATUS, "VmHWM")


class Late(BaseException):  # nothing that is interrupted may take it for an error of its own
    """Ends work whose memory was wanted, and not its result."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt the block after so many `seconds`: by then work done in blocks has all the memory that it will have."""

    def end(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Late:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_with(parent: int) -> None:
    """End this process when `parent`, which started it, ends in whatever way; at once where it has already."""
    with suppress(AttributeError, OSError):  # of a system without prctl
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def forked(work: Callable[[], Facts], threads: int, mistakes: tuple[type[Exception], ...] = (UserError,)) -> Probed:
    """Do `work` in a fork that computes with so many `threads`.

    Args:
        work: what is measured.
        threads: of torch, in the fork.
        mistakes: what is the user's to mend: told again here as a UserError.

    Raises:
        UserError: the work raised one of `mistakes`, or took more memory than there is.
    """
    size, started, parent = resident_bytes(), time.perf_counter(), os.getpid()
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: those of libraries, all idle
        pid = os.fork()
    if pid == 0:
        end_with(parent)
        os.close(read_end)
        _tell(write_end, work, threads, mistakes)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    told: Facts = json.loads(said) if said else {}
    if "mistake" in told:
        raise UserError(told["mistake"])
    if "traceback" in told:
        raise RuntimeError(told["traceback"])
    if not told:
        raise UserError(f"a probe was ended by the system (status {status}), most likely for want of memory")
    seconds = time.perf_counter() - started
    whole = size + told["peak_bytes"] - told["start_bytes"]
    return Probed(told["facts"], whole, size, told["start_bytes"], seconds)


def _tell(write_end: int, work: Callable[[], Facts], threads: int, mistakes: tuple[type[Exception], ...]) -> NoReturn:
    """What the fork does; it never returns into its parent's code."""
    try:
        torch.set_num_threads(threads)
        told: Facts = {"start_bytes": resident_bytes()}
        told |= {"facts": work(), "peak_bytes": peak_bytes()}
    except mistakes as error:
        told = {"mistake": str(error)}
    except BaseException:  # whatever it is: the parent waits to be told
        told = {"traceback": traceback.format_exc()}
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(json.dumps(told).encode())
    os._exit(0)
