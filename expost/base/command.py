"""What a job knows of the command that started it: choices, overrides, its folder, its sweep.

The command's process names the sweep and makes its folder known in two environment variables. They travel with every
job (see `expost.sweeps.launchers`): a worker may be another process, on another host, and writes into the same folder.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from expost.base.typed import command_line

LAUNCH = "EXPOST_LAUNCH"
"""Names this command, in the environment."""
AGENT = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""What an agent of a W&B sweep says, in the environment, to the one run that it has started."""
SWEEP = "EXPOST_SWEEP"
"""The folder of its sweep, in the environment, as seen from the folder where the command was typed."""


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
    sweeper: Hydra's name of what chose this job: basic, or optuna_study for a search.
    """

    choices: dict[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    is_sweep: bool = False
    sweep_dir: Path | None = None
    job: int = 0
    sweeper: str = "basic"

    @classmethod
    def of(cls, hydra_config: Any) -> "Launch":
        is_sweep = str(hydra_config.mode).endswith("MULTIRUN")
        return cls(
            choices={k: v for k, v in hydra_config.runtime.choices.items() if "/" not in k and v is not None},
            overrides=tuple(hydra_config.overrides.task),
            is_sweep=is_sweep,
            sweep_dir=sweep_dir() if is_sweep else None,
            job=int(hydra_config.job.num) if is_sweep else 0,
            sweeper=str(hydra_config.runtime.choices.get("hydra/sweeper")),
        )

    def command(self, stage: str, *changes: str) -> str:
        """The command line of this job alone with another stage and with `changes`."""
        dropped = (
            "stage=",
            "upstream=",
            "sweep=",
            "sweep.",
            "launcher=",
            *(change.split("=")[0] + "=" for change in changes),
        )
        kept = [word for word in self.overrides if not word.lstrip("+").startswith(dropped)]
        return command_line(f"stage={stage}", *kept, *changes)


def set_agent_aside() -> None:
    """Every stage is a run in W&B, and each would take the agent's identity for its own: the report alone has it.

    W&B copies the environment when it is first used, so this comes first.
    """
    for name in AGENT:
        if name in os.environ:
            os.environ[f"EXPOST_{name}"] = os.environ.pop(name)


def agent() -> dict[str, str]:
    """What the agent said, by the names of W&B's settings; nothing without one."""
    said = {"run_id": os.environ.get("EXPOST_WANDB_RUN_ID"), "sweep_id": os.environ.get("EXPOST_WANDB_SWEEP_ID")}
    return {name: value for name, value in said.items() if value}


def sweep_dir() -> Path | None:
    """Folder of the sweep that this process belongs to."""
    name = os.environ.get(SWEEP)
    return Path(name) if name else None


class SweepFolder(Callback):
    """Tells the jobs where their sweep is, before the first of them starts; named in conf/config.yaml."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        os.environ[SWEEP] = str(Path(config.paths.root) / "sweeps" / os.environ[LAUNCH])
