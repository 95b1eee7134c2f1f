"""What a disk that is full, gone or read only does to a run, in one line with the remedy."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expost.base.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
UNWRITABLE = FULL | {errno.EROFS, errno.EACCES, errno.EIO, errno.EPERM}
VANISHED = {errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ETIMEDOUT}
MISPLACED = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""Something else is where a file of ours was, or nothing."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
FULL_BYTES = 2**20
"""A write that failed without a reason, with less than this left, failed for want of room."""


def disk_trouble(error: BaseException, scratch: Path) -> str | None:
    """Why the disk is to blame for `error`, which writing into `scratch` met, with the remedy; None where it is not.

    Not every library says so with an errno: safetensors puts it into words, NumPy says how many bytes it wrote.
    """
    chain: BaseException | None = error
    while chain is not None:
        for code in FULL:
            if getattr(chain, "errno", None) == code or os.strerror(code) in str(chain):
                return f"{os.strerror(code)}; make room or set paths.root=DIR, then repeat the command"
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, OSError) and error.errno in UNWRITABLE | VANISHED:
        return f"{error.strerror}{_culprit(error, scratch)}; mend that or set paths.root=DIR, then repeat the command"
    try:
        if isinstance(error, OSError) and error.errno is None and shutil.disk_usage(scratch).free < FULL_BYTES:
            return f"{os.strerror(errno.ENOSPC)}; make room or set paths.root=DIR, then repeat the command"
        scratch.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "its folder has vanished; see that the disk is mounted, then repeat the command"
    except OSError as gone:
        return f"{gone.strerror}; see that the disk is mounted, then repeat the command"
    return None


def _culprit(error: OSError, scratch: Path) -> str:
    name = str(error.filename) if isinstance(error.filename, str | os.PathLike) else ""
    return "" if not name or name.startswith(str(scratch)) else f" ({name})"


@contextmanager
def blaming_the_disk(root: Path) -> Iterator[None]:
    """What fails in the block because something took `root`, or a file in it, away becomes the one line.

    Raises:
        UserError: in place of it.
    """
    began = _identity(root)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries have errors of their own for a file that is not there
        if isinstance(error, OSError) and error.errno in UNWRITABLE | VANISHED | MISPLACED:
            names = [n for n in (error.filename, error.filename2) if isinstance(n, str | bytes | os.PathLike)]
            place = os.fsdecode(names[0]) if names else None
            if place is not None and Path(os.path.abspath(place)).is_relative_to(os.path.abspath(root)):
                words = f"{Path(place)}: {error.strerror}; see that the disk is mounted and that nothing else clears"
                raise UserError(f"{words} {root}, then repeat the command") from error
        if began is not None and _identity(root) != began:
            raise UserError(f"{root} has vanished; see that the disk is mounted, then repeat the command") from error
        raise


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells `folder` from another one of its name; None: there is none."""
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def in_bytes(num_bytes: float) -> str:
    """Two words of it: 512 B, 3.4 MiB."""
    for unit in UNITS[:-1]:
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} {UNITS[-1]}"
