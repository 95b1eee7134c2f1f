"""stage=answer: the runs that a question needs, its figures in a table, its picture, and what follows, in words.

Each run is composed as if it had been typed: what the user has typed, then the words of its variant and its seed. What
is in the store is not made again, so that the same command answers at once the second time.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import open_dict
from rich import box
from rich.table import Table

from expost.base.command import Command, command_line
from expost.base.errors import UserError
from expost.base.terminal import new_console
from expost.config.build import build, target_class
from expost.config.schema import Seeds, validate
from expost.job import Job
from expost.parts.assembly import ImageParts, assemble
from expost.parts.identity import circumstances
from expost.pipeline import made
from expost.questions.inquiry import Finished, Inquiry, Outcome, Outcomes, Variant, spelled
from expost.stages.check import check_all
from expost.stages.report import point_latest
from stage1_vae.base_priors import StandardNormal
from stage1_vae.machine import flushed_denormals
from stage1_vae.objectives.elbo import ELBO

ANSWER, PICTURE = "answer.json", "answer.png"
OF_THE_ELBO = {"beta": 1.0, "beta_norm": None, "free_nats": 0.0, "warmup_steps": 0, "cycle_steps": 0}
"""Settings of an objective under which its loss is the ELBO to the end."""
PURPOSES = {"train": "training", "val": "validation", "test": "the test"}
"""Of the splits of a set."""


@flushed_denormals()
def answer(job: Job) -> None:
    """Make the runs, print table and sentences, and write `answer.json` and `answer.png` into the run's folder.

    Raises:
        UserError: no question, a key that it sets by itself, what a run refuses, or a folder that cannot be written.
    """
    inquiry = asked(job)
    job.say("question", inquiry.asks)
    started, outcomes = time.perf_counter(), []
    num_images: dict[str, int] = {}
    runs = [(variant, job.config.seed + seed) for variant in inquiry.variants() for seed in range(inquiry.num_seeds)]
    for number in range(0, len(runs), inquiry.num_seeds):  # a mistake in the last one is met before the first is made
        prepared, parts = ready(variant_job(job, *runs[number], number), inquiry)
        parts.vae.eval()  # which is not trained: training keeps the mode it meets
        inquiry.check_run(prepared, parts)
    if inquiry.num_seeds > 1:
        check_seeds(*(variant_job(job, *runs[number], number).config.seeds for number in range(2)))
    for number, (variant, seed) in enumerate(runs):
        began = time.perf_counter()
        prepared, parts = ready(variant_job(job, variant, seed, number), inquiry)
        run = Finished(prepared, parts, made(inquiry.goal, prepared, parts))
        outcomes.append(Outcome(variant.name, seed, *inquiry.measure(run)))
        num_images = {split: len(getattr(run.parts.data, split)) for split in PURPOSES}
        seconds = time.perf_counter() - began
        job.say("run", f"{number + 1} of {len(runs)}: {variant.name}, seed {seed}; {seconds:.0f} s")
    tell(job, inquiry, Outcomes(outcomes), num_images, time.perf_counter() - started)


def asked(job: Job) -> Inquiry:
    """What `question:` names.

    Raises:
        UserError: it names nothing, or something that is no question; the user sets what a question sets by itself.
    """
    if job.config.question is None:
        raise UserError("stage=answer needs a question; choose one by experiment=questions/NAME")
    if not issubclass(cls := target_class(job.config.question), Inquiry):
        raise UserError(f"question: {cls.__name__} is no question; choose one by experiment=questions/NAME")
    inquiry: Inquiry = build("question", job.config.question)
    typed = {key_of(word) for word in job.command.overrides}
    for variant in inquiry.variants():
        for word in variant.words:
            if key_of(word) in typed:
                raise UserError(f"{key_of(word)}: this question sets it by itself, run by run; leave it out")
    if (reason := inquiry.check(job.config)) is not None:
        raise UserError(reason)
    return inquiry


def check_seeds(first: Seeds, second: Seeds) -> None:
    """Refuse those of two runs that are the same: of the noise of such runs nobody would see a part.

    Raises:
        UserError: which one.
    """
    for name, value in first:
        if value == getattr(second, name):
            raise UserError(f"seeds.{name}: seeds of a question differ from run to run; leave it out, or set seed")


def key_of(word: str) -> str:
    """The key that an override sets."""
    return word.lstrip("+~").split("=")[0]


def variant_job(job: Job, variant: Variant, seed: int, number: int) -> Job:
    """A job of its own for one run, in a folder of its own within that of `job`; it says nothing."""
    own = [word for word in job.command.overrides if key_of(word) not in ("seed", "stage")]
    words = [*own, *variant.words, f"seed={seed}", "stage=all"]
    try:
        composed = hydra.compose(HydraConfig.get().job.config_name, words, return_hydra_config=True)
    except HydraException as error:
        reason = " ".join(str(error).splitlines()[0].split()).rstrip(".")
        raise UserError(
            f"this question sets {' '.join(variant.words)}, with which a choice that you made does not go together: "
            f"{reason}; leave that out"
        ) from error
    command = replace(Command.of(composed.hydra), is_sweep=True, sweep_dir=job.folder, job_number=number)
    with open_dict(composed):
        del composed["hydra"]
    return Job(validate(composed), command, job.store, relay=lambda said: None)


def ready(job: Job, inquiry: Inquiry) -> tuple[Job, ImageParts]:
    """A run that `inquiry` can look at, of which nothing is made yet.

    Raises:
        UserError: images that are none, or latents that the question is not about.
    """
    job, parts = assemble(job)
    check_all(job, parts)
    if not isinstance(parts, ImageParts):
        raise UserError("a question needs images and an autoencoder that is trained on them; leave out data=latents")
    if parts.spec.support is not inquiry.support:
        kinds = f"{inquiry.support.value}, and these latents are {parts.spec.support.value}"
        raise UserError(f"this question is about latents of the kind {kinds}; leave out vae=")
    learned = parts.objective is not None and parts.objective.prior is not None
    if inquiry.needs_normal and (learned or type(parts.vae.base_prior) is not StandardNormal):
        raise UserError("this question is about a VAE that is trained against N(0, I); leave out vae=")
    objective = job.config.vae_node.get("objective") or {}
    is_elbo = type(parts.objective) is ELBO and all(objective[key] == value for key, value in OF_THE_ELBO.items())
    if inquiry.needs_elbo and not is_elbo:
        raise UserError("this question is about a loss that is the ELBO; leave vae.objective as it is")
    return job, parts


def tell(job: Job, inquiry: Inquiry, outcomes: Outcomes, num_images: Mapping[str, int], seconds: float) -> None:
    """Table, sentences and picture; `num_images`: of each split, the same in all runs.

    Raises:
        UserError: the folder cannot be written.
    """
    sentences = list(inquiry.conclude(outcomes))
    rows = [rounded(inquiry, outcomes, variant) for variant in outcomes.variants]
    facts = {
        "question": inquiry.asks,
        "command": command_line(*job.command.overrides),
        "columns": {name: column.title for name, column in inquiry.columns.items()},
        "rows": rows,
        "runs": [{"variant": run.variant, "seed": run.seed, **run.figures} for run in outcomes.all],
        "images": dict(num_images),
        "sentences": sentences,
        "seconds": seconds,
        **circumstances(),
    }
    try:
        (job.folder / ANSWER).write_text(json.dumps(facts, indent=2, allow_nan=False), encoding="utf-8")
        inquiry.draw(outcomes, job.folder / PICTURE)
        point_latest(job)
    except OSError as error:
        raise UserError(f"cannot write {job.folder}: {error.strerror}; make room or set paths.root=DIR") from error
    console = new_console()
    console.print()
    console.print(table(inquiry, rows, num_images))
    console.print()
    for sentence in sentences:
        job.say("answer", sentence)
    job.say("answer", f"{job.folder / PICTURE}; {ANSWER} beside it")


def rounded(inquiry: Inquiry, outcomes: Outcomes, variant: str) -> dict[str, str]:
    """A row of the table: means and standard errors, as they are shown."""
    figures = {name: inquiry.estimate(outcomes, variant, name) for name in inquiry.columns}
    return {"": variant} | {
        name: spelled(estimate, inquiry.columns[name].decimals) for name, estimate in figures.items()
    }


def table(inquiry: Inquiry, rows: Sequence[Mapping[str, Any]], num_images: Mapping[str, int]) -> Table:
    """For the terminal."""
    seeds = f"{inquiry.num_seeds} seeds, ± standard error of their mean" if inquiry.num_seeds > 1 else "one seed"
    images = ", ".join(f"{num:,} for {PURPOSES[split]}" for split, num in num_images.items())
    caption = f"images: {images}; {seeds}"
    shown = Table(
        title=inquiry.asks, caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    shown.add_column("")
    for column in inquiry.columns.values():
        shown.add_column(column.title, justify="right")
    for row in rows:
        shown.add_row(row[""], *(row[name] for name in inquiry.columns))
    return shown
