"""One holder of a name at a time, over processes and hosts; a dead holder is noticed and replaced.

Two signs say that a lock is held. What holds where:

- One machine, and network file systems whose `flock` reaches all hosts (NFS 4, Lustre with `-o flock`, CephFS): the
  kernel's `flock` on `NAME.lock`. It ends with its process, whatever killed it; the next in line has it at once.
- Network file systems where `flock` is local to a host or missing: `NAME.owner`, made exclusively, says who holds the
  lock; a thread of the holder touches it every `BEAT_SECONDS`. On the holder's host a process that is gone holds
  nothing, nor does another one that was given its number since: its birth tells them apart. On another host the holder
  is dead when a waiting process has seen no touch for `STALE_SECONDS` of its own clock: clocks of two hosts are never
  compared. A holder that slept that long and wakes up finds its scratch removed.

The first sign is exact. The second can, where two waiting hosts judge the same dead owner in the same moment, let both
in: then the same thing is made twice. It is never made wrong, because an artifact appears by one rename (see
`expost.store.artifacts`): locks save work, correctness does not hang on them.

The files stay small and the `.lock` files stay for good: removing one that another process waits on lets two in.
"""

import errno
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # twelve beats; attribute caches of NFS are renewed when a file is opened, as it is here
POLL_SECONDS = 0.2
ABSENT_SECONDS = 3600.0
"""Who does not wait, and so cannot watch, takes a holder on another host for dead only after this long."""

CLOCK_SECONDS = 2.0
"""By which the time of a birth may seem later than it was."""
MAX_OWNER_BYTES = 2**12
BOOT = Path("/proc/sys/kernel/random/boot_id")

NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}


@dataclass(frozen=True)
class Owner:
    """What an owner file says, and when it was touched last (nanoseconds of the file server's clock).

    `birth` names the start of the process, so that no later one of its number is taken for it; empty: nobody wrote it.
    """

    process: int
    host: str
    taken: float
    touched_ns: int = 0
    birth: str = ""

    @classmethod
    def me(cls) -> "Owner":
        return cls(os.getpid(), socket.gethostname(), time.time(), birth=_birth(os.getpid()))

    @classmethod
    def read(cls, path: Path) -> "Owner | None":
        """None where there is none; one of nobody for a file that is being written or is damaged."""
        touched_ns = 0
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:  # opened, not only looked at: NFS then asks its server
                facts = os.fstat(descriptor)
                touched_ns = facts.st_mtime_ns
                written = json.loads(file.read(MAX_OWNER_BYTES) if stat.S_ISREG(facts.st_mode) else b"")
            return cls(
                int(written["process"]),
                str(written["host"]),
                float(written["taken"]),
                touched_ns,
                str(written.get("birth", "")),
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
                raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            pass
        return cls(0, "", 0.0, touched_ns)

    @property
    def words(self) -> str:
        return f"process {self.process} on {self.host}" if self.host else "another process"

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    def same(self, other: "Owner | None") -> bool:
        return other is not None and replace(self, touched_ns=0) == replace(other, touched_ns=0)

    @property
    def is_gone(self) -> bool:
        """Whether the process, of this host, has ended; another one may have its number since."""
        if not _exists(self.process):
            return True
        if self.birth:
            return self.birth != _birth(self.process)
        return (birth := _birth_seconds(self.process)) is not None and birth > self.taken + CLOCK_SECONDS

    def write(self, path: Path) -> None:
        """All of it at once: nobody finds a file that says half, but on a file system without hard links.

        Raises:
            FileExistsError: somebody was quicker.
        """
        private = path.with_name(f".{uuid.uuid4().hex}.new")
        try:
            self._write(private)
            try:
                os.link(private, path)
            except FileExistsError:
                if private.stat().st_nlink != 2:  # else NFS asked twice, and its first answer was lost
                    raise
            except OSError:
                self._write(path)
        finally:
            private.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with open(descriptor, "w", encoding="utf-8") as file:
            facts = {"process": self.process, "host": self.host, "taken": self.taken, "birth": self.birth}
            json.dump(facts, file)


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
    def hold(self, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """The lock inside the block; `waiting` hears the name of each holder that is waited for.

        Raises:
            OSError: the folder cannot be written.
        """
        last, started = None, time.monotonic()
        while not (self._take_flock() and self._take_over(self._is_silent)):
            owner = Owner.read(self.owner_file)
            known = owner is not None and owner.host
            if waiting and (known or (last is None and time.monotonic() - started > 1)):
                words = owner.words if owner else "another process"
                if words != last:
                    waiting(words)
                last = words
            time.sleep(POLL_SECONDS)
        with self._beating():
            yield

    @contextmanager
    def hold_if_free(self) -> Iterator[str | None]:
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
            # A file of nobody is damaged, or is being written where there are no hard links.
            is_known_here = owner.is_here or (self._has_flock and not owner.host)
            if not (self._has_flock or owner.is_gone if is_known_here else is_silent(owner)):
                return False
            if owner.same(Owner.read(self.owner_file)):
                _remove(self.owner_file)
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


def _remove(path: Path) -> None:
    """Take away what stands in an owner file's place; a folder, which nobody here has made, is only moved."""
    if path.is_dir() and not path.is_symlink():
        os.replace(path, path.with_name(f"{path.name}-was-a-folder-{time.time_ns()}"))
    else:
        path.unlink(missing_ok=True)


def _exists(process: int) -> bool:
    if process <= 0:
        return False
    try:
        with suppress(PermissionError):  # another user's is there
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _birth(process: int) -> str:
    """When a process of this host started, exactly: the boot, and ticks since; empty where there is no /proc."""
    ticks = _start_ticks(process)
    try:
        return "" if ticks is None else f"{BOOT.read_text(encoding='utf-8').strip()}-{ticks}"
    except OSError:
        return ""


def _birth_seconds(process: int) -> float | None:
    """The same by the clock, seconds since 1970; None where there is no /proc."""
    ticks = _start_ticks(process)
    if ticks is None:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _start_ticks(process: int) -> int | None:
    try:
        facts = Path(f"/proc/{process}/stat").read_bytes()
        return int(facts.rpartition(b")")[2].split()[19])  # field 22; the second, a name, may hold blanks
    except (OSError, ValueError, IndexError):
        return None
