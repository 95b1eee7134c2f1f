"""From what was probed to what a whole run costs: arithmetic, and nothing else.

Disk: bytes of the files in the store; those of models, latents and labels are exact. Memory: resident memory of a
process that does this stage alone, at its largest. Time: what is there once, and so much a step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expost.config.schema import Config, Trainer
from expost.costs.fork import Facts
from expost.costs.watch import at, straight
from expost.measure.latents import MAX_DRAWS

NPY_HEADER, LABEL = 128, 8
"""Bytes."""


@dataclass(frozen=True)
class Cost:
    """What one stage costs.

    Attributes:
        stage: as a user types it; `data` is opening the images, which every stage does.
        files: bytes in the store, by path in the artifact.
        memory_bytes: peak of the process, of each rank where there are several.
        seconds: estimated.
        work: how much of what, in words.
        parts: seconds of its parts, where it has any.
        cached: it is in the store already, and costs nothing now.
    """

    stage: str
    files: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: int = 0
    seconds: float = 0.0
    work: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    cached: bool = False

    @property
    def disk_bytes(self) -> int:
        return sum(self.files.values())


def costs_of(config: Config, facts: Facts) -> list[Cost]:
    """One a stage, in the order in which they run."""
    data = facts["data"]
    num = sum(facts["images"]["num"].values())
    opening = Cost("data", {}, data["peak_bytes"], data["seconds"], f"{num:,} images, {data['how']}")
    stages = [
        vae_cost(config, facts),
        encode_cost(config, facts),
        prior_cost(config, facts),
        features_cost(facts),
        evaluate_cost(facts),
    ]
    return [opening, *stages]


def peak_of(facts: Facts, stage: str) -> int:
    """No less than opening the images took."""
    return max(facts["probes"][stage]["peak_bytes"], facts["data"]["peak_bytes"])


def length_of_stage1(trainer: Trainer, num_images: int) -> tuple[int, int, int]:
    """Optimiser steps, epochs and validations of stage 1, if nothing stops it early."""
    batches = -(-num_images // trainer.batch_size)
    steps = min(trainer.max_epochs * batches, trainer.max_steps or trainer.max_epochs * batches)
    validations = max(1, (steps // batches) // min(trainer.val_every, max(1, steps // batches)))
    return steps, -(-steps // batches), validations


def vae_cost(config: Config, facts: Facts) -> Cost:
    """Steps and validations to the end; early stopping can only make it less."""
    probe, trainer, num = facts["probes"]["vae"], config.trainer, facts["images"]["num"]
    steps, epochs, validations = length_of_stage1(trainer, num["train"])
    scale = trainer.batch_size / trainer.num_ranks / probe["step_size"]
    seconds = probe["seconds_once"] + steps * scale * probe["seconds_a_step"]
    seconds += validations * num["val"] / trainer.num_ranks * probe["seconds_a_val_image"]
    files = probe["files"] | {"history.json": round(epochs * probe["bytes_an_epoch"])}
    if not facts["models"]["vae_parameters"]:
        steps, epochs, seconds = 0, 0, probe["seconds_once"]
    work = f"{steps:,} steps of {trainer.batch_size}, {epochs:,} epochs"
    return Cost("vae", files, peak_of(facts, "vae"), seconds, work, {}, "vae" in facts["cached"])


def encode_cost(config: Config, facts: Facts) -> Cost:
    """All splits; the files of parameters and labels to the byte."""
    probe, models, num = facts["probes"]["encode"], facts["models"], facts["images"]["num"]
    event = math.prod(models["latent_shape"])
    files = dict(probe["files"])
    for split, rows in num.items():
        for name, itemsize in models["latent_params"].items():
            files[f"{split}/{name}.npy"] = NPY_HEADER + rows * event * itemsize
        if facts["images"]["labelled"]:
            files[f"{split}/labels.npy"] = NPY_HEADER + rows * LABEL
    total = sum(num.values())
    once, an_image = straight(probe["times"])
    seconds = once + total * an_image / config.trainer.num_ranks
    cached = "encode" in facts["cached"]
    return Cost("encode", files, peak_of(facts, "encode"), seconds, f"{total:,} images", {}, cached)


def prior_cost(config: Config, facts: Facts) -> Cost:
    """All iterations or epochs that the configuration allows; stopping earlier can only make it less."""
    probe, rows = facts["probes"]["prior"], facts["images"]["num"]["train"]
    if probe["unit"] == "iteration":
        passes = probe["num"] + probe["more"]
        seconds = probe["restarts"] * (at(probe["once"], rows) + passes * at(probe["passes"], rows))
    else:
        share = rows / facts["latent_rows"]["train"]  # 1 unless there were too many latents to make up
        seconds = share * probe["seconds_once"] + probe["epochs"] * probe["seconds_an_epoch"]
        seconds += probe["num"] * probe["seconds_a_unit"]
    seconds /= config.trainer.num_ranks if facts["models"]["prior_in_ranks"] else 1
    told = probe["epochs"] or probe["num"]
    curve = round(told * probe["bytes_a_row"]) - probe["bytes_of_curve"] if told else 0
    files = probe["files"] | {"fit.json": probe["files"]["fit.json"] + curve}
    work = f"{probe['num'] * probe.get('restarts', 1):,} {probe['unit']}s at most" if probe["unit"] else "closed form"
    if probe["epochs"]:
        work += f", {probe['epochs']:,} epochs"
    return Cost("prior", files, peak_of(facts, "prior"), seconds, work, {}, "prior" in facts["cached"])


def features_cost(facts: Facts) -> Cost:
    probe = facts["probes"]["features"]
    if not probe["num_images"]:
        return Cost("features", {}, facts["data"]["peak_bytes"], 0.0, "evaluation.features is a file")
    memory = peak_of(facts, "features") + probe["more_bytes"]
    how = f"{probe['steps']:,} steps, {probe['epochs']} epochs of " if probe["epochs"] else "random weights, scaled on "
    work = f"{how}{probe['num_images']:,} images"
    return Cost("features", probe["files"], memory, probe["seconds"], work, {}, "features" in facts["cached"])


def evaluate_cost(facts: Facts) -> Cost:
    """The parts that the report names, each by what it grows with."""
    probe = facts["probes"]["evaluate"]
    num, num_bounds, train = probe["num_samples"], facts["evaluation"]["num_bounds"], facts["images"]["num"]["train"]
    seconds = {
        "samples and features": at(probe["samples"], num),
        "distances": bent(probe["distances"], num),
        "nearest training images": at(probe["reading"], train) + probe["seconds_of_search"],
        "bounds": at(probe["bounds"], num_bounds),
        "surgery": surgery_seconds(probe, min(MAX_DRAWS, num), facts["images"]["num"]),
        "annealing": probe["annealing"] * annealing_share(facts["evaluation"]["annealing"]),
        "pictures": probe["pictures"],
    }
    if probe["floors"]:
        seconds["priors by counting"] = at(probe["floors"], train)
    work = f"{num:,} samples, bounds of {num_bounds:,} images, {train:,} searched for copies"
    peak, cached = peak_of(facts, "evaluate"), "evaluate" in facts["cached"]
    return Cost("evaluate", probe["files"], peak, sum(seconds.values()), work, seconds, cached)


def bent(times: Sequence[Sequence[float]], num: int) -> float:
    """Seconds of `num` units of work that grows faster than its units, as a power of them between two lengths."""
    (few, first), (many, last) = times[0], times[-1]
    if many == few or first <= 0:
        return last * (num / many) ** 2
    power = min(2.0, max(1.0, math.log(last / first) / math.log(many / few)))
    return float(last * (num / many) ** power)


def surgery_seconds(probe: Facts, num: int, counts: Mapping[str, int]) -> float:
    """Draws of both splits under the aggregate of the training images and of their own, and all that needs neither."""

    def aggregates(num: float, counts: Mapping[str, int]) -> float:
        latents = 2 * counts["train"] + counts["test"]
        return latents * (probe["seconds_a_latent"] + num * probe["seconds_a_pair"])

    rest = [(few, max(0.0, seconds - aggregates(few, probe["few_latents"]))) for few, seconds in probe["surgery"]]
    return at(rest, num) + aggregates(num, counts)


def annealing_share(asked: Mapping[str, Any] | None) -> float:
    """How many times the work of the probe's two images, and two simulated ones from both ends, is asked for."""
    if asked is None:
        return 1.0
    return (asked["num_images"] + 2 * asked["bdmc_images"]) / (2 + (4 if asked["bdmc_images"] else 0))
