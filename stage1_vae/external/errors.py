"""What is wrong with somebody else's autoencoder, in one line; what its own code raised goes into a file."""

import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stage1_vae.errors import ExpostError
from stage1_vae.external.own import is_own

OURS = Path(__file__).resolve().parents[1]
MOST_WORDS = 300
"""Characters of a message that is not ours."""


class ExternalError(ExpostError, ValueError):
    """The autoencoder, or what was said of it, is not as it must be: one line with the remedy."""


@contextmanager
def blaming(what: str, keep: bool = True) -> Iterator[None]:
    """Whatever the user's own code raises becomes one line, and its traceback a file beside it.

    Args:
        what: was being done: "encode(x) of images [2, 3, 28, 28]".
        keep: whether to write the file; not where something is only tried.

    Raises:
        ExternalError: in place of it.
    """
    try:
        yield
    except ExternalError:
        raise
    except (Exception, SystemExit) as error:  # a script without a guard around its main may well exit
        words = " ".join(str(error).split())[:MOST_WORDS]
        said = f"{type(error).__name__}: {words}" if words else type(error).__name__
        place = _place(error)
        line = f"{what}: {place + ': ' if place else ''}{said}"
        raise ExternalError(f"{line} (traceback: {_kept(error)})" if keep else line) from error


def _place(error: BaseException) -> str:
    """The file and line of the user's own code where it happened, the innermost; empty where none was involved."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name} line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and is_own(path) and OURS not in path.resolve().parents:
            return f"{path.name} line {frame.lineno}"
    return ""


def _kept(error: BaseException) -> str:
    """The path of a new file with the traceback, in the machine's folder for temporary files: no run is there yet."""
    number, name = tempfile.mkstemp(prefix="expost-traceback-", suffix=".txt")
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.writelines(traceback.format_exception(error))
    return name
