"""Standard output and error that take whatever is said, in any encoding, and also where nobody listens.

A character that the encoding lacks is spelt with those that every encoding has. Where nobody listens from the beginning
(cron, `>&-`) a run goes on in silence; where the reader goes away in the middle (`| head -1`) the command ends as other
programs do, without a word: finished stages are in the store, and the same command continues.
"""

import codecs
import io
import os
import sys
import unicodedata
from contextlib import suppress
from typing import BinaryIO, TextIO, cast

SPELT = {
    "→": "->",
    "←": "<-",
    "↑": "^",
    "↓": "v",
    "±": "+-",
    "×": "x",
    "·": ".",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
}
SPELT |= dict.fromkeys("─━═", "-") | dict.fromkeys("│┃║", "|")
SPELLING = "expost-spelling"
"""Name of the handler of what an encoding lacks."""
CLOSED_PIPE = 141
"""Exit code of a program whose reader went away, as a shell gives it: 128 and SIGPIPE."""


class Unheard(BaseException):  # nothing that expects a full disk may take it for one
    """Standard output or error takes nothing any more.

    Attributes:
        reason: in words; None where the reader went away.
    """

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


def spelling(error: UnicodeError) -> tuple[str, int]:
    """What is written in place of characters that an encoding lacks: as `codecs.register_error` wants it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spell, error.object[error.start : error.end])), error.end


def _spell(sign: str) -> str:
    if sign in SPELT:
        return SPELT[sign]
    if unicodedata.name(sign, "").startswith("BOX DRAWINGS"):
        return "+"
    if "\udc80" <= sign <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("ascii", "backslashreplace").decode()


codecs.register_error(SPELLING, spelling)


class Stream(io.TextIOWrapper):
    """A standard stream; what it is told never raises anything but `Unheard`."""

    def write(self, text: str) -> int:
        if " ± " in text and not can_show("±", self.encoding):
            text = text.replace(" ± ", "+/-")  # as wide: columns stay columns
        try:
            return super().write(text)
        except OSError as error:
            raise self._unheard(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._unheard(error) from None

    def _unheard(self, error: OSError) -> Unheard:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # what else is said on the way out goes there
        return Unheard(None if isinstance(error, BrokenPipeError) else error.strerror or str(error))


def can_show(words: str, encoding: str | None) -> bool:
    """Whether `encoding` has every character of `words`; None: UTF-8."""
    try:
        words.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def open_streams() -> None:
    """Put `Stream` in place of this process's standard output and error, unless somebody has put something else there.

    A descriptor that is closed is opened on nothing: the next file that is opened would have its number, and take for
    its content what a library prints.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
    if sys.stdout is sys.__stdout__:
        sys.stdout = sys.__stdout__ = _new_stream(sys.stdout)  # type: ignore[misc, assignment]
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = _new_stream(sys.stderr)  # type: ignore[misc, assignment]


def _new_stream(stream: TextIO | None) -> TextIO:
    if stream is None:
        return Stream(open(os.devnull, "wb"), encoding="utf-8", errors=SPELLING)
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, Stream):
        return stream
    stream.flush()
    file = open(stream.fileno(), "wb", buffering=0 if stream.write_through else -1, closefd=False)  # noqa: SIM115
    return Stream(
        cast(BinaryIO, file),
        encoding=stream.encoding,
        errors=SPELLING,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def end(lost: Unheard) -> int:
    """Say what can still be said; the exit code."""
    if lost.reason is None:
        return CLOSED_PIPE
    words = "what is finished is kept, and the same command continues"
    with suppress(Unheard):
        print(f"error: standard output or error cannot be written: {lost.reason}; {words}", file=sys.stderr, flush=True)
    return 2
