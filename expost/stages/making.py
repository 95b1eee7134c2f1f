"""One artifact of the store: what it is made from, and how it is found there, waited for, or made once.

Everything that can change an artifact is in its ingredients; their hash is its key. What makes it is a function that
writes into an empty folder, in this process or in several ranks at once.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expost.base.errors import UserError
from expost.base.scratch import record_stop
from expost.config.schema import Config
from expost.forecast.notice import Expectation, foretell
from expost.job import Job
from expost.parts.assembly import Parts
from expost.parts.weights import fitted_prior, trained_vae
from expost.ranks.parent import make_in_ranks
from expost.ranks.rendezvous import serve
from expost.store.artifacts import Artifact, Store, digest
from expost.store.training_states import TrainingStates
from expost.training.tracking import Tracker, tracking
from stage1_vae.autoencoder import Autoencoder
from stage1_vae.latents import LatentDataset
from stage1_vae.machine import flushed_denormals
from stage2_prior.prior import Prior


@dataclass(frozen=True)
class Making:
    """What a stage makes its files with.

    Attributes:
        job, parts: what was asked, and what was built for it.
        inputs: the artifacts that it needs, by the name of their stage.
        ingredients: of its key.
        folder: where its files go; empty.
        tracker: takes figures, and keeps what training must not lose.
    """

    job: Job
    parts: Parts
    inputs: Mapping[str, Artifact]
    ingredients: Mapping[str, Any]
    folder: Path
    tracker: Tracker

    @cached_property
    def vae(self) -> Autoencoder:
        """The trained VAE: the same whether it was trained just now or years ago."""
        return trained_vae(self.parts, self.inputs["vae"], self.job.device)

    @cached_property
    def prior(self) -> Prior:
        """The fitted prior."""
        return fitted_prior(self.parts, self.inputs["prior"], self.job.device)

    def latents(self, split: str) -> LatentDataset:
        """Of the images of `split`."""
        return LatentDataset.load(self.inputs["latents"].path / split)


@dataclass(frozen=True)
class Stage:
    """One artifact: what it is made from, and how.

    Attributes:
        name: of the stage.
        typed: stage=TYPED asks for it.
        needs: names of the stages before it.
        ingredients: everything that can change the artifact, as JSON; keys of what it needs come in by name.
        make: writes its files; returns final figures for the summary. Several ranks call it at once where `in_ranks`.
        expected: what making it takes, to be said before long work.
        in_ranks: whether the ranks of a job make it together.
        announced: words about it, of its ingredients, that are said whether or not it is there; None: none.
        folder: of the store, where it is not called as the stage.
        reads_images: images must not change while it is made.
        parts_alone: what it is made of beside what it needs: jobs that make the same stage of less, each by itself.
    """

    name: str
    typed: str
    needs: Callable[[Config, Parts], tuple[str, ...]]
    ingredients: Callable[[Job, Parts, Mapping[str, str]], dict[str, Any]]
    make: Callable[[Making], Mapping[str, Any]]
    expected: Callable[[Making], list[Expectation]] = lambda making: []
    in_ranks: Callable[[Parts], bool] = lambda parts: False
    announced: Callable[[Config, Mapping[str, Any]], str | None] = lambda config, ingredients: None
    folder: str = ""
    reads_images: bool = False
    parts_alone: Callable[[Job, Parts], "Sequence[Alone]"] = lambda job, parts: ()

    @property
    def place(self) -> str:
        """Its folder in the store, and its name on the terminal."""
        return self.folder or self.name


@dataclass(frozen=True)
class Alone:
    """A part of a stage's artifact that is one by itself, under the key that it has in a job of its own.

    Attributes:
        title: for the user.
        job, parts: that make it.
    """

    title: str
    job: Job
    parts: Parts


@dataclass(frozen=True)
class Recipe:
    """A stage of one job: what its artifact is made from, and the key that follows from that.

    Attributes:
        stage, job, parts: what makes it.
        ingredients: of its key.
        keys: of all before it, by the name of their stage; of what it is made of, by that of its own and a number.
        names: the same, with the names of their artifacts among those of the job.
        name: of its own there.
        title: what the user is told before; empty: nothing.
    """

    stage: Stage
    job: Job
    parts: Parts
    ingredients: Mapping[str, Any]
    keys: Mapping[str, str]
    names: Mapping[str, str]
    name: str
    title: str = ""

    @cached_property
    def key(self) -> str:
        return digest({"stage": self.stage.place, **self.ingredients})

    def artifact(self, store: Store) -> Artifact:
        """Where it is in `store`, or will be."""
        return Artifact(self.stage.place, self.key, store.root / self.stage.place / self.key)

    @property
    def log_name(self) -> str:
        """What its figures are logged under."""
        return self.stage.place if self.name == self.stage.name else self.name

    def inputs_of(self, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """What it is made from, among all `artifacts` of the job so far."""
        return {name: artifacts[other] for name, other in self.names.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """Keys of what it needs, for the lineage."""
        return {name: key for name, key in self.keys.items() if key in self.ingredients.values()}


@flushed_denormals()
def make_files(stage: Stage, making: Making) -> Mapping[str, Any]:
    """All files of `stage`, or of one rank its part of them; how long it takes is said before, where that is long."""
    foretell(making.job, stage.place, lambda: stage.expected(making))
    return stage.make(making)


def find_or_make(recipe: Recipe, inputs: Mapping[str, Artifact], asked: bool) -> Artifact:
    """The artifact of `recipe`: found in the store, waited for, or made now.

    Where the job has several ranks and the stage is one that they make together, each of them makes its part in a
    process of its own.

    Raises:
        UserError: with `upstream=require`, when it is missing and was not `asked` for.
    """
    stage, key, job, parts = recipe.stage, recipe.key, recipe.job, recipe.parts
    if found := job.stored(stage.place, key):
        job.store.tidy(stage.place, key)
        job.say(stage.place, f"unchanged, skipped: {found.path}")
        return found
    if job.config.upstream == "require" and not asked:
        raise missing(job, stage)
    in_ranks = stage.in_ranks(parts) and job.config.trainer.num_ranks > 1
    if in_ranks and job.machine.rank > 0:
        return help_make(recipe)
    artifact = recipe.artifact(job.store)

    def waiting(owner: str) -> None:
        if not artifact.path.exists():  # else the owner only looks at what another one has made
            job.say(stage.place, f"waiting for {key}, made by {owner}")

    with serve(job.machine, key, in_ranks) as rendezvous, job.store.lock(stage.place, key, waiting):
        if made_meanwhile := job.stored(stage.place, key):
            job.say(stage.place, f"made by another job meanwhile: {made_meanwhile.path}")
            return made_meanwhile
        started = time.perf_counter()
        with _tracker(recipe) as tracker:
            with job.store.writing(
                stage.place, key, recipe.ingredients, job.name_in_root, tracker.earlier_seconds
            ) as folder:
                tracker.states = training_states(recipe)
                if in_ranks and tracker.states is not None:
                    tracker.states.begin()  # ranks keep, and know nothing of this run's folder
                if in_ranks and rendezvous is not None:
                    rendezvous.invite(folder)
                with _stopping(stage, tracker.states):
                    if in_ranks:
                        figures = make_in_ranks(job, stage.place, key, tracker, rendezvous)
                    else:
                        figures = make_files(stage, Making(job, parts, inputs, recipe.ingredients, folder, tracker))
                    tracker.summarise(figures)
                    if stage.reads_images:
                        parts.data.check_unchanged()
            job.store.sweep(stage.place, key)
            tracker.lineage((stage.place, key), recipe.inputs, artifact.path)
    job.say(stage.place, f"done in {time.perf_counter() - started:.1f} s: {artifact.path}")
    return artifact


def help_make(recipe: Recipe) -> Artifact:
    """This machine's part in what the first machine makes and commits; the artifact when it is there.

    Raises:
        UserError: the first machine did not finish it.
    """
    stage, key, job = recipe.stage.place, recipe.key, recipe.job
    job.say(stage, f"made by machine 0 with the help of this one, number {job.machine.rank}")
    place = job.store.root / stage / key
    make_in_ranks(job, stage, key, Tracker(), is_there=place.is_dir)
    with job.store.lock(stage, key):  # machine 0 gives it back when it has committed, or failed
        if artifact := job.stored(stage, key):
            return artifact
    raise UserError(f"machine 0 did not finish the {stage} {key}; see what it said, and see that all share {place}")


def missing(job: Job, stage: Stage) -> UserError:
    """What to say where `upstream=require` finds nothing."""
    command = job.command.line(stage.typed)
    return UserError(f"the {stage.place} of this configuration is not in {job.store.root}; make it with: {command}")


def training_states(recipe: Recipe) -> TrainingStates | None:
    """Where the stage's training is kept; the run's folder says what for, so that collecting leaves it there."""
    stage, key, job, parts = recipe.stage.place, recipe.key, recipe.job, recipe.parts
    if job.quiet and job.relay is None:
        return None

    def begin() -> None:
        facts = {"stage": stage, "key": key, "inputs": recipe.inputs}
        (job.folder / f"begun-{stage}.json").write_text(json.dumps(facts), encoding="utf-8")

    return TrainingStates(
        job.store.resume_folder(stage, key),
        job.store.root / "quarantine",
        job.config.trainer.keep_share,
        lambda words: job.say(stage, words),
        begin if job.relay is None else lambda: None,
        parts.data.check_unchanged if recipe.stage.reads_images else lambda: None,
    )


@contextmanager
def _stopping(stage: Stage, states: TrainingStates | None) -> Iterator[None]:
    """Of a stage that Ctrl-C ends in here, what is told is how far it is kept."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one of the other
        if states is not None and (words := states.words):
            record_stop(f"{stage.place} is kept up to {words}")
        raise


@contextmanager
def _tracker(recipe: Recipe) -> Iterator[Tracker]:
    job = recipe.job
    if job.quiet:
        yield Tracker()
        return
    config = job.config.model_dump(mode="json")
    logs, say = job.folder / "logs", lambda words: job.say("wandb", words)
    with tracking(job.config.logger, logs, recipe.log_name, job.name, config, say) as tracker:
        yield tracker
