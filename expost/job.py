"""What makes a run a run: find the stage's output, or make it once and keep it.

A stage is a function that writes its output into an empty folder. Everything that can change the output is in its
`ingredients`; their hash is its key in the store.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expost.base.command import Launch, timestamp
from expost.base.errors import UserError
from expost.base.scratch import record_stop
from expost.config.schema import Config
from expost.evaluation.tables import printable
from expost.ranks.machines import Node
from expost.ranks.parent import spread
from expost.ranks.rendezvous import hosting
from expost.store.artifacts import Artifact, Store, digest
from expost.store.training_states import Keeper
from expost.training.devices import device_of
from expost.training.progress import show_progress
from expost.training.tracking import Tracker, tracking
from stage2_prior.ranks import Ranks

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from expost.ranks.member import Share

Make = Callable[[Path, Tracker], Mapping[str, Any] | None]
"""Writes a stage's output into a folder; returns final figures for the run's summary."""

MADE_BY = {"vae": "vae", "latents": "encode", "prior": "prior", "evaluation": "evaluate", "samples": "sample"}
"""Folder of the store -> the stage that a user types to fill it."""

READ_IMAGES = {"vae", "latents", "features", "evaluation"}

GOALS = {
    "all": {"vae", "latents", "prior", "features", "evaluation"},
    "check": {"vae", "latents", "prior", "features", "evaluation"},
    "vae": {"vae"},
    "encode": {"latents"},
    "prior": {"prior"},
    "sample": {"samples"},
    "evaluate": {"features", "evaluation"},
    "report": set(),
    "plan": set(),
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
        watchers: callbacks of every Lightning trainer, beside those that a stage asks for (stage=plan).
        quiet: says nothing.
        max_images: to which each split is cut (stage=check).
        plans: only works out keys: `run_stage` names the artifact that it would find or make, and does neither.
        check_images: raises a DataError where the images are no longer those that the keys speak of.
        share: of a process that is one of several ranks, its part of one stage.
    """

    config: Config
    launch: Launch
    store: Store
    trainer_overrides: dict[str, Any] = field(default_factory=dict)
    watchers: tuple["Callback", ...] = ()
    quiet: bool = False
    max_images: int | None = None
    plans: bool = False
    check_images: Callable[[], None] = lambda: None
    share: "Share | None" = None

    @cached_property
    def device(self) -> torch.device:
        return device_of(self.config.trainer)

    @property
    def ranks(self) -> Ranks:
        """Which of the processes that make this stage together this one is."""
        return Ranks() if self.share is None else self.share.ranks

    @cached_property
    def node(self) -> Node:
        """Which of the job's machines this is; on any but the first, the parent only starts its ranks."""
        return Node.of(self.config.trainer.num_nodes, os.environ)

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
        if self.quiet:
            return
        if self.share is not None:
            self.share.tell({"say": [what, words]})
        else:
            who = f"[{self.launch.job}] " if self.launch.is_sweep else ""
            line = f"{who}{what:<11}{printable(words)}"
            print(f"{line}\n", end="", flush=True)  # one write: lines of two processes stay apart

    def stored(self, stage: str, key: str) -> Artifact | None:
        """What is in the store, intact, under that name; of damage that is found there the user is told."""
        return self.store.find(stage, key, lambda words: self.say(stage, words))

    @property
    def shows_progress(self) -> bool:
        return not self.quiet and show_progress(self.config.trainer)

    def lightning_fit(
        self, tracker: Tracker, label: str | None = None, keeper: Keeper | None = None
    ) -> Callable[..., None]:
        """Lightning's training loop with this run's hardware, loggers and, with a `label`, a bar.

        With a `keeper` it continues where an earlier attempt ended; one keeper serves one fit.
        """
        from expost.training.trainer import lightning_fit  # Lightning takes seconds to import: only who trains

        return lightning_fit(
            self.config.trainer,
            tracker.loggers,
            None if self.quiet else label,
            self.trainer_overrides,
            self.ranks,
            keeper,
            self.watchers,
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


def run_stage(run: Run, stage: str, ingredients: Mapping[str, Any], make: Make, in_ranks: bool = False) -> Artifact:
    """The output of `stage`: found in the store, waited for, or made now; where `run` only plans, its name alone.

    Where the job has several ranks and the stage is one that they make together, `in_ranks`, `make` runs in a process
    for each of them; `run` is then a rank's.

    Raises:
        UserError: with `upstream=require`, when it is missing and not what the user asked for.
    """
    key = digest({"stage": stage, **ingredients})
    if run.share is not None:
        run.share.tracker.keeper = _keeper(run, stage, key, ingredients)
        run.share.take(stage, key, make)
    if run.plans or run.share is not None:
        return Artifact(stage, key, run.store.root / stage / key)
    in_ranks = in_ranks and run.config.trainer.num_ranks > 1
    if found := run.stored(stage, key):
        run.store.tidy(stage, key)
        run.say(stage, f"unchanged, skipped: {found.path}")
        return found
    if run.config.upstream == "require" and stage not in GOALS[run.config.stage]:
        raise missing(run, stage)
    if in_ranks and run.node.rank > 0:
        return help_make(run, stage, key)

    def waiting(owner: str) -> None:
        if not (run.store.root / stage / key).exists():  # else the owner only looks at what another one has made
            run.say(stage, f"waiting for {key}, made by {owner}")

    with hosting(run.node, key, in_ranks) as host, run.store.lock(stage, key, waiting):
        if found := run.stored(stage, key):
            run.say(stage, f"made by another job meanwhile: {found.path}")
            return found
        started = time.perf_counter()
        with _tracker(run, stage) as tracker:
            with run.store.writing(stage, key, ingredients, run.name_in_root, tracker.earlier_seconds) as folder:
                tracker.keeper = keeper = _keeper(run, stage, key, ingredients)
                if in_ranks and keeper is not None:
                    keeper.begin()  # ranks keep, and know nothing of this run's folder
                if in_ranks and host is not None:
                    host.invite(folder)
                with _stopping(stage, keeper):
                    figures = spread(run, stage, key, tracker, host) if in_ranks else make(folder, tracker)
                    tracker.summarise(figures or {})
                    if stage in READ_IMAGES:
                        run.check_images()
            run.store.sweep(stage, key)
            tracker.lineage((stage, key), _inputs(ingredients), run.store.root / stage / key)
    run.say(stage, f"done in {time.perf_counter() - started:.1f} s: {run.store.root / stage / key}")
    return Artifact(stage, key, run.store.root / stage / key)


def _keeper(run: Run, stage: str, key: str, ingredients: Mapping[str, Any]) -> Keeper | None:
    """Where the stage's training is kept; the run's folder says what for, so that collecting leaves it there."""
    if run.quiet if run.share is None else run.share.order.quiet:
        return None

    def begin() -> None:
        facts = {"stage": stage, "key": key, "inputs": _inputs(ingredients)}
        (run.folder / f"begun-{stage}.json").write_text(json.dumps(facts), encoding="utf-8")

    return Keeper(
        run.store.resume_folder(stage, key),
        run.store.root / "quarantine",
        run.config.trainer.keep_share,
        lambda words: run.say(stage, words),
        begin if run.share is None else lambda: None,
        run.check_images if stage in READ_IMAGES else lambda: None,
    )


@contextmanager
def _stopping(stage: str, keeper: Keeper | None) -> Iterator[None]:
    """Of a stage that Ctrl-C ends in here, what is told is how far it is kept."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one of the other
        if keeper is not None and (words := keeper.words):
            record_stop(f"{stage} is kept up to {words}")
        raise


def help_make(run: Run, stage: str, key: str) -> Artifact:
    """This machine's part in what the first machine makes and commits; the artifact when it is there.

    Raises:
        UserError: the first machine did not finish it.
    """
    run.say(stage, f"made by machine 0 with the help of this one, number {run.node.rank}")
    place = run.store.root / stage / key
    spread(run, stage, key, Tracker(), arrived=place.is_dir)
    with run.store.lock(stage, key):  # machine 0 gives it back when it has committed, or failed
        if found := run.stored(stage, key):
            return found
    raise UserError(f"machine 0 did not finish the {stage} {key}; see what it said, and see that all share {place}")


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
    config = run.config.model_dump(mode="json")
    with tracking(
        run.config.logger, run.folder / "logs", stage, run.name, config, lambda words: run.say("wandb", words)
    ) as tracker:
        yield tracker
