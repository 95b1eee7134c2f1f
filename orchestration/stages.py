"""What makes a run a run: find the stage's output, or make it once and keep it.

A stage is a function that writes its output into an empty folder. Everything that can change the output is in its
`ingredients`; their hash is its key in the store.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from orchestration.errors import UserError
from orchestration.hardware import device_of, lightning_fit
from orchestration.launch import Launch, timestamp
from orchestration.progress import show_progress
from orchestration.schema import Config
from orchestration.store import Artifact, Store, digest
from orchestration.tracking import Tracker, tracking

Make = Callable[[Path, Tracker], Mapping[str, Any] | None]
"""Writes a stage's output into a folder; returns final figures for the run's summary."""

MADE_BY = {"vae": "vae", "latents": "encode", "prior": "prior", "evaluation": "evaluate", "samples": "sample"}
"""Folder of the store -> the stage that a user types to fill it."""

GOALS = {
    "all": {"vae", "latents", "prior", "features", "evaluation"},
    "check": {"vae", "latents", "prior", "features", "evaluation"},
    "vae": {"vae"},
    "encode": {"latents"},
    "prior": {"prior"},
    "sample": {"samples"},
    "evaluate": {"features", "evaluation"},
    "report": set(),
    "oracle": set(),
    "store": set(),
    "export": set(),
    "compare": set(),
}
"""What the user asked for with a stage, as opposed to what it needs."""


@dataclass
class Run:
    """One job: its configuration, where it writes, what it says.

    Attributes:
        config, launch: what was asked.
        store: where stage outputs are.
        trainer_overrides: keywords forced on every Lightning trainer (two batches under stage=check).
        quiet: says nothing.
        plans: only works out keys: `run_stage` names the artifact that it would find or make, and does neither.
    """

    config: Config
    launch: Launch
    store: Store
    trainer_overrides: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False
    plans: bool = False

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.config.trainer)

    @property
    def name(self) -> str:
        chosen = self.launch.choices
        return self.config.name or "-".join(chosen.get(group, "custom") for group in ("data", "vae", "prior"))

    @cached_property
    def folder(self) -> Path:
        """The run's own folder, made on first use."""
        if self.launch.sweep_dir is not None:
            return new_folder(self.launch.sweep_dir / str(self.launch.job), may_exist=True)
        return new_folder(self.config.paths.root / f"{timestamp()}-{self.name}")

    @property
    def name_in_root(self) -> str | None:
        """The run's folder below `paths.root`: what it makes is kept as long as that folder is there."""
        return None if self.quiet else os.path.relpath(self.folder, self.config.paths.root)

    def say(self, what: str, words: str) -> None:
        """One line; in a sweep it says which job is talking, for several may be."""
        if not self.quiet:
            who = f"[{self.launch.job}] " if self.launch.is_sweep else ""
            print(f"{who}{what:<11}{words}\n", end="", flush=True)  # one write: lines of two processes stay apart

    @property
    def shows_progress(self) -> bool:
        return not self.quiet and show_progress(self.config.trainer)

    def lightning_fit(self, tracker: Tracker, label: str | None = None) -> Callable[..., None]:
        """Lightning's training loop with this run's hardware, loggers and, with a `label`, a bar."""
        return lightning_fit(
            self.config.trainer, tracker.loggers, None if self.quiet else label, self.trainer_overrides
        )

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """torch's global generators seeded inside the block and put back after it."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


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


def run_stage(run: Run, stage: str, ingredients: Mapping[str, Any], make: Make) -> Artifact:
    """The output of `stage`: found in the store, waited for, or made now; where `run` only plans, its name alone.

    Raises:
        UserError: with `upstream=require`, when it is missing and not what the user asked for.
    """
    key = digest({"stage": stage, **ingredients})
    if run.plans:
        return Artifact(stage, key, run.store.root / stage / key)
    if found := run.store.find(stage, key):
        run.say(stage, f"unchanged, skipped: {found.path}")
        return found
    if run.config.upstream == "require" and stage not in GOALS[run.config.stage]:
        raise missing(run, stage)

    def waiting(owner: str) -> None:
        if not (run.store.root / stage / key).exists():  # else the owner only looks at what another one has made
            run.say(stage, f"waiting for {key}, made by {owner}")

    with run.store.lock(stage, key, waiting):
        if found := run.store.find(stage, key):
            run.say(stage, f"made by another job meanwhile: {found.path}")
            return found
        started = time.perf_counter()
        with _tracker(run, stage) as tracker:
            with run.store.writing(stage, key, ingredients, run.name_in_root) as folder:
                tracker.summarise(make(folder, tracker) or {})
            tracker.lineage((stage, key), _inputs(ingredients), run.store.root / stage / key)
    run.say(stage, f"done in {time.perf_counter() - started:.1f} s: {run.store.root / stage / key}")
    return Artifact(stage, key, run.store.root / stage / key)


def missing(run: Run, stage: str) -> UserError:
    """What to say where `upstream=require` finds nothing."""
    command = run.launch.command(MADE_BY.get(stage, "evaluate"))
    return UserError(f"the {stage} of this configuration is not in {run.store.root}; make it with: {command}")


def _inputs(ingredients: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in ingredients.items() if name in MADE_BY and isinstance(value, str)}


@contextmanager
def _tracker(run: Run, stage: str) -> Iterator[Tracker]:
    if run.quiet:
        yield Tracker()
        return
    with tracking(
        run.config.logger, run.folder / "logs", stage, run.name, run.config.model_dump(mode="json")
    ) as tracker:
        yield tracker


def point_latest(root: Path, folder: Path) -> None:
    """Make `root/latest` lead to `folder`, in one step: a reader sees the old one or the new one."""
    scratch = Path(tempfile.mkdtemp(prefix=".latest-", dir=root))
    link = scratch / "latest"
    link.symlink_to(os.path.relpath(folder, root), target_is_directory=True)
    os.replace(link, root / "latest")
    scratch.rmdir()
