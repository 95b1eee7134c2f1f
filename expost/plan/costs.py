"""From what was probed to what a whole run costs: arithmetic, and nothing else.

Disk: bytes of the files in the store; those of models, latents and labels are exact. Memory: resident memory of a
process that does this stage alone, at its largest. Time: what is there once, and so much a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from expost.config.schema import Config
from expost.forecast.timing import FORWARD, Times, length_of_stage1, linear_seconds

Facts = dict[str, Any]
"""What was probed, as JSON."""


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
    data, num = facts["data"], sum(facts["images"]["num"].values())
    noun = facts["images"]["noun"]
    costs = [Cost("data", {}, data["peak_bytes"], data["seconds"], f"{num:,} {noun}, {data['how']}")]
    for cost_of in (vae_cost, encode_cost, prior_cost, features_cost, evaluate_cost):
        stage = cost_of.__name__.removesuffix("_cost")
        if stage not in facts["probes"]:  # latents that come from elsewhere have no stage 1, and no images
            continue
        probe = facts["probes"][stage]
        memory = max(probe["peak_bytes"], data["peak_bytes"])  # no less than opening the images took
        memory += probe.get("more_bytes", 0)
        cost = cost_of(config, facts, probe)
        costs.append(replace(cost, memory_bytes=memory, cached=stage in facts["cached"]))
    return costs


def vae_cost(config: Config, facts: Facts, probe: Facts) -> Cost:
    """Steps and validations to the end; early stopping can only make it less."""
    trainer, num = config.trainer, facts["images"]["num"]
    steps, epochs, validations = length_of_stage1(trainer, num["train"])
    scale = trainer.batch_size / trainer.num_ranks / probe["step_size"]
    equal_steps = steps + FORWARD * validations * num["val"] / trainer.batch_size
    seconds = probe["seconds_once"] + equal_steps * scale * probe["seconds_a_step"]
    if "calibrated_on" in probe:
        work = f"the scale of its likelihood, by {probe['calibrated_on']:,} images"
        return Cost("vae", probe["files"], seconds=probe["seconds_once"], work=work)
    if not facts["models"]["vae_parameters"]:
        steps, epochs, seconds = 0, 0, probe["seconds_once"]
    files = probe["files"] | {"history.json": round(epochs * probe["bytes_an_epoch"])}
    return Cost("vae", files, seconds=seconds, work=f"{steps:,} steps of {trainer.batch_size}, {epochs:,} epochs")


def encode_cost(config: Config, facts: Facts, probe: Facts) -> Cost:
    total = sum(facts["images"]["num"].values())
    once = linear_seconds(probe["times"], 0)
    seconds = once + (linear_seconds(probe["times"], total) - once) / config.trainer.num_ranks
    return Cost("encode", probe["files"], seconds=seconds, work=f"{total:,} {facts['images']['noun']}")


def prior_cost(config: Config, facts: Facts, probe: Facts) -> Cost:
    """All iterations or epochs that the configuration allows; stopping earlier can only make it less. Of a prior made
    of others, theirs: its own state holds theirs once more, and its weights take little."""
    if "members" in probe:
        costs = [prior_cost(config, facts, member) for member in probe["members"]]
        files = {f"{place}/{name}": size for place, one in enumerate(costs) for name, size in one.files.items()}
        files["prior.safetensors"] = sum(size for name, size in files.items() if name.endswith(".safetensors"))
        seconds = sum(one.seconds for one in costs)
        return Cost("prior", files, seconds=seconds, work="; ".join(one.work for one in costs))
    rows, unit, num = facts["images"]["num"]["train"], probe["unit"], probe["num"]
    if unit == "iteration":
        passes = (num + probe["more"]) * linear_seconds(probe["passes"], rows)
        seconds = probe["restarts"] * (linear_seconds(probe["once"], rows) + passes)
    else:
        factor = rows / facts["latent_rows"]["train"]  # 1 unless there were too many latents to make up
        seconds = factor * probe["seconds_once"] + (num + probe["more"]) * probe["seconds_a_unit"]
    seconds /= config.trainer.num_ranks if facts["models"]["prior_in_ranks"] else 1
    files, curve_rows = dict(probe["files"]), probe["epochs"] or num
    if curve_rows:
        files["fit.json"] += round(curve_rows * probe["bytes_a_row"]) - probe["bytes_of_curve"]
    work = f"{num * probe.get('restarts', 1):,} {unit}s at most" if unit else "closed form"
    work += f", {probe['epochs']:,} epochs" if probe["epochs"] else ""
    return Cost("prior", files, seconds=seconds, work=work)


def features_cost(config: Config, facts: Facts, probe: Facts) -> Cost:
    return Cost("features", probe["files"], seconds=probe["seconds"], work=probe["work"])


def evaluate_cost(config: Config, facts: Facts, probe: Facts) -> Cost:
    """The parts that the report names, each by what it grows with."""
    num, images, times, lengths = probe["num_samples"], facts["images"]["num"], probe["times"], probe["lengths"]
    noun = facts["images"]["noun"]
    parts = {part: linear_seconds(times[part], lengths[part]) for part in times} | {
        "distances": power_seconds(times["distances"], num),
        "surgery": surgery_seconds(probe | times, lengths["surgery"], images),
        "pictures": probe["pictures"],
    }
    if "exploration" in probe:
        parts["exploration"] = probe["exploration"]
    if "annealing" in probe:
        parts["annealing"] = probe["annealing"] * annealing_factor(probe["annealing_settings"])
    what = "bounds" if "bounds" in times else "costs"
    work = f"{num:,} samples, {what} of {probe['num_bounds']:,} {noun}, {images['train']:,} searched for copies"
    return Cost("evaluate", probe["files"], seconds=sum(parts.values()), work=work, parts=parts)


def power_seconds(times: Times, num: int) -> float:
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
    return linear_seconds(rest, num) + aggregates(num, counts)


def annealing_factor(asked: Mapping[str, Any] | None) -> float:
    """How many times the work of the probe's two images, and two simulated ones from both ends, is asked for."""
    if asked is None:
        return 1.0
    return (asked["num_images"] + 2 * asked["bdmc_images"]) / (2 + (4 if asked["bdmc_images"] else 0))
