"""One boundary around a stage with several ranks: processes that make the stage's files, and end with it.

The parent finds, locks and commits as ever; between, it starts one process a rank and listens. What a rank must know
goes in as JSON; what it has to say (figures, words, how it ended) comes out as JSON, a line each. No code of the job
runs once a rank, and no rank knows Hydra, W&B or the lock. The first rank that fails ends all others. A rank whose
parent is gone, whatever killed it, ends itself: its standard input closes.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expost.base import scratch as temporary
from expost.base.command import Command
from expost.base.errors import UserError
from expost.base.machines import Machine, refuse_study
from expost.config.schema import Trainer
from expost.job import Job
from expost.ranks.messages import CAUSES, Ending, Order, num_cores
from expost.ranks.rendezvous import Rendezvous
from expost.training.devices import device_of
from expost.training.tracking import Tracker

GRACE_SECONDS = 1.0
"""How long others may say what became of them after one has failed: the cause is not always heard first."""
POLL_SECONDS = 1.0
END_SECONDS = 10.0
TAIL_BYTES = 2000


class RankError(RuntimeError):
    """A rank ended in a way that is no mistake of the user's; its traceback is the cause."""


class RankTraceback(Exception):  # noqa: N818  # no error of this process
    """The traceback of another process, printed where this one's cause stands."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def check_ranks(trainer: Trainer, command: Command) -> None:
    """Refuse what several ranks cannot do, before any work.

    Raises:
        UserError: with the remedy.
    """
    if trainer.num_ranks == 1:
        return
    if trainer.batch_size % trainer.num_ranks:
        lower = max(1, trainer.batch_size // trainer.num_ranks) * trainer.num_ranks
        raise UserError(
            f"trainer.batch_size={trainer.batch_size} is that of all ranks and cannot be shared equally among "
            f"{trainer.num_ranks}; use trainer.batch_size={lower}"
        )
    if trainer.strategy == "fsdp" and (trainer.compile is True or trainer.ema_decay is not None):
        raise UserError(
            "trainer.strategy=fsdp has no whole weights to compile or to average: set trainer.compile=false "
            "trainer.ema_decay=null, or use trainer.strategy=ddp"
        )
    if command.is_trial:
        refuse_study(trainer.num_ranks)
    if device_of(trainer).type == "cpu" and trainer.devices > (most := max(2, num_cores())):
        raise UserError(f"trainer.devices={trainer.devices}: there is a core for {most} ranks here, at most")
    Machine.of(trainer.num_nodes, os.environ)


@dataclass
class Child:
    """One rank's process.

    Attributes:
        order: what it was told.
        process: its input stays open as long as it shall live.
        errors: where its standard error goes; None: to the terminal.
        ending: why it ended early.
        figures: what it gave back, when it was done.
    """

    order: Order
    process: subprocess.Popen[bytes]
    errors: Path | None
    ending: Ending | None = None
    figures: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"rank {self.order.rank} of stage {self.order.stage}"

    @property
    def is_lost(self) -> bool:
        """Whether it is gone without a word about its end."""
        return self.figures is None and self.ending is None and self.process.poll() is not None

    def hear(self, messages: "queue.Queue[ChildMessage]") -> None:
        """Put what the rank says into `messages`, line by line, and None when it can say no more."""
        assert self.process.stdout is not None
        with suppress(ValueError):  # killed in the middle of a line: that is no word
            for line in self.process.stdout:
                messages.put((self, json.loads(line)))
        messages.put((self, None))

    def silence(self) -> Ending:
        """The ending of a process that says nothing about it."""
        code = self.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = self.errors.read_bytes()[-TAIL_BYTES:].decode(errors="replace") if self.errors else ""
        return Ending("silent", f"{self.name} ended with {how}", last, code)

    def error(self) -> Exception:
        """What this process raises for the rank's ending."""
        assert self.ending is not None
        ending = self.ending
        if ending.kind == "user":
            return UserError(ending.message)
        if ending.kind == "peer" and self.order.config["trainer"]["num_nodes"] > 1:
            return UserError(f"{self.name} lost a rank of another machine; see what the command said there")
        if ending.kind == "silent" and ending.code == -signal.SIGKILL:
            return UserError(
                f"{self.name} was killed, as a machine does that runs out of memory; repeat the command, with a "
                "smaller trainer.batch_size or fewer trainer.devices if that was the cause"
            )
        if ending.kind == "disk":
            error: Exception = OSError(ending.code, ending.message, ending.file)
        else:
            error = RankError(f"{self.name}: {ending.message}")
        error.__cause__ = RankTraceback(ending.traceback)
        return error


ChildMessage = tuple[Child, dict[str, Any] | None]


def make_in_ranks(
    job: Job,
    stage: str,
    key: str,
    tracker: Tracker,
    rendezvous: Rendezvous | None = None,
    is_there: Callable[[], bool] = lambda: False,
) -> Mapping[str, Any]:
    """Make the files of a stage with this machine's ranks; the final figures, from rank 0.

    Args:
        job, stage, key: what is made.
        tracker: takes what rank 0 logs.
        rendezvous: where this machine's ranks ask; None on any machine but the first.
        is_there: asked now and then; once it says yes, the ranks are no longer needed.

    Raises:
        UserError: a rank met a mistake of the user's, or was killed.
        RankError: a rank failed otherwise.
        OSError: a rank could not write.
    """
    machine = Machine.of(job.config.trainer.num_nodes, os.environ)
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=temporary.folder()) as scratch:
        try:
            for local_rank in range(job.config.trainer.devices):
                order = _order(job, stage, key, machine, rendezvous.port if rendezvous else machine.port, local_rank)
                children.append(_start(order, job.shows_progress, Path(scratch)))
            return _listen(children, job, tracker, is_there)
        finally:
            _end(children)


def _order(job: Job, stage: str, key: str, machine: Machine, port: int, local_rank: int) -> Order:
    trainer = job.config.trainer
    return Order(
        stage=stage,
        key=key,
        rank=machine.rank * trainer.devices + local_rank,
        local_rank=local_rank,
        world=trainer.num_ranks,
        machine=machine.rank,
        address=machine.address,
        port=port,
        config=job.config.model_dump(mode="json"),
        store=str(job.store.root),
        overrides=job.trainer_overrides,
        max_images=job.max_images,
        quiet=job.quiet,
    )


def _start(order: Order, shows_progress: bool, scratch: Path) -> Child:
    """A rank's process, with its order in its input."""
    errors = None if order.rank == 0 and shows_progress else scratch / f"{order.rank}.txt"
    with open(errors or os.devnull, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "expost.worker"],  # -P: a folder of that name here is not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file if errors else None,
            env=order.environment(),
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is dead already: whoever listens finds out
        process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        process.stdin.flush()
    return Child(order, process, errors)


def _listen(children: list[Child], job: Job, tracker: Tracker, is_there: Callable[[], bool]) -> Mapping[str, Any]:
    """Pass on what ranks say until all have finished or one has failed; the figures of the first."""
    messages: queue.Queue[ChildMessage] = queue.Queue()
    for child in children:
        threading.Thread(target=child.hear, args=(messages,), daemon=True, name=child.name).start()
    speaking, deadline = len(children), float("inf")
    while speaking and time.monotonic() < deadline:
        try:
            child, message = messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if is_there():
                return {}
            if (lost := next((child for child in children if child.is_lost), None)) is None:
                continue
            # A process of its own keeps its output open.
            child, message = lost, {"ending": asdict(lost.silence())}
        if message is None:
            speaking -= 1
            if child.figures is None and child.ending is None:
                child.ending = child.silence()
        elif "log" in message:
            tracker.log(message["log"], message["step"])
        elif "say" in message:
            job.say(*message["say"])
        elif "ending" in message:
            child.ending = Ending(**message["ending"])
        else:
            child.figures = message["done"]
        if child.ending is not None:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    if failed := [child for child in children if child.ending]:
        raise min(failed, key=lambda child: CAUSES.index(child.ending.kind if child.ending else "")).error()
    return children[0].figures or {}


def _end(children: list[Child]) -> None:
    """No process outlives the stage."""
    for child in children:
        if child.figures is None:
            child.process.kill()
        if child.process.stdin is not None:
            with suppress(BrokenPipeError):  # it died before it had read its order
                child.process.stdin.close()
    for child in children:
        try:
            child.process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
