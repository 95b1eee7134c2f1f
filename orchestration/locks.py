"""One holder of a name at a time, over processes and hosts; a dead holder is noticed and replaced.

Two signs say that a lock is held. What holds where:

- One machine, and network file systems whose `flock` reaches all hosts (NFS 4, Lustre with `-o flock`, CephFS): the
  kernel's `flock` on `NAME.lock`. It ends with its process, whatever killed it; the next in line has it at once.
- Network file systems where `flock` is local to a host or missing: `NAME.owner`, made exclusively, says who holds the
  lock; a thread of the holder touches it every `BEAT_SECONDS`. On the holder's host a process that is gone holds
  nothing. On another host the holder is dead when a waiting process has seen no touch for `STALE_SECONDS` of its own
  clock: clocks of two hosts are never compared. A holder that slept that long and wakes up finds its scratch removed.

The first sign is exact. The second can, where two waiting hosts judge the same dead owner in the same moment, let both
in: then the same thing is made twice. It is never made wrong, because an artifact appears by one rename (see
`orchestration.store`): locks save work, correctness does not hang on them.

The files stay small and the `.lock` files stay for good: removing one that another process waits on lets two in.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # twelve beats; attribute caches of NFS are renewed when a file is opened, as it is here
POLL_SECONDS = 0.2
ABSENT_SECONDS = 3600.0
"""Who does not wait, and so cannot watch, takes a holder on another host for dead only after this long."""

NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}


@dataclass(frozen=True)
class Owner:
    """What an owner file says, and when it was touched last (nanoseconds of the file server's clock)."""

    process: int
    host: str
    taken: float
    touched_ns: int = 0

    @classmethod
    def me(cls) -> "Owner":
        return cls(os.getpid(), socket.gethostname(), time.time())

    @classmethod
    def read(cls, path: Path) -> "Owner | None":
        """None where there is none; one of nobody for a file that is being written or is damaged."""
        try:
            with path.open(encoding="utf-8") as file:  # opened, not only looked at: NFS then asks its server
                facts, touched_ns = file.read(), os.fstat(file.fileno()).st_mtime_ns
            said = json.loads(facts)
            return cls(int(said["process"]), str(said["host"]), float(said["taken"]), touched_ns)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return cls(0, "", 0.0, touched_ns)

    @property
    def words(self) -> str:
        return f"process {self.process} on {self.host}" if self.host else "another process"

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    def same(self, other: "Owner | None") -> bool:
        return other is not None and (self.process, self.host, self.taken) == (other.process, other.host, other.taken)

    def write(self, path: Path) -> None:
        """
        Raises:
            FileExistsError: somebody was quicker.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"process": self.process, "host": self.host, "taken": self.taken}, file)


class KeyLock:
    """Args:
    folder: where the lock's files are; must exist.
    name: what is locked.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.owner_file = folder / f"{name}.owner"
        # Held in one thread and asked for in another of the same process are two different things here.
        self._flock = FileLock(folder / f"{name}.lock", fallback_to_soft=False)
        self._has_flock = True
        self._watched: tuple[Owner | None, float] = (None, 0.0)

    @contextmanager
    def held(self, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """The lock inside the block; `waiting` hears the name of each holder that is waited for.

        Raises:
            OSError: the folder cannot be written.
        """
        told, started = None, time.monotonic()
        while not (self._take_flock() and self._take_over(self._is_silent)):
            owner = Owner.read(self.owner_file)
            known = owner is not None and owner.host
            if waiting and (known or (told is None and time.monotonic() - started > 1)):
                words = owner.words if owner else "another process"
                if words != told:
                    waiting(words)
                told = words
            time.sleep(POLL_SECONDS)
        with self._beating():
            yield

    @contextmanager
    def held_if_free(self) -> Iterator[str | None]:
        """None, and the lock, where nobody has it; else who does.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._take_flock() and self._take_over(lambda owner: time.time() - owner.touched_ns / 1e9 > ABSENT_SECONDS):
            with self._beating():
                yield None
        else:
            owner = Owner.read(self.owner_file)
            self._flock.release()
            yield owner.words if owner else "another process"

    def _take_flock(self) -> bool:
        if self._flock.is_locked or not self._has_flock:
            return True
        try:
            self._flock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:
            self._has_flock = False
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            self._has_flock = False
        return True

    def _take_over(self, is_silent: Callable[[Owner], bool]) -> bool:
        """Become the owner unless another one is alive."""
        owner = Owner.read(self.owner_file)
        if owner is not None:
            if owner.is_here or not owner.host:  # of one that died while it wrote its name nobody knows the host
                dead = self._has_flock or not _exists(owner.process)
            else:
                dead = is_silent(owner)
            if not dead:
                return False
            if owner.same(Owner.read(self.owner_file)):
                self.owner_file.unlink(missing_ok=True)
        self._me = Owner.me()
        try:
            self._me.write(self.owner_file)
        except FileExistsError:
            return False
        return True

    def _is_silent(self, owner: Owner) -> bool:
        """Whether this process has watched `owner` long enough without a sign of life."""
        if self._watched[0] != owner:
            self._watched = (owner, time.monotonic())
        return time.monotonic() - self._watched[1] > STALE_SECONDS

    @contextmanager
    def _beating(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True, name="lock")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):  # a vanished mount
                if self._is_mine():
                    self.owner_file.unlink(missing_ok=True)
            with suppress(OSError):  # as above
                self._flock.release()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a mount that is away for a moment
                if self._is_mine():
                    os.utime(self.owner_file)

    def _is_mine(self) -> bool:
        return self._me.same(Owner.read(self.owner_file))


def _exists(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
