"""A piece of work in a process of its own, forked from this one, with the peak of its memory.

A fork starts with everything imported, so a probe costs no start of an interpreter; and what it took is given back when
it ends. A fork has no pages of the libraries' code mapped until it touches them, which is why its growth is counted and
not its size. No fork may find a pool of threads half alive: whoever forks computes with one thread.
"""

import json
import os
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from orchestration.errors import UserError

STATUS, FREE = Path("/proc/self/status"), Path("/proc/meminfo")
Facts = dict[str, Any]
"""What a probe measured, as JSON."""


@dataclass(frozen=True)
class Probed:
    """Attributes:
    facts: what the work returned.
    peak_bytes: largest resident memory that a process doing this work alone would have.
    """

    facts: Facts
    peak_bytes: int


def kib_of(file: Path, name: str) -> int:
    """The line `name` of a file in /proc, in bytes.

    Raises:
        UserError: there is no /proc here.
    """
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise UserError("stage=plan reads memory from /proc, which this system has not; run it on Linux") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def resident_bytes() -> int:
    return kib_of(STATUS, "VmRSS")


def peak_bytes() -> int:
    return kib_of(STATUS, "VmHWM")


def available_bytes() -> int:
    return kib_of(FREE, "MemAvailable")


def forked(work: Callable[[], Facts], threads: int, mistakes: tuple[type[Exception], ...] = (UserError,)) -> Probed:
    """Do `work` in a fork that computes with so many `threads`.

    Args:
        work: what is measured.
        threads: of torch, in the fork.
        mistakes: what is the user's to mend: told again here as a UserError.

    Raises:
        UserError: the work raised one of `mistakes`, or took more memory than there is.
    """
    size = resident_bytes()
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: those of libraries, all idle
        pid = os.fork()
    if pid == 0:
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
    return Probed(told["facts"], max(peak_bytes(), size + told["grown_bytes"]))


def _tell(write_end: int, work: Callable[[], Facts], threads: int, mistakes: tuple[type[Exception], ...]) -> NoReturn:
    """What the fork does; it never returns into its parent's code."""
    try:
        torch.set_num_threads(threads)
        size = resident_bytes()
        told: Facts = {"facts": work()}
        told["grown_bytes"] = peak_bytes() - size
    except mistakes as error:
        told = {"mistake": str(error)}
    except BaseException:
        told = {"traceback": traceback.format_exc()}
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write(json.dumps(told).encode())
    os._exit(0)
