"""The process that probes: it reads the images, or imagines them, and measures each stage in a fork of itself.

    python -m expost.plan.server JOB.json RESULT.json PROCESS

It ends with PROCESS, which waits for it, however that one ends.

A process of its own, because memory is counted from its start, and because what forks may not compute with threads.
"""

import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from expost.base.malloc import keep_freed_memory
from expost.costs.fork import Facts, Probed, available_bytes, end_with, forked, peak_bytes

SPARE, MAX_STEP_SECONDS = 0.8, 2.0
"""Share of the free memory, and time, that one step of a probe may take."""
FEW = 8
"""Images of the first steps, which may be large."""


def main() -> int:
    end_with(int(sys.argv[3]))
    told, result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    from expost.base.terminal import be_quiet
    from stage1_vae.errors import ExpostError

    be_quiet()
    keep_freed_memory()  # as the process that does the stages
    try:
        scratch = result.with_name("scratch")  # of the command that waits for this process, and removes it
        scratch.mkdir()
        facts = probed(told, scratch, threads, lambda work: forked(work, threads, (ExpostError,)))
    except ExpostError as error:
        facts = {"mistake": str(error)}
    result.write_text(json.dumps(facts), encoding="utf-8")
    return 0


def probed(told: Facts, scratch: Path, threads: int, fork: Callable[[Callable[[], Facts]], Probed]) -> Facts:
    """Everything that is measured; see `expost.costs.costs` for what becomes of it.

    Raises:
        UserError, DataError, PriorError, EvaluationError, TrainingError: what the user has to mend.
    """
    from expost.base.command import Command
    from expost.config.schema import Config
    from expost.job import Run
    from expost.parts.assembly import assemble, read_images
    from expost.parts.dataset import dataset_line
    from expost.plan.command import TAKEN
    from expost.plan.evaluation import probe_evaluation, probe_features
    from expost.plan.facts import cached, facts_of
    from expost.plan.inputs import Reading, imagined
    from expost.plan.prior import probe_prior
    from expost.plan.stages import Probing, imagine_inputs, probe_encode, probe_vae
    from expost.store.artifacts import Store

    started = time.perf_counter()
    config = Config.model_validate(told["config"])
    command = Command(choices=told["choices"], overrides=tuple(told["overrides"]))
    if config.logger.wandb:
        importlib.import_module("wandb")  # takes memory in every stage
    whole = Run(config, command, Store(config.paths.root / "store"), quiet=True)
    imagines = config.plan.num_images is not None or config.plan.image_shape is not None
    if imagines:
        data, reading = imagined(config, scratch / "images")
        job, parts = assemble(whole, given=data)
    else:
        data = read_images(whole)
        print(f"{TAKEN}{dataset_line(data)}", flush=True)
        job, parts = assemble(whole, given=data)
        reading = Reading(time.perf_counter() - started, 0, "read, and kept as training keeps them")
    config = job.config
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "progress": False}
    trainer = config.trainer.model_copy(update=alone)
    logger = config.logger.model_copy(update={"wandb": False})
    paths = config.paths.model_copy(update={"root": scratch})
    small = config.model_copy(update={"trainer": trainer, "logger": logger, "paths": paths, "upstream": "run"})
    rank_batch = config.trainer.batch_size // config.trainer.num_ranks
    probing = Probing(Run(small, command, Store(scratch / "store"), quiet=True), parts, scratch, rank_batch)
    base = peak_bytes()
    probes: dict[str, Probed] = {"vae": stage1(probing, fork, probe_vae)}
    latents = fork(lambda: imagine_inputs(probing)).facts
    probes["encode"] = fork(lambda: probe_encode(probing))
    probes["prior"] = fork(lambda: probe_prior(probing))
    probes["features"] = fork(lambda: probe_features(probing))
    probes["evaluate"] = fork(lambda: probe_evaluation(probing))
    return {
        "probes": {name: probe.facts | probe.circumstances for name, probe in probes.items()},
        "data": {"seconds": reading.seconds, "peak_bytes": base + reading.peak_bytes, "how": reading.how},
        "latent_rows": latents["rows"],
        "cached": [] if imagines else cached(job, parts),
        **facts_of(job, parts, threads),
        "seconds": time.perf_counter() - started,
    }


def stage1(probing: Any, fork: Callable[[Callable[[], Facts]], Probed], probe: Callable[..., Facts]) -> Probed:
    """Stage 1 at its batch size, or, where one step takes too much memory or time, at the largest half of it that fits.

    A few images tell what more of them would take; memory and time are a straight line over their number.
    """
    from expost.costs.watch import at

    batch_size = probing.rank_batch
    few = min(FEW, batch_size)
    low = fork(lambda: probe(probing, few, 0.0))
    seconds, room = low.facts["seconds_a_step"] / few, SPARE * available_bytes()
    grown = (low.facts["bytes_by_steps"] - low.start_bytes) / few
    fits = batch_size
    while fits > 2 * few and (grown * fits > room or seconds * fits > MAX_STEP_SECONDS):
        fits //= 2
    full = fork(lambda: probe(probing, fits, probing.enough))
    if fits == batch_size:
        return full
    an_image = max(0.0, (full.facts["bytes_by_steps"] - low.facts["bytes_by_steps"]) / (fits - few))
    by_steps = full.facts["bytes_by_steps"] + an_image * (batch_size - fits)
    a_step = at([(each.facts["batch_size"], each.facts["seconds_a_step"]) for each in (low, full)], batch_size)
    facts = full.facts | {"seconds_a_step": a_step, "step_size": batch_size}
    return replace(full, facts=facts, peak_bytes=max(full.peak_bytes, math.ceil(full.whole(by_steps))))


if __name__ == "__main__":
    sys.exit(main())
