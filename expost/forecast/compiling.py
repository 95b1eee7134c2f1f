"""Whether the step of stage 1 is compiled, where `trainer.compile=auto` leaves that to the machine.

Compiled, a step of many small operations takes as little as two thirds of its time, and one whose convolutions the
library does better takes longer. Which it is depends on nets, batch, precision, processor and threads, so both ways are
timed, in rounds in turn, on copies that are thrown away. Times are kept in the store, under a name of this machine, so
that the same training chooses alike when it is continued; another store times them anew.
"""

import copy
import json
import os
import statistics
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat, TypeAdapter

from expost.base.errors import UserError
from expost.config.build import origins
from expost.forecast.notice import first_images, optimizer_of, take_step
from expost.forecast.timing import in_time, length_of_stage1, seconds_of
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.store.answers import machine
from expost.store.manifest import sha256_of
from expost.store.safe import read_json
from expost.training.devices import resolved_precision
from stage1_vae.machine import processor
from stage1_vae.objective import SCHEDULES_DONE, Objective
from stage1_vae.vae import VAE

FOLDER = ".steps"
VERSION = 1
"""Part of every hash; raised when what is timed changes."""
ROUNDS, SECONDS_A_ROUND = 5, 0.1
FASTER = 1.03
"""How many times as fast a compiled step must be: less is noise."""
LITTLE_SECONDS = 30.0
"""Of training: where it takes no more, compiling costs more than it can bring."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step, medians, and those that compiling took."""

    eager: PositiveFloat
    compiled: PositiveFloat
    compiling: PositiveFloat

    def pays(self, steps: int) -> bool:
        """Whether so many steps are done sooner compiled, whoever has to compile first."""
        return FASTER * self.compiled < self.eager and steps * (self.eager - self.compiled) > self.compiling

    @property
    def words(self) -> str:
        compiled, eager = (f"{1000 * seconds:.3g} ms" for seconds in (self.compiled, self.eager))
        return f"a step takes {compiled} compiled, {eager} not, and compiling {self.compiling:.0f} s"


def is_compiled(job: Job, parts: ImageParts, objective: Objective) -> bool:
    """What `trainer.compile` says, and `auto` of it decided for this machine, with a line that says why."""
    trainer = job.config.trainer
    if trainer.compile != "auto":
        return trainer.compile
    if not objective.compiles or job.trainer_overrides:  # the first is said anyway, the others are few batches
        return False
    if job.ranks.world > 1:  # a step waits for those of the other ranks, which one rank alone cannot time
        job.say("vae", "not compiled: auto times the steps of one rank alone; trainer.compile=true compiles all")
        return False
    if trainer.batch_size > len(parts.data.train):
        job.say("vae", "not compiled: there is no full batch, and each size would be compiled anew")
        return False
    with job.seeded(0):
        found, words = decided(job, parts, objective)
    job.say("vae", f"{'compiled' if found else 'not compiled'}: {words}")
    return found


def decided(job: Job, parts: ImageParts, objective: Objective) -> tuple[bool, str]:
    """Whether the steps that there are pay for compiling, from times that are kept or taken now, and why."""
    steps, _, _ = length_of_stage1(job.config.trainer, len(parts.data.train))
    place = job.store.root / FOLDER / f"{sha256_of(facts(job, parts, objective))}.json"
    if (kept := recall(place)) is not None:
        return kept.pays(steps), f"{kept.words} (timed before)"
    try:
        trial = Trial(job, parts, objective)
        if (seconds := trial.seconds_of_steps(compiled=False) * steps) < LITTLE_SECONDS:
            return False, f"{steps:,} steps take about {in_time(seconds)} as it is"
        times = trial.times()
    except torch._dynamo.exc.TorchDynamoException as error:
        return False, reason(error)
    except torch.OutOfMemoryError:
        return False, "there is no memory for a second net to be timed"
    is_kept = remember(place, times)
    return times.pays(steps), f"{times.words}{' (kept in this store for this machine)' * is_kept}"


class Trial:
    """A copy of what is trained, that takes steps which change nothing.

    Args:
        job: says how it will be trained.
        parts: with the images and the VAE.
        objective: what it is trained on, joined with whatever it is joined with.
    """

    def __init__(self, job: Job, parts: ImageParts, objective: Objective) -> None:
        from stage1_vae.training.module import Step  # Lightning takes seconds to import

        assert isinstance(parts.vae, VAE)  # it is trained
        lent = {
            id(job): job,
            id(parts): parts,
        }  # an objective may have been lent them, images and all
        vae, objective = copy.deepcopy((parts.vae, objective), lent)
        objective.begin(vae)
        objective.before_step(SCHEDULES_DONE)  # most steps are those of the last phase
        self.step = Step(vae, objective, resolved_precision(job.config.trainer) == "bf16")
        self.optimizer = optimizer_of(self.step)
        self.x = first_images(parts, job.config.trainer.batch_size)
        self.now = torch.tensor(SCHEDULES_DONE)
        self.seconds_of_steps(compiled=False)  # what is there once, and codebooks that begin with the first batch

    def take(self, compiled: bool) -> None:
        terms, _ = self.step(self.x, self.now) if compiled else self.step.eager(self.x, self.now)
        take_step(terms.loss, self.optimizer)

    def seconds_of_steps(self, compiled: bool, num: int = 1) -> float:
        """Seconds a step, of so many."""

        def steps() -> None:
            for _ in range(num):
                self.take(compiled)

        return seconds_of(steps) / num

    def times(self) -> StepTimes:
        """
        Raises:
            torch._dynamo.exc.TorchDynamoException: it cannot be compiled, or not here.
        """
        num = max(1, round(SECONDS_A_ROUND / self.seconds_of_steps(compiled=False)))
        self.step.compile(dynamic=False)
        compiling = self.seconds_of_steps(compiled=True)
        self.seconds_of_steps(compiled=True)
        eager, compiled = [], []
        for _ in range(ROUNDS):
            eager.append(self.seconds_of_steps(False, num))
            compiled.append(self.seconds_of_steps(True, num))
        return StepTimes(statistics.median(eager), statistics.median(compiled), compiling)


def facts(job: Job, parts: ImageParts, objective: Objective) -> dict[str, Any]:
    """Everything that the time of a step depends on."""
    config, vae = job.config, job.config.own_vae
    return {
        "version": VERSION,
        "machine": machine(),
        "processor": processor(),
        "device": [job.device.type, torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else ""],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "net": config.net,
        "bottleneck": vae.bottleneck,
        "objective": [type(objective).__qualname__, vae.objective, config.data.get("labelled")],
        "prior": None if objective.prior is None else [type(objective.prior).__qualname__, vae.prior, config.prior],
        "likelihood": config.likelihood,
        "sources": origins([config.net, vae.bottleneck, vae.objective, config.likelihood]),
        "shape": parts.data.shape,
        "batch_size": config.trainer.batch_size,
        "precision": resolved_precision(config.trainer),
    }


def recall(place: Path) -> StepTimes | None:
    """What was kept there, if it is as it was written."""
    try:
        return TypeAdapter(StepTimes).validate_python(read_json(place.parent, place.name))
    except (UserError, ValueError, OSError):
        return None


def remember(place: Path, times: StepTimes) -> bool:
    """Keep `times`; whether the store could be written."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_suffix(f".{os.getpid()}.part")
        scratch.write_text(json.dumps(asdict(times)), encoding="utf-8")
        os.replace(scratch, place)
        return True
    return False


def reason(error: Exception) -> str:
    """Why nothing was compiled, in a line."""
    from torch._inductor.exc import InvalidCxxCompiler  # loads a second's worth of modules

    cause = error.inner_exception if isinstance(error, torch._dynamo.exc.BackendCompilerFailed) else error
    if isinstance(cause, InvalidCxxCompiler):
        return "there is no C++ compiler here"
    return f"torch says {str(cause).strip().splitlines()[0]}"
