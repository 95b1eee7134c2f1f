"""The command: what a job knows of the one that started it, as it was typed, and commands to type next.

The command's process names the sweep, its folder and the program that was typed in environment variables. They travel
with every job (see `expost.sweeps.launchers`): a worker may be another process, on another host, and writes into the
same folder. Commands to type next begin with the same program, so that they work where this one was typed.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expost.base.streams import can_show

COMMAND = "EXPOST_COMMAND"
"""Names this command, in the environment."""
SWEEP = "EXPOST_SWEEP"
"""The folder of its sweep, in the environment, as seen from the folder where the command was typed."""
PROGRAM = "EXPOST_PROGRAM"
"""What was typed before the overrides, as one line of a shell."""
CONFIG_FLAGS = ("config_dir", "config_path", "config_name")
"""Flags of Hydra without which a command would mean something else."""


def timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


@dataclass(frozen=True)
class Command:
    """Attributes:
    choices: group -> chosen file, for example prior -> mixture.
    overrides: what the user typed, in order.
    is_sweep: one job of several.
    sweep_dir: folder of the sweep; None outside one.
    job_number: of the job in its sweep.
    is_trial: one of a search by Optuna.
    """

    choices: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    is_sweep: bool = False
    sweep_dir: Path | None = None
    job_number: int = 0
    is_trial: bool = False

    @classmethod
    def of(cls, hydra_config: Any) -> "Command":
        is_sweep = str(hydra_config.mode).endswith("MULTIRUN")
        return cls(
            choices={k: v for k, v in hydra_config.runtime.choices.items() if "/" not in k and v is not None},
            overrides=tuple(hydra_config.overrides.task),
            is_sweep=is_sweep,
            sweep_dir=sweep_dir() if is_sweep else None,
            job_number=int(hydra_config.job.num) if is_sweep else 0,
            is_trial=is_sweep and "optuna" in str(hydra_config.sweeper.get("_target_", "")).lower(),
        )

    def line(self, stage: str, *changes: str) -> str:
        """The command line of this job alone with another stage and with `changes`."""
        dropped = (
            "stage=",
            "upstream=",
            "sweep=",
            "sweep.",
            "launcher=",
            *(change.split("=")[0] + "=" for change in changes),
        )
        own = [word for word in self.overrides if not word.lstrip("+").startswith(dropped)]
        return command_line(f"stage={stage}", *own, *changes)


def sweep_dir() -> Path | None:
    """Folder of the sweep that this process belongs to."""
    name = os.environ.get(SWEEP)
    return Path(name) if name else None


def remember_program() -> None:
    """Name in the environment what this process was started with."""
    os.environ[PROGRAM] = shell_line([*program(sys.orig_argv, sys.argv), *_config_flags(sys.argv[1:])])


def typed_program() -> str:
    return os.environ.get(PROGRAM, "python pipeline.py")


def command_line(*words: str) -> str:
    """A command to type where this one was typed, with the overrides `words`."""
    return f"{typed_program()} {shell_line(words)}".rstrip()


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
        on_path = shutil.which(name)
        return [name if on_path and os.path.samefile(on_path, script) else script]
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
    if not any(word.startswith(("-c", "--c")) for word in words):
        return []
    from hydra._internal.utils import get_args_parser  # costs a fifth of a second, and `--help` waits for it

    flags, _ = get_args_parser().parse_known_args(list(words))
    values = {name: getattr(flags, name) for name in CONFIG_FLAGS}
    return [word for name, value in values.items() if value for word in (f"--{name.replace('_', '-')}", value)]


def shell_line(words: Sequence[str]) -> str:
    """`words` as a line of a shell: it means them, whatever is in them, and this terminal can show it."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable() and can_show(word, getattr(sys.stdout, "encoding", None)):
        return shlex.quote(word)
    signs = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(signs)}'"
