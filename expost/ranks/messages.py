"""What a stage's parent and its ranks tell each other: an order in, lines out, all JSON."""

import errno
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from expost.base.machines import without_ranks
from expost.base.places import python_path
from stage1_vae.errors import ExpostError


@dataclass(frozen=True)
class Order:
    """What one rank is to do.

    Attributes:
        stage, key: the artifact that it helps to make.
        rank, local_rank, world: which one it is, of all and on its machine; how many there are.
        machine: its machine.
        address, port: where the ranks find each other.
        config, store, overrides, max_images, quiet: of the run, see `expost.job.Job`.
    """

    stage: str
    key: str
    rank: int
    local_rank: int
    world: int
    machine: int
    address: str
    port: int
    config: dict[str, Any]
    store: str
    overrides: dict[str, Any]
    max_images: int | None
    quiet: bool

    def environment(self) -> dict[str, str]:
        """Of the rank's process: that of this one, with the rank's own variables and no other's."""
        own = {
            "RANK": self.rank,
            "LOCAL_RANK": self.local_rank,
            "WORLD_SIZE": self.world,
            "GROUP_RANK": self.machine,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
        }
        environment = without_ranks(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // self.config["trainer"]["devices"])))
        if self.config["trainer"]["num_nodes"] == 1 and sys.platform == "linux":
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's name may lead nowhere
        environment["PYTHONPATH"] = python_path()
        return environment | {name: str(value) for name, value in own.items()}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CAUSES = ("user", "silent", "disk", "crash", "peer")
"""Kinds of endings; of several ranks' endings, the one whose kind stands first here caused the others."""
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "NCCL")
"""What the backends say where another rank is gone."""


@dataclass(frozen=True)
class Ending:
    """Why a rank ended before its work was done.

    Attributes:
        kind: one of `CAUSES`.
        message: one line.
        traceback: of the rank; of a silent end, the last that it wrote.
        code: `errno` of a disk's, exit code of a silent end.
        file: that a disk's is about.
    """

    kind: str
    message: str
    traceback: str = ""
    code: int = 0
    file: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> "Ending":
        """`error` in words."""
        if isinstance(error, ExpostError):
            return cls("user", str(error))
        lines, words = "".join(traceback.format_exception(error)), f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno in errno.errorcode:
            file = None if error.filename is None else os.fsdecode(error.filename)
            return cls("disk", error.strerror or words, lines, error.errno or 0, file)
        return cls("peer" if any(word in words for word in LOST) else "crash", words, lines)
