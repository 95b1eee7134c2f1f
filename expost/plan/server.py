"""The process that probes: it reads the images, or imagines them, and measures each stage in a fork of itself.

    python -m expost.plan.server JOB.json RESULT.json PROCESS

It ends with PROCESS, which waits for it, however that one ends.

A process of its own, because memory is counted from its start, and because what forks may not compute with threads.
"""

import importlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from expost import pipeline
from expost.base.command import Command
from expost.base.runtime import keep_freed_memory
from expost.base.terminal import be_quiet
from expost.config.build import target_class
from expost.config.schema import Config
from expost.forecast.timing import linear_seconds
from expost.job import Job
from expost.parts.assembly import ImageParts, Parts, assemble, read_data
from expost.parts.dataset import dataset_line
from expost.parts.identity import accelerator
from expost.plan.command import DATA_LINE
from expost.plan.costs import Facts
from expost.plan.evaluation import probe_evaluation, probe_features
from expost.plan.inputs import Opening, imagine_images
from expost.plan.latent_evaluation import probe_latent_evaluation
from expost.plan.latents import imagine_latents, keep_few, probe_copy
from expost.plan.probe import Probed, Probing, change, end_with, measure_in_fork, peak_bytes, resident_bytes
from expost.plan.stages import imagine_inputs, probe_calibration, probe_encode, probe_prior, probe_vae
from expost.stages.check import check_all, check_request
from expost.store.artifacts import Store
from expost.training.devices import resolved_precision
from stage1_vae.data.images import Data
from stage1_vae.data.latents.source import Latents
from stage1_vae.data.splits import SPLITS
from stage1_vae.errors import ExpostError
from stage1_vae.external.autoencoder import External
from stage1_vae.external.weights import tensors
from stage1_vae.machine import available_bytes, flushed_denormals

SPARE, MAX_STEP_SECONDS = 0.8, 2.0
"""Share of the free memory, and time, that one step of a probe may take."""
FEW = 8
"""Images of the first steps, which may be large."""
PROBES: dict[str, Callable[[Probing], Facts]] = {
    "encode": probe_encode,
    "prior": probe_prior,
    "features": probe_features,
    "evaluate": probe_evaluation,
}
LATENT_PROBES: dict[str, Callable[[Probing], Facts]] = {
    "encode": probe_copy,
    "prior": probe_prior,
    "evaluate": probe_latent_evaluation,
}


def main() -> int:
    end_with(int(sys.argv[3]))
    job, result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    be_quiet()
    keep_freed_memory()  # as the process that does the stages
    try:
        scratch = result.with_name("scratch")  # of the command that waits for this process, and removes it
        scratch.mkdir()
        facts = probe_all(job, scratch, threads)
    except ExpostError as error:
        facts = {"mistake": str(error)}
    result.write_text(json.dumps(facts), encoding="utf-8")
    return 0


@flushed_denormals()  # as stages are made
def probe_all(job: Facts, scratch: Path, threads: int) -> Facts:
    """Everything that is measured; see `expost.plan.costs` for what becomes of it.

    Raises:
        ExpostError: what the user has to mend.
    """
    started = time.perf_counter()
    config = Config.model_validate(job["config"])
    if config.logger.wandb:
        importlib.import_module("wandb")  # takes memory in every stage
    command = Command(choices=job["choices"], overrides=tuple(job["overrides"]))
    whole = Job(config, command, Store(config.paths.root / "store"), quiet=True)
    data: Data
    imagines = config.plan.num_images is not None or config.plan.image_shape is not None
    if imagines:
        of_latents = issubclass(target_class(config.data), Latents)
        data, opening = (imagine_latents if of_latents else imagine_images)(config, scratch / "images")
        whole, parts = assemble(whole, given=data)
    else:
        data = read_data(whole)
        print(f"{DATA_LINE}{dataset_line(data)}", flush=True)
        whole, parts = assemble(whole, given=data)
        opening = Opening(time.perf_counter() - started, 0, "read, and kept as training keeps them")
    measure_in_fork(partial(check, whole, parts), threads)  # whose memory is none of the stages'
    probing, base = make_small(whole, parts, scratch), peak_bytes()
    probes, latent_rows = (
        probe_images(probing, threads) if isinstance(parts, ImageParts) else probe_latents(probing, threads)
    )
    return {
        "probes": {
            stage: probe.facts | {"peak_bytes": probe.peak_bytes, "seconds_probed": probe.seconds}
            for stage, probe in probes.items()
        },
        "data": {"seconds": opening.seconds, "peak_bytes": base + opening.peak_bytes, "how": opening.how},
        "latent_rows": latent_rows,
        "cached": [] if imagines else stored_stages(whole, parts),
        "machine": describe_machine(whole, threads),
        "images": {
            "name": data.name,
            "noun": "images" if isinstance(parts, ImageParts) else "latents",
            "shape": list(parts.data.shape if isinstance(parts, ImageParts) else parts.spec.shape),
            "num": {split: len(getattr(data, split)) for split in SPLITS},
        },
        "models": {
            "vae_parameters": num_weights(parts),
            "latent_dims": parts.spec.num_dims,
            "prior_in_ranks": parts.prior.fits_in_ranks,
        },
        "seconds": time.perf_counter() - started,
    }


def check(job: Job, parts: Parts) -> Facts:
    """What the run would refuse.

    Raises:
        UserError: see `check_request` and `check_all`.
    """
    check_request(job)
    check_all(job, parts)
    return {}


def probe_images(probing: Probing, threads: int) -> tuple[dict[str, Probed], Facts]:
    """By stage what was probed, of a job with images; and how many latents of each split stood for all."""
    if probing.images.frozen is None:
        probes = {"vae": probe_largest_batch(probing, threads)}
    else:
        probes = {"vae": measure_in_fork(partial(probe_calibration, probing), threads)}
    latent_rows = measure_in_fork(partial(imagine_inputs, probing), threads).facts
    return probes | {
        stage: measure_in_fork(partial(probe, probing), threads) for stage, probe in PROBES.items()
    }, latent_rows


def probe_latents(probing: Probing, threads: int) -> tuple[dict[str, Probed], Facts]:
    """The same of a job whose latents come from elsewhere."""
    latent_rows = measure_in_fork(partial(keep_few, probing), threads).facts
    return {
        stage: measure_in_fork(partial(probe, probing), threads) for stage, probe in LATENT_PROBES.items()
    }, latent_rows


def num_weights(parts: Parts) -> int:
    """Numbers that stage 1 holds, its own or somebody else's."""
    if not isinstance(parts, ImageParts):
        return 0
    if isinstance(parts.vae, External):
        return sum(values.numel() for values in tensors(parts.vae.caller.model).values())
    return sum(values.numel() for values in parts.vae.parameters())


def make_small(whole: Job, parts: Parts, scratch: Path) -> Probing:
    """The job as probes run it: alone, below a root of its own, and silent."""
    trainer = whole.config.trainer
    small = change(whole, "trainer", devices=1, num_nodes=1, strategy="auto", progress=False)
    small = change(change(small, "logger", wandb=False), "paths", root=scratch)
    small = replace(small, config=small.config.model_copy(update={"upstream": "run"}))
    return Probing(small, parts, scratch, trainer.batch_size // trainer.num_ranks)


def probe_largest_batch(probing: Probing, threads: int) -> Probed:
    """Stage 1 at its batch size, or, where one step takes too much memory or time, at the largest half of it that fits.

    A few images tell what more of them would take; memory and time are a straight line over their number.
    """
    few = min(FEW, probing.rank_batch)
    low = measure_in_fork(partial(probe_vae, probing, few, 0.0), threads)
    seconds, num_bytes = low.facts["seconds_a_step"] / few, low.facts["grown_bytes"] / few
    size, room = probing.rank_batch, SPARE * available_bytes()
    while size > 2 * few and (num_bytes * size > room or seconds * size > MAX_STEP_SECONDS):
        size //= 2
    full = measure_in_fork(partial(probe_vae, probing, size, probing.enough), threads)
    if size == probing.rank_batch:
        return full
    steps, growths = (
        [(probe.facts["batch_size"], probe.facts[name]) for probe in (low, full)]
        for name in ("seconds_a_step", "grown_bytes")
    )
    facts = full.facts | {"seconds_a_step": linear_seconds(steps, probing.rank_batch), "step_size": probing.rank_batch}
    peak = resident_bytes() + math.ceil(linear_seconds(growths, probing.rank_batch))
    return replace(full, facts=facts, peak_bytes=max(full.peak_bytes, peak))


def describe_machine(job: Job, threads: int) -> Facts:
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "threads": threads,
        "device": job.device.type if job.device.type == "cpu" else accelerator(),
        "precision": resolved_precision(job.config.trainer),
        "available_bytes": available_bytes(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }


def stored_stages(job: Job, parts: Parts) -> list[str]:
    """The stages whose output is in the store already."""
    recipes = pipeline.recipes("evaluation", job, parts, {})
    names = [recipe.name for recipe in recipes if recipe.artifact(job.store).path.is_dir()]
    typed = {"vae": "vae", "latents": "encode", "prior": "prior", "features": "features", "evaluation": "evaluate"}
    return [typed[name] for name in names if name in typed]


if __name__ == "__main__":
    sys.exit(main())
