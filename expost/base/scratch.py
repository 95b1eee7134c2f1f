"""One temporary folder a command, removed when it ends; what a killed command has left goes when the next one begins.

A process holds the kernel's lock on its folder for as long as it lives, and its folder has its name only when it is
locked: so one that bears the name and is not locked is a dead process's. The name says which host it is of, because
locks of one host may not reach another that shares the temporary folder.
"""

import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from expost.base.command import command_line
from expost.base.errors import UserError

VARIABLE = "EXPOST_SCRATCH"
STOPPED = "stopped.txt"
PREFIX = "expost-command-"  # nothing else may bear it: what does and is not locked is removed
_held: dict[str, int] = {}


def begin() -> None:
    """Make the command's folder and name it in the environment, for workers too; clear away those of dead commands.

    Raises:
        UserError: temporary folders cannot be made.
    """
    root = Path(tempfile.gettempdir())
    prefix = f"{PREFIX}{socket.gethostname()}-"
    for folder in root.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):  # another user's, or already gone
            _remove_if_dead(folder)
    try:
        unnamed = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=root))
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror}; make room or set TMPDIR=DIR") from error
    descriptor = os.open(unnamed, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: there nobody takes a folder for a dead process's
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    place = unnamed.rename(root / unnamed.name[1:])
    _held[str(place)] = descriptor
    os.environ[VARIABLE] = str(place)


def folder() -> Path | None:
    """The command's folder, in its own process and in its workers on the same host; None on any other host."""
    name = os.environ.get(VARIABLE)  # a job of SLURM inherits it wherever it runs
    return Path(name) if name and os.path.isdir(name) else None


def record_stop(words: str) -> None:
    """Write down what is kept of a stage that Ctrl-C ended, for the command to say."""
    if place := folder():
        (place / STOPPED).write_text(words, encoding="utf-8")


def stop_message(words: Sequence[str]) -> str:
    """What is said after Ctrl-C: what is kept, and the command, with the `words` that were typed, that continues."""
    place = folder()
    note = place / STOPPED if place else None
    stage = note.read_text(encoding="utf-8") if note and note.is_file() else "finished stages are kept"
    return f"stopped; {stage}; continue with: {command_line(*words)}"


def end() -> None:
    """Remove the command's folder."""
    if (place := folder()) is not None:
        shutil.rmtree(place, ignore_errors=True)
        if (descriptor := _held.pop(str(place), None)) is not None:
            os.close(descriptor)


def _remove_if_dead(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(descriptor)
