"""A probe: a piece of work in a process of its own, forked from this one, with the peak of its memory.

A fork starts with everything imported, so a probe costs no start of an interpreter; and what it took is given back when
it ends. A fork has no pages of the libraries' code mapped until it touches them, which is why its growth is counted and
not its size. No fork may find a pool of threads half alive: whoever forks computes with one thread.
"""

import ctypes
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from expost import pipeline
from expost.base.errors import UserError
from expost.job import Job
from expost.parts.assembly import ImageParts, Parts
from expost.plan.costs import Facts
from expost.store.artifacts import Artifact, Store
from stage1_vae.data.images import subset
from stage1_vae.errors import ExpostError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
STATUS = Path("/proc/self/status")
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Probed:
    """Attributes:
    facts: what the work returned.
    peak_bytes: largest resident memory that a process doing this work alone would have.
    seconds: that the probe itself took.
    """

    facts: Facts
    peak_bytes: int
    seconds: float


def resident_bytes(name: str = "VmRSS") -> int:
    """The resident memory of this process; with another `name`, that line of its status.

    Raises:
        UserError: there is no /proc here.
    """
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError("stage=plan reads memory from /proc, which this system has not; run it on Linux") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def peak_bytes() -> int:
    return resident_bytes("VmHWM")


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
        with suppress(Late):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_with(parent: int) -> None:
    """End this process when `parent`, which started it, ends in whatever way; at once where it has already."""
    with suppress(AttributeError, OSError):  # of a system without prctl
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def measure_in_fork(work: Callable[[], Facts], threads: int) -> Probed:
    """Do `work` in a fork whose torch computes with so many `threads`.

    Raises:
        UserError: what the work raised is the user's to mend, or it took more memory than there is.
    """
    size, started = resident_bytes(), time.perf_counter()
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send_outcome, args=(sender, work, threads, os.getpid()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: those of libraries, all idle
        process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        status = process.exitcode
        outcome = UserError(f"a probe was ended by the system (status {status}), most likely for want of memory")
    process.join()
    if isinstance(outcome, Exception):
        raise outcome
    facts, grown = outcome
    return Probed(facts, size + grown, time.perf_counter() - started)


def _send_outcome(sender: Connection, work: Callable[[], Facts], threads: int, parent: int) -> None:
    """What the fork tells its parent: facts and the growth of its memory, or what went wrong."""
    end_with(parent)
    try:
        torch.set_num_threads(threads)
        start = resident_bytes()
        sender.send((work(), peak_bytes() - start))
    except ExpostError as error:
        sender.send(UserError(str(error)))
    except BaseException:  # whatever it is: the parent waits to be told
        sender.send(RuntimeError(traceback.format_exc()))


@dataclass(frozen=True)
class Probing:
    """What the probes share.

    Attributes:
        job: the run, in small: a root of its own, one rank, no loggers.
        parts: its images or latents in full number, its models.
        scratch: an empty folder.
        rank_batch: images of a step on one rank.
    """

    job: Job
    parts: Parts
    scratch: Path
    rank_batch: int

    @property
    def enough(self) -> float:
        return self.job.config.plan.probe_seconds

    @property
    def images(self) -> ImageParts:
        """The parts, of a job that has images."""
        return self.parts.of_images

    def with_few(self, **counts: int) -> ImageParts:
        """The images' parts with at most so many images of the splits that are named."""
        data = self.images.data
        few: dict[str, Any] = {split: subset(getattr(data, split), num) for split, num in counts.items()}
        return replace(self.images, data=replace(data, **few))

    def place(self, name: str, **limits: Any) -> Job:
        """The job with a store of its own, so that nothing is found there, and with limits for Lightning."""
        return replace(self.job, store=Store(self.scratch / name), trainer_overrides=limits)


def change(job: Job, section: str, **values: Any) -> Job:
    """The job with other `values` in a section of its configuration."""
    asked = getattr(job.config, section)
    asked = asked | values if isinstance(asked, dict) else asked.model_copy(update=values)
    return replace(job, config=job.config.model_copy(update={section: asked}))


def make(stage: str, job: Job, parts: Parts, **given: Artifact) -> tuple[Artifact, float]:
    """The artifact of a stage from those that are `given`, and the seconds that it took."""
    started = time.perf_counter()
    artifact = pipeline.made(stage, job, parts, given)[stage]
    return artifact, time.perf_counter() - started


def files_of(folder: Path) -> dict[str, int]:
    """Bytes of each file of an artifact, by its path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


class Watch(pl.Callback):
    """Times the steps of one training, and ends it when they took `enough` seconds.

    The first stretch of steps is not timed: it pays for what is there once. Nor are validations.

    Attributes:
        num, seconds: optimiser steps, and what they took.
        grown_bytes: of the process, by the end of the last step.
    """

    def __init__(self, enough: float) -> None:
        self.enough, self.num, self.seconds, self.grown_bytes = enough, 0, 0.0, 0
        self._first, self._before, self._start = 0, 0.0, resident_bytes()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        now, self.grown_bytes = time.perf_counter(), peak_bytes() - self._start
        if not self._first:
            self._first = trainer.global_step
        else:
            self.num, self.seconds = trainer.global_step - self._first, self.seconds + now - self._before
            trainer.should_stop |= self.seconds >= self.enough
        self._before = now

    def on_validation_end(self, *_: object) -> None:
        self._before = time.perf_counter()

    @property
    def seconds_a_step(self) -> float:
        return self.seconds / max(1, self.num)
