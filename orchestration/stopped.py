"""What Ctrl-C is answered with: how much is kept, and the command that continues."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestration import scratch

STOPPED = "stopped.txt"


def record_stop(words: str) -> None:
    """Write down what is kept of a stage that Ctrl-C ended."""
    if folder := scratch.folder():
        (folder / STOPPED).write_text(words, encoding="utf-8")


def stop_message(typed: Sequence[str]) -> str:
    """What is said after Ctrl-C: what is kept, and the command, as it was `typed`, that continues."""
    folder = scratch.folder()
    kept = (
        (folder / STOPPED).read_text(encoding="utf-8")
        if folder and (folder / STOPPED).is_file()
        else "finished stages are kept"
    )
    program = ["python", typed[0]] if typed[0].endswith(".py") else [Path(typed[0]).name]
    return f"stopped; {kept}; continue with: {shlex.join([*program, *typed[1:]])}"
