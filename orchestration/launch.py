"""What a job knows of the command that started it: choices, overrides, its folder, its sweep."""

import json
import os
import shlex
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestration import scratch

NEXT = "next.txt"


def timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


@dataclass(frozen=True)
class Launch:
    """Attributes:
    choices: group -> chosen file, for example prior -> mixture.
    overrides: what the user typed, in order.
    is_sweep: one job of several.
    sweep_dir: folder of the sweep; None outside one.
    job: number of the job in its sweep.
    """

    choices: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    is_sweep: bool = False
    sweep_dir: Path | None = None
    job: int = 0

    @classmethod
    def of(cls, hydra_config: Any, root: Path) -> "Launch":
        is_sweep = str(hydra_config.mode).endswith("MULTIRUN")
        return cls(
            choices={k: v for k, v in hydra_config.runtime.choices.items() if "/" not in k and v is not None},
            overrides=tuple(hydra_config.overrides.task),
            is_sweep=is_sweep,
            sweep_dir=root / "sweeps" / os.environ["EXPOST_LAUNCH"] if is_sweep else None,
            job=int(hydra_config.job.num) if is_sweep else 0,
        )

    def command(self, stage: str, *changes: str) -> str:
        """The command line of this job with another stage and with `changes`."""
        dropped = ("stage=", "upstream=", *(change.split("=")[0] + "=" for change in changes))
        kept = [word for word in self.overrides if not word.startswith(dropped)]
        return shlex.join(["python", "pipeline.py", f"stage={stage}", *kept, *changes])

    @property
    def wrote_report(self) -> bool:
        """Whether this is a job of a sweep that has a report."""
        return self.sweep_dir is not None and (self.sweep_dir / str(self.job) / "report.json").is_file()


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
        return f"{self.traceback or ''}error: {where}{self.message}"


def record_failure(launch: Launch, message: str, traceback: str | None = None) -> None:
    """Write down why a job failed, for the list at the end."""
    if folder := scratch.folder():
        job = f"job {launch.job} ({' '.join(launch.overrides)})" if launch.is_sweep else ""
        facts = asdict(Failure(" ".join(message.split()), job, traceback))
        (folder / f"{launch.job:06d}.json").write_text(json.dumps(facts))


def failures() -> list[Failure]:
    """The failures written down so far, in the jobs' order."""
    folder = scratch.folder()
    return [Failure(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))] if folder else []


def record_next(launch: Launch) -> None:
    """Write down what to do with the reports of this sweep, for the hint at its end."""
    if folder := scratch.folder():
        kept = [word for word in launch.overrides if word.startswith("paths.root=")]
        (folder / NEXT).write_text(shlex.join(["python", "pipeline.py", "stage=compare", *kept]))


def next_command() -> str | None:
    """What was written down; None where no job of a sweep wrote a report."""
    folder = scratch.folder()
    return (folder / NEXT).read_text() if folder and (folder / NEXT).is_file() else None
