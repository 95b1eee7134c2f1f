"""Content-addressed stage artifacts: what is complete is intact, what is incomplete is invisible.

An artifact is a folder `STORE/STAGE/KEY`. It is written beside its place, every file hashed into `manifest.json`,
flushed to disk, then renamed: a reader sees all of it or nothing. KEY is a hash of everything that can change the
result: the stage's resolved configuration, the keys of its inputs, seeds, data fingerprint, algorithm versions.

Beside the artifacts: `STAGE/.KEY.XXXX`, what a writer is at (of a dead one, removed by the next holder of the key's
lock); `.resume/STAGE-KEY`, what a stage that is not finished has kept of its training (see
`expost.store.training_states`); `.answers`, what jobs were answered (see `expost.store.answers`); `.steps`, how
long those of a training take (see `expost.forecast.compiling`); `.locks`;
`quarantine`, what was found damaged, moved aside and never deleted here.
"""

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expost.base.disk import disk_trouble
from expost.base.errors import UserError
from expost.store.locks import KeyLock
from expost.store.manifest import MANIFEST, altered_files, damaged_files, flush, seal, sha256_of, strays

KEY = re.compile(r"[0-9a-f]{20}")
RESUME = ".resume"


def digest(ingredients: Mapping[str, Any]) -> str:
    """The key of what is made from `ingredients` (JSON values): 20 hexadecimal digits of a SHA-256."""
    return sha256_of(ingredients)[:20]


@dataclass(frozen=True)
class Artifact:
    """A complete, verified stage output."""

    stage: str
    key: str
    path: Path

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))


class Store:
    """Args:
    root: folder that holds one folder a stage; made when the first artifact is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, stage: str, key: str, say: Callable[[str], None] = lambda words: None) -> Artifact | None:
        """The artifact if it is there and intact; a damaged one is moved aside and counts as missing.

        Files in it that are none of its own and could be taken for one are moved aside alone. `say` hears of both.

        Raises:
            UserError: when it is there and cannot be read, or something is to be moved and cannot be.
        """
        folder = self.root / stage / key
        try:
            if not folder.is_dir():
                return None
            inode = folder.stat().st_ino
            damage = next(altered_files(folder), None)
            stray_names = [] if damage else list(strays(folder))
        except FileNotFoundError:  # another process has just moved it aside
            return None
        except OSError as error:
            place = error.filename or folder
            raise UserError(f"cannot read {place}: {error.strerror}; mend the disk or set paths.root=DIR") from error
        if damage is None:
            for name in stray_names:
                say(f"{name} is no part of {folder}: moved to {self.put_aside(folder, name)}")
            return Artifact(stage, key, folder)
        if aside := self.quarantine(folder, damage, inode):
            say(f"{folder / damage} is damaged: its folder is moved to {aside}, and made again")
        return None

    def is_intact(self, artifact: Artifact) -> bool:
        """Whether `find` would find it, and have nothing to say; nothing is moved.

        Raises:
            OSError: it is there and cannot be read.
        """
        return artifact.path.is_dir() and next(damaged_files(artifact.path), None) is None

    @contextmanager
    def writing(
        self,
        stage: str,
        key: str,
        ingredients: Mapping[str, Any],
        run: str | None = None,
        earlier: Callable[[], float] = lambda: 0.0,
    ) -> Iterator[Path]:
        """A scratch folder that becomes the artifact if the block ends without an exception.

        Args:
            stage, key: its name.
            ingredients: what `key` is the digest of.
            run: folder, below the one that holds the store, of the run that makes it, and by that needs it.
            earlier: asked at the end for the seconds of earlier attempts, up to what this one continues.

        Raises:
            UserError: when the store cannot be written.
        """
        place = self.root / stage / key
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = place.parent / f".{key}.{secrets.token_hex(8)}"
            scratch.mkdir()  # as the umask wants it; tempfile makes folders that nobody else may read
        except OSError as error:
            raise UserError(f"cannot write to {place.parent}: {error.strerror}; set paths.root=DIR") from error
        facts = {"stage": stage, "key": key, "ingredients": ingredients, "started": time.time(), "run": run}
        try:
            yield scratch
            _commit(scratch, place, facts, earlier())
        except UserError:
            raise
        except Exception as error:  # not every library says with an OSError that the disk is full
            if (reason := disk_trouble(error, scratch)) is None:
                raise
            raise UserError(f"writing {place} failed: {reason}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def lock(self, stage: str, key: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """One writer a key, over all processes and hosts; `waiting` hears the name of each that is waited for.

        What a dead writer of this key left is removed: whoever has the lock knows that nobody writes.

        Raises:
            UserError: when the store cannot be written.
        """
        entered = False
        try:
            with self.key_lock(stage, key).hold(waiting):
                self.sweep(stage, key)
                entered = True
                yield
        except OSError as error:
            if entered:
                raise
            place = self.root / ".locks"
            raise UserError(f"cannot write to {place}: {error.strerror}; set paths.root=DIR") from error

    def key_lock(self, stage: str, key: str) -> KeyLock:
        """The lock of one artifact.

        Raises:
            OSError: the store cannot be written.
        """
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return KeyLock(folder, f"{stage}-{key}")

    def sweep(self, stage: str, key: str) -> None:
        """Remove what writers of this artifact left, and what they kept if it is finished; for the lock's holder."""
        for orphan in (self.root / stage).glob(f".{key}.*"):
            shutil.rmtree(orphan, ignore_errors=True)
        if (self.root / stage / key).is_dir():
            shutil.rmtree(self.resume_folder(stage, key), ignore_errors=True)

    def tidy(self, stage: str, key: str) -> None:
        """Remove what a writer left that died between finishing this artifact and letting go of its lock."""
        left = (self.root / ".locks" / f"{stage}-{key}.owner", self.resume_folder(stage, key))
        if any(path.exists() for path in left):
            # A store that can only be read is left as it is.
            with suppress(OSError), self.key_lock(stage, key).hold_if_free() as owner:
                if owner is None:
                    self.sweep(stage, key)

    def resume_folder(self, stage: str, key: str) -> Path:
        """Where the stage keeps its training until the artifact is there."""
        return self.root / RESUME / f"{stage}-{key}"

    def resumables(self) -> list[tuple[str, str, Path]]:
        """Stage, key and folder of everything that is kept for stages that are not finished."""
        folders = [(path.name.rpartition("-"), path) for path in _folders(self.root / RESUME)]
        return [(stage, key, path) for (stage, _, key), path in folders if stage and KEY.fullmatch(key)]

    def artifacts(self) -> list[Artifact]:
        """Everything that is in its place, intact or not, by stage and key.

        Raises:
            OSError: the store cannot be read.
        """
        stages = [path for path in _folders(self.root) if path.name != "quarantine" and path.name[0] != "."]
        return [
            Artifact(stage.name, path.name, path)
            for stage in stages
            for path in _folders(stage)
            if KEY.fullmatch(path.name)
        ]

    def unfinished_folders(self) -> list[Path]:
        """Folders that writers, dead or alive, have not finished."""
        return sorted(path for path in self.root.glob("*/.*.*") if path.is_dir() and KEY.match(path.name[1:]))

    def quarantined_folders(self) -> list[Path]:
        """Folders that were moved aside, by stage, key and time."""
        return _folders(self.root / "quarantine")

    def put_aside(self, folder: Path, name: str) -> Path:
        """Move the file `name` out of the artifact in `folder`, which is intact but for it; where it is then.

        Raises:
            UserError: it cannot be moved; it is where it was.
        """
        aside = self.root / "quarantine" / f"stray-{folder.parent.name}-{folder.name}-{time.time_ns()}" / name
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process did
                os.replace(folder / name, aside)
            return aside
        except OSError as error:
            raise UserError(
                f"{folder / name} is no part of that artifact and cannot be moved aside: {error.strerror}; "
                "remove it or set paths.root=DIR"
            ) from error

    def quarantine(self, folder: Path, damage: str, inode: int) -> Path | None:
        """Move the damaged `folder` aside; None where another process did, or has already made a new one.

        Raises:
            UserError: it cannot be moved; it is where it was.
        """
        name = f"{folder.parent.name}-{folder.name}-{time.time_ns()}"
        aside = self.root / "quarantine" / name
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_ino != inode:
                return None
            os.replace(folder, aside)
            return aside
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"{folder / damage} is damaged and its folder cannot be moved aside: {error.strerror}; "
                "make the store writable or set paths.root=DIR"
            ) from error


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _commit(scratch: Path, place: Path, facts: Mapping[str, Any], earlier_seconds: float) -> None:
    finished = time.time()
    seal(scratch, {**facts, "finished": finished, "seconds": earlier_seconds + finished - facts["started"]})
    try:
        os.replace(scratch, place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # else one that was taken for dead has made the same meanwhile
    flush(place.parent)
