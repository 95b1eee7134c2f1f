"""The plan on the terminal: one line a stage, and below it what the figures are of."""

import math
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from expost.config.schema import Config
from expost.costs.costs import Cost
from expost.costs.fork import Facts
from expost.evaluation.tables import Column, lay_out, printable

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def terminal_plan(costs: Sequence[Cost], facts: Facts, notes: Sequence[str], width: int = 80) -> Group:
    """Disk, memory, time and work of each stage, the total, and notes."""
    images = facts["images"]
    shape = " x ".join(str(side) for side in images["shape"])
    counts = " + ".join(f"{count:,}" for count in images["num"].values())
    title = Text(printable(f"{images['name']}: {counts} images of {shape}"), "italic")
    parts = [part for table in lay_out(_columns(costs), width) for part in (Text(""), table)]
    return Group(title, *parts, Text(""), *(Text(f"- {printable(note)}") for note in notes))


def _columns(costs: Sequence[Cost]) -> list[Column]:
    """A row a stage, and one for all of them."""
    work = [f"{cost.work}; stored already: costs nothing now" if cost.cached else cost.work for cost in costs]
    disk = [in_bytes(cost.disk_bytes) if cost.files else "-" for cost in costs]
    memory, seconds = [cost.memory_bytes for cost in costs], [cost.seconds for cost in costs]
    return [
        Column("stage", [*(cost.stage for cost in costs), "all"], is_label=True),
        Column("disk", [*disk, in_bytes(sum(cost.disk_bytes for cost in costs))], is_whole=True),
        Column("memory", [*map(in_bytes, memory), in_bytes(max(memory))], is_whole=True),
        Column("time", [*map(in_time, seconds), in_time(sum(seconds))], is_whole=True),
        Column("what", [*work, "memory: the largest of the stages"], is_text=True),
    ]


def notes_of(config: Config, costs: Sequence[Cost], facts: Facts) -> list[str]:
    """What the figures are of, and what they assume."""
    machine, models, probes = facts["machine"], facts["models"], facts["probes"]
    latent = math.prod(models["latent_shape"])
    notes = [
        f"Here: {machine['cores']} {machine['processor']} cores, {machine['threads']} threads, {machine['device']}, "
        f"precision {machine['precision']}, load {machine['load']:.1f}, {in_bytes(machine['available_bytes'])} free; "
        f"probed for {facts['seconds']:.0f} s, nothing is kept.",
        f"VAE: {models['vae_parameters']:,} parameters, {latent:,} latent dimensions; "
        f"prior: {probes['prior']['num_parameters']:,} parameters.",
        "Disk: bytes in the store. Memory: resident memory of a process that runs this stage alone. "
        "Time: as if nothing stops early, on a machine as busy as this one.",
    ]
    trainer = config.trainer
    mine = trainer.batch_size // trainer.num_ranks
    if trainer.num_ranks > 1:
        notes.append(
            f"{trainer.num_ranks} ranks: memory is that of each, time that of machines like this one, one a rank; "
            "what they tell each other is not counted."
        )
    if probes["vae"]["batch_size"] != mine:
        notes.append(
            f"A step of {mine} images takes too much memory or time here: probed with "
            f"{probes['vae']['batch_size']}, and memory and time follow a straight line."
        )
    rows, num = facts["latent_rows"]["train"], facts["images"]["num"]["train"]
    if rows < num:
        notes.append(
            f"{rows:,} latents were made up for the memory of prior and evaluate; of {num:,}, mapped from the "
            "disk, the system may keep more there while there is room."
        )
    for cost in costs:
        if cost.memory_bytes > machine["available_bytes"]:
            notes.append(f"{cost.stage} needs more memory than is free here.")
    return notes


def in_bytes(num_bytes: float) -> str:
    for unit in UNITS[:-1]:
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} {UNITS[-1]}"


def in_time(seconds: float) -> str:
    """Two figures of it: 4.2 s, 12 min, 3.5 h, 2.1 d."""
    for limit, size, unit in ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"
