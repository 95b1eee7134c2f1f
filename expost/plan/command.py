"""stage=plan: what every stage will cost in disk, memory and time, before anything runs.

A process of its own probes the pipeline's own stages for a minute (`expost.plan.server`); from a few of their
steps follows what all of them cost (`expost.plan.costs`). Nothing that was probed is kept.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Group
from rich.text import Text

from expost.base import scratch
from expost.base.disk import in_bytes
from expost.base.errors import UserError
from expost.base.places import python_path
from expost.base.terminal import new_console
from expost.config.schema import Config
from expost.evaluation.tables import Column, lay_out, printable
from expost.forecast.timing import in_time
from expost.job import Job
from expost.plan.costs import Cost, Facts, costs_of
from expost.training.progress import clock

PLAN_KEYS = {"stages", "total", "probed"}
DATA_LINE = "taken: "
"""Starts the line of the probing process that says what was taken of the data."""


def run_plan(job: Job) -> None:
    """Print the plan and write it to `plan.out`, or into the run's folder.

    Raises:
        UserError: the configuration cannot be run, or the plan cannot be written.
    """
    if (asked := job.config.plan.out) is not None:
        check_target(asked)
    facts = probe(job)
    target = asked or job.folder / "plan.json"  # the folder is made when it is asked for: not before a refusal
    costs = costs_of(job.config, facts)
    notes = notes_of(job.config, costs, facts)
    console = new_console()
    console.print()
    console.print(terminal_plan(costs, facts, notes, console.width))
    console.print()
    stages = {cost.stage: asdict(cost) | {"disk_bytes": cost.disk_bytes} for cost in costs}
    plan = {"stages": stages, "total": total_of(costs), "probed": facts, "notes": notes}
    try:
        target.write_text(json.dumps(plan, indent=2), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; set plan.out=FILE.json") from error
    job.say("plan", str(target))
    words = tuple(word for word in job.command.overrides if not word.startswith("plan."))
    job.say("next", replace(job.command, overrides=words).line("all"))


def check_target(target: Path) -> None:
    """Refuse to replace what is no earlier plan, before any probing.

    Raises:
        UserError: something else is there.
    """
    content = None
    if os.path.isfile(target):
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(target.read_bytes())
    is_plan = isinstance(content, dict) and content.keys() >= PLAN_KEYS
    if os.path.isdir(target) or (os.path.isfile(target) and not is_plan):
        raise UserError(f"plan.out={target} is there already and is no plan; give another name, or remove it")


def probe(job: Job) -> Facts:
    """What the probing process measured.

    Raises:
        UserError: the configuration cannot be run.
    """
    with (
        tempfile.TemporaryDirectory(prefix="plan-", dir=scratch.folder()) as folder,
        clock("probing", job.shows_progress),
    ):
        order, result, output = Path(folder) / "job.json", Path(folder) / "result.json", []
        words = {"choices": job.command.choices, "overrides": job.command.overrides}
        order.write_text(json.dumps({"config": job.config.model_dump(mode="json"), **words}), encoding="utf-8")
        path = python_path()
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "expost.plan.server", str(order), str(result), str(os.getpid())],
            env=os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            for line in process.stdout or ():  # what was taken of the data is said at once, before what takes long
                if line.startswith(DATA_LINE):
                    job.say("data", line.removeprefix(DATA_LINE).rstrip("\n"))
                else:
                    output.append(line)
        if process.returncode or not result.is_file():
            raise RuntimeError(f"the probing process ended with {process.returncode}:\n{''.join(output)}")
        facts: Facts = json.loads(result.read_text(encoding="utf-8"))
    if "mistake" in facts:
        raise UserError(facts["mistake"])
    return facts


def total_of(costs: Sequence[Cost]) -> dict[str, float]:
    """Of all stages, one after the other."""
    return {
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "memory_bytes": max(cost.memory_bytes for cost in costs),
        "seconds": sum(cost.seconds for cost in costs),
    }


def terminal_plan(costs: Sequence[Cost], facts: Facts, notes: Sequence[str], width: int = 80) -> Group:
    """Disk, memory, time and work of each stage, the total, and notes."""
    images, total = facts["images"], total_of(costs)
    shape = " x ".join(str(side) for side in images["shape"])
    counts = " + ".join(f"{count:,}" for count in images["num"].values())
    title = Text(printable(f"{images['name']}: {counts} {images['noun']} of {shape}"), "italic")
    disk = [in_bytes(cost.disk_bytes) if cost.files else "-" for cost in costs]
    work = [f"{cost.work}; stored already: costs nothing now" if cost.cached else cost.work for cost in costs]
    memory = [in_bytes(cost.memory_bytes) for cost in costs]
    columns = [
        Column("stage", [*(cost.stage for cost in costs), "all"], is_label=True),
        Column("disk", [*disk, in_bytes(total["disk_bytes"])], is_whole=True),
        Column("memory", [*memory, in_bytes(total["memory_bytes"])], is_whole=True),
        Column("time", [*(in_time(cost.seconds) for cost in costs), in_time(total["seconds"])], is_whole=True),
        Column("what", [*work, "memory: the largest of the stages"], is_text=True),
    ]
    tables = [block for table in lay_out(columns, width) for block in (Text(""), table)]
    return Group(title, *tables, Text(""), *(Text(f"- {printable(note)}") for note in notes))


def notes_of(config: Config, costs: Sequence[Cost], facts: Facts) -> list[str]:
    """What the figures are of, and what they assume."""
    machine, models, probes, trainer = facts["machine"], facts["models"], facts["probes"], config.trainer
    notes = [
        f"Here: {machine['cores']} {machine['processor']} cores, {machine['threads']} threads, {machine['device']}, "
        f"precision {machine['precision']}, load {machine['load']:.1f}, {in_bytes(machine['available_bytes'])} free; "
        f"probed for {facts['seconds']:.0f} s, nothing is kept.",
        *([f"VAE: {models['vae_parameters']:,} parameters."] if "vae" in probes else []),
        f"Prior: {probes['prior']['num_parameters']:,} parameters, of {models['latent_dims']:,} latent dimensions.",
        "Disk: bytes in the store. Memory: resident memory of a process that runs this stage alone. "
        "Time: as if nothing stops early, on a machine as busy as this one.",
    ]
    rank_batch = trainer.batch_size // trainer.num_ranks
    probed_batch = probes["vae"]["batch_size"] if "vae" in probes else rank_batch
    if trainer.num_ranks > 1:
        notes.append(
            f"{trainer.num_ranks} ranks: memory is that of each, time that of machines like this one, one a rank; "
            "what they tell each other is not counted."
        )
    if probed_batch != rank_batch:
        notes.append(
            f"A step of {rank_batch} images takes too much memory or time here: probed with "
            f"{probed_batch}, and memory and time follow a straight line."
        )
    rows, num = facts["latent_rows"]["train"], facts["images"]["num"]["train"]
    if rows < num:
        notes.append(
            f"{rows:,} latents stood for all in the memory of prior and evaluate; of {num:,}, mapped from the "
            "disk, the system may keep more there while there is room."
        )
    needy = [cost.stage for cost in costs if cost.memory_bytes > machine["available_bytes"]]
    return notes + [f"{stage} needs more memory than is free here." for stage in needy]
