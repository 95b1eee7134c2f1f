"""Content-addressed stage artifacts: what is complete is intact, what is incomplete is invisible.

An artifact is a folder `STORE/STAGE/KEY`. It is written beside its place, every file hashed into `manifest.json`,
flushed to disk, then renamed: a reader sees all of it or nothing. KEY is a hash of everything that can change the
result: the stage's resolved configuration, the keys of its inputs, seeds, data fingerprint, algorithm versions.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestration.errors import UserError

MANIFEST = "manifest.json"
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EPERM}


def digest(ingredients: Mapping[str, Any]) -> str:
    """The key of what is made from `ingredients` (JSON values): 20 hexadecimal digits of a SHA-256."""
    canonical = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A complete, verified stage output."""

    stage: str
    key: str
    path: Path

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / MANIFEST).read_text())


class Store:
    """Args:
    root: folder that holds one folder a stage; made when the first artifact is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is there and intact; a damaged one is moved aside and counts as missing."""
        folder = self.root / stage / key
        if not folder.is_dir():
            return None
        artifact = Artifact(stage, key, folder)
        if self._damage(artifact) is None:
            return artifact
        self._quarantine(folder)
        return None

    @contextmanager
    def writing(self, stage: str, key: str, ingredients: Mapping[str, Any]) -> Iterator[Path]:
        """A scratch folder that becomes the artifact if the block ends without an exception.

        Raises:
            UserError: when the store cannot be written.
        """
        place = self.root / stage / key
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=place.parent))
        except OSError as error:
            raise UserError(f"cannot write to {place.parent}: {error.strerror}; set paths.root=DIR") from error
        started = time.time()
        try:
            yield scratch
            self._commit(scratch, place, {"stage": stage, "key": key, "ingredients": ingredients, "started": started})
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise UserError(f"writing {place} failed: {error.strerror}; make room or set paths.root=DIR") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def lock(self, stage: str, key: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """One writer a key, over all processes; `waiting` is called once with the owner's name if there is another.

        Raises:
            UserError: when the store cannot be written.
        """
        place = self.root / ".locks" / f"{stage}-{key}.lock"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if waiting is not None:
                    waiting(_owner(place))
                lock.acquire()
            _owner_file(place).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        except OSError as error:
            raise UserError(f"cannot write to {place.parent}: {error.strerror}; set paths.root=DIR") from error
        try:
            yield
        finally:
            _owner_file(place).unlink(missing_ok=True)
            lock.release()  # the file stays: removing one that another process waits on would let two writers in

    @staticmethod
    def _commit(scratch: Path, place: Path, facts: dict[str, Any]) -> None:
        files = sorted(path for path in scratch.rglob("*") if path.is_file())
        listing = {str(p.relative_to(scratch)): {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in files}
        facts |= {"finished": time.time(), "files": listing}
        (scratch / MANIFEST).write_text(json.dumps(facts, indent=2))
        for path in [*files, scratch / MANIFEST, scratch]:
            _flush(path)
        scratch.chmod(0o755)  # mkdtemp makes private folders
        os.replace(scratch, place)
        _flush(place.parent)

    @staticmethod
    def _damage(artifact: Artifact) -> str | None:
        """The first file that is not what the manifest says, or None."""
        try:
            listing = [(name, facts["bytes"], facts["sha256"]) for name, facts in artifact.manifest()["files"].items()]
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return MANIFEST
        for name, size, sha256 in listing:
            path = artifact.path / name
            if not path.is_file() or path.stat().st_size != size or file_sha256(path) != sha256:
                return name
        return None

    def _quarantine(self, folder: Path) -> None:
        aside = self.root / "quarantine" / f"{folder.parent.name}-{folder.name}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process was quicker
            os.replace(folder, aside)


def _owner_file(lock: Path) -> Path:
    return lock.with_suffix(".owner")


def _owner(lock: Path) -> str:
    try:
        return _owner_file(lock).read_text()
    except OSError:
        return "another process"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
