"""One job: what was asked, where its results go, and what it lends to whatever works for it.

torch and Lightning take seconds to import: who works imports them by what it borrows, who only reports needs neither.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expost.base.command import Command, timestamp
from expost.base.errors import UserError
from expost.base.machines import Machine
from expost.config.schema import Config
from expost.store.artifacts import Artifact, Store
from expost.store.training_states import TrainingStates
from expost.training.progress import show_progress
from expost.training.tracking import Tracker

if TYPE_CHECKING:
    import torch
    from pytorch_lightning import Callback

    from stage1_vae.ranks import Ranks
    from stage2_prior.fitting import FitRun


@dataclass(frozen=True)
class Job:
    """One job: its configuration, where it writes, what it says.

    Attributes:
        config, command: what was asked.
        store: where stage outputs are.
        trainer_overrides: keywords forced on every Lightning trainer (two batches under stage=check).
        watchers: callbacks of every Lightning trainer, beside those that a stage asks for (stage=plan).
        quiet: says nothing.
        max_images: to which each split is cut (stage=check).
        rank, world: of the processes that make one stage together, which one this is, and how many there are.
        relay: of one of several ranks: takes what it says to the job that has started it.
        lines: that it has said so far: what, and in which words; copies of a job go on with them.
        whole: the job of whose results it makes a part, in the same folder; None: it is one by itself.
    """

    config: Config
    command: Command
    store: Store
    trainer_overrides: dict[str, Any] = field(default_factory=dict)
    watchers: tuple["Callback", ...] = ()
    quiet: bool = False
    max_images: int | None = None
    rank: int = 0
    world: int = 1
    relay: Callable[[Mapping[str, Any]], None] | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)
    whole: "Job | None" = None

    @cached_property
    def device(self) -> "torch.device":
        from expost.training.devices import device_of

        return device_of(self.config.trainer)

    @cached_property
    def ranks(self) -> "Ranks":
        """The processes that make one stage together."""
        from stage1_vae.ranks import Ranks

        return Ranks(self.rank, self.world)

    @cached_property
    def machine(self) -> Machine:
        """Which of the job's machines this is; on any but the first, the parent only starts its ranks."""
        return Machine.of(self.config.trainer.num_nodes, os.environ)

    @property
    def name(self) -> str:
        chosen = self.command.choices
        has_stage1 = chosen.get("data") != "latents"  # their encoder is not chosen here
        groups = ("data", *["vae"] * has_stage1, "prior")
        return self.config.name or "-".join(chosen.get(group, "custom") for group in groups)

    @property
    def prior_name(self) -> str:
        """What the learned prior is called in tables: the file that was chosen."""
        return self.command.choices.get("prior", "learned")

    @cached_property
    def folder(self) -> Path:
        """The run's own folder, made on first use."""
        if self.whole is not None:
            return self.whole.folder
        if self.command.sweep_dir is not None:
            return new_folder(self.command.sweep_dir / str(self.command.job_number), may_exist=True)
        return new_folder(self.config.paths.root / f"{timestamp()}-{self.name}")

    @property
    def name_in_root(self) -> str | None:
        """The run's folder below `paths.root`: what it makes is kept as long as that folder is there."""
        return None if self.quiet else os.path.relpath(self.folder, self.config.paths.root)

    def say(self, what: str, words: str) -> None:
        """One line; in a sweep it says which job is talking, for several may be."""
        self.lines.append((what, words))
        if self.quiet:
            return
        if self.relay is not None:
            self.relay({"say": [what, words]})
        else:
            from expost.evaluation.tables import printable  # who says nothing needs no rich

            who = f"[{self.command.job_number}] " if self.command.is_sweep else ""
            line = f"{who}{what:<11}{printable(words)}"
            print(f"{line}\n", end="", flush=True)  # one write: lines of two processes stay apart

    def stored(self, stage: str, key: str) -> Artifact | None:
        """What is in the store, intact, under that name; of damage that is found there the user is told."""
        return self.store.find(stage, key, lambda words: self.say(stage, words))

    @property
    def shows_progress(self) -> bool:
        return not self.quiet and show_progress(self.config.trainer)

    def lightning_fit(
        self, tracker: Tracker, label: str | None = None, states: TrainingStates | None = None
    ) -> Callable[..., None]:
        """Lightning's training loop with this run's hardware, loggers and, with a `label`, a bar.

        With `states` it continues where an earlier attempt ended; they serve one fit.
        """

        def fit(*arguments: Any, **keywords: Any) -> None:
            from expost.training.trainer import lightning_fit  # Lightning takes seconds to import: only who uses it

            lightning_fit(
                self.config.trainer,
                tracker.loggers,
                None if self.quiet else label,
                self.trainer_overrides,
                self.ranks,
                states,
                self.watchers,
            )(*arguments, **keywords)

        return fit

    @property
    def fit_settings(self) -> dict[str, Any]:
        """The `fit:` section of the prior with `precision: auto` decided for this machine."""
        return decided_settings(self.config.prior, self.device)

    def fit_run(self, tracker: Tracker, **changes: Any) -> "FitRun":
        """What a prior's fit is lent; with a tracker's states it continues where an earlier attempt ended.

        Args:
            tracker: of the stage.
            changes: fields of a `FitRun` that are not as usual.
        """
        from stage2_prior.fitting import FitRun, FitStates

        states = FitStates()
        if tracker.states:
            from expost.training.trainer import LoopStates

            states = LoopStates(tracker.states, self.ranks)
        usual = FitRun(
            device=self.device,
            seed=self.config.seeds.prior,
            log=tracker.log,
            lightning_fit=self.lightning_fit(tracker, states=tracker.states),
            settings=self.fit_settings,
            states=states,
            ranks=self.ranks,
        )
        return replace(usual, **changes)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """torch's global generators seeded inside the block and put back after it."""
        from expost.training.devices import seeded

        with seeded(seed, self.device):
            yield


def decided_settings(node: Mapping[str, Any], device: "torch.device") -> dict[str, Any]:
    """The `fit:` section of the prior's section `node` with `precision: auto` decided for `device`."""
    from stage1_vae.machine import is_bf16_faster

    settings = dict(node.get("fit") or {})
    if settings.get("precision") == "auto":
        settings["precision"] = "bf16-mixed" if is_bf16_faster(device) else "32-true"
    return settings


def new_folder(place: Path, may_exist: bool = False) -> Path:
    """Make the folder `place`, or one with a number behind it where that name is taken.

    Raises:
        UserError: it cannot be made.
    """
    for attempt in range(1000):
        folder = place if attempt == 0 else place.with_name(f"{place.name}-{attempt}")
        try:
            folder.mkdir(parents=True, exist_ok=may_exist)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot write to {folder.parent}: {error.strerror}; set paths.root=DIR") from error
    raise UserError(f"a thousand runs are called {place.name}; set name=NAME")
