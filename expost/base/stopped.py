"""What Ctrl-C is answered with: how much is kept, and the command that continues."""

from collections.abc import Sequence

from expost.base import scratch
from expost.base.typed import joined, typed_program

STOPPED = "stopped.txt"


def record_stop(words: str) -> None:
    """Write down what is kept of a stage that Ctrl-C ended."""
    if folder := scratch.folder():
        (folder / STOPPED).write_text(words, encoding="utf-8")


def stop_message(typed: Sequence[str]) -> str:
    """What is said after Ctrl-C: what is kept, and the command, with the words that were `typed`, that continues."""
    folder = scratch.folder()
    kept = (
        (folder / STOPPED).read_text(encoding="utf-8")
        if folder and (folder / STOPPED).is_file()
        else "finished stages are kept"
    )
    return f"stopped; {kept}; continue with: {typed_program()} {joined(typed)}".rstrip()
