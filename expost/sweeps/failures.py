"""What jobs leave for the end of the command: why they failed, and whether there is something to compare.

A job of a sweep writes `failure.json` into its own folder, which every worker reaches; where that cannot be written,
and outside a sweep, into a temporary folder of the command.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from expost.base import scratch
from expost.base.command import Command, command_line, sweep_dir
from expost.evaluation.tables import printable

FAILURE = "failure.json"
HYDRAS = ".sweep"
"""What Hydra and the launchers write into a sweep's folder."""
SUBMITTED = "submitit"
"""In it, what submitit sends to its jobs."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        message: one line.
        job: its number and its overrides, in a sweep.
        traceback: for a mistake of ours; None for one of the user's.
    """

    message: str
    job: str = ""
    traceback: str | None = None

    @property
    def line(self) -> str:
        """What is printed: one line for the user's mistakes, everything for ours."""
        where = f"{self.job}: " if self.job else ""
        return f"{self.traceback or ''}error: {printable(where + self.message)}"


def record_failure(command: Command, message: str, traceback: str | None = None) -> None:
    """Write down why a job failed, for the list at the end."""
    job = f"job {command.job_number} ({' '.join(command.overrides)})" if command.is_sweep else ""
    failure = Failure(" ".join(message.split()), job, traceback)
    own = scratch.folder()
    places = [own / f"{command.job_number:06d}"] if own else []
    if command.sweep_dir is not None:
        places.insert(0, command.sweep_dir / str(command.job_number))
    for place in places:
        with suppress(OSError):  # a full or read-only disk, or a temporary folder of another host
            place.mkdir(parents=True, exist_ok=True)
            (place / FAILURE).write_text(json.dumps(asdict(failure)), encoding="utf-8")
            return
    print(failure.line, flush=True)


def read_failures() -> list[Failure]:
    """The failures written down so far, in the jobs' order."""
    folders = [folder for folder in (sweep_dir(), scratch.folder()) if folder is not None]
    paths = {int(path.parent.name): path for folder in folders for path in folder.glob(f"*/{FAILURE}")}
    return [read_failure(paths[number]) for number in sorted(paths)]


def read_failure(path: Path) -> Failure:
    """What a job wrote, or that it was killed while it did."""
    try:
        return Failure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Failure(f"{path} cannot be read", f"job {path.parent.name}")


def next_command(words: Sequence[str]) -> str | None:
    """What to type next after a sweep that was started with `words`; None where no job of it wrote a report."""
    sweep = sweep_dir()
    if sweep is None or not any(sweep.glob("*/report.json")):
        return None
    return command_line("stage=compare", *(word for word in words if word.startswith("paths.root=")))


def tidy() -> None:
    """Remove what was written for this command alone; of a sweep, its folder if no job left more than its failure."""
    scratch.end()
    sweep = sweep_dir()
    if sweep is None or not sweep.is_dir():
        return
    if (sweep / HYDRAS / SUBMITTED).is_dir():  # jobs that are still in SLURM's queue are read from there
        return
    if all(path.name == FAILURE or HYDRAS in path.parts for path in sweep.rglob("*") if not path.is_dir()):
        shutil.rmtree(sweep, ignore_errors=True)
        with suppress(OSError):  # unless there is something else in them
            sweep.parent.rmdir()
            sweep.parent.parent.rmdir()
