"""The command as it was typed, and commands to type next: those begin with the same program, so that they work there.

The program travels in the environment: a job of a sweep may print a command from another process.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from expost.base.streams import can_show

PROGRAM = "EXPOST_PROGRAM"
"""What was typed before the overrides, as one line of a shell."""
CONFIG_FLAGS = ("config_dir", "config_path", "config_name")
"""Flags of Hydra without which a command would mean something else."""


def remember_program() -> None:
    """Name in the environment what this process was started with."""
    os.environ[PROGRAM] = joined([*program(sys.orig_argv, sys.argv), *_config_flags(sys.argv[1:])])


def typed_program() -> str:
    return os.environ.get(PROGRAM, "python pipeline.py")


def command_line(*words: str) -> str:
    """A command to type where this one was typed, with the overrides `words`."""
    return f"{typed_program()} {joined(words)}".rstrip()


def program(original: Sequence[str], argv: Sequence[str]) -> list[str]:
    """What was typed before the overrides.

    Args:
        original: the interpreter's own command line, `sys.orig_argv`.
        argv: the script and its arguments, `sys.argv`.
    """
    script, num = argv[0], len(argv) - 1
    before = list(original[: len(original) - num])
    if list(original[len(before) :]) != list(argv[1:]) or not _starts(before, script):
        return ["python", script] if script.endswith(".py") else [script]  # not a process of its own
    if before[-1] == script and _is_command(script):
        name = os.path.basename(script)
        found = shutil.which(name)
        return [name if found and os.path.samefile(found, script) else script]
    return before


def _starts(words: Sequence[str], script: str) -> bool:
    """Whether `words` are an interpreter with `script`, or with the module that is in it."""
    if len(words) >= 3 and words[-2] == "-m":
        return Path(script).stem in (words[-1].rpartition(".")[2], "__main__")
    return len(words) >= 2 and words[-1] == script


def _is_command(script: str) -> bool:
    """Whether a shell can start `script` by its name alone: it says itself who reads it."""
    try:
        with open(script, "rb") as file:
            return os.access(script, os.X_OK) and file.read(2) == b"#!" and not script.endswith(".py")
    except OSError:
        return False


def _config_flags(words: Sequence[str]) -> list[str]:
    said, _ = get_args_parser().parse_known_args(list(words))
    flags = [(name, getattr(said, name)) for name in CONFIG_FLAGS]
    return [word for name, value in flags if value for word in (f"--{name.replace('_', '-')}", value)]


def joined(words: Sequence[str]) -> str:
    """`words` as a line of a shell: it means them, whatever is in them, and this terminal can show it."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable() and can_show(word, getattr(sys.stdout, "encoding", None)):
        return shlex.quote(word)
    signs = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(signs)}'"
