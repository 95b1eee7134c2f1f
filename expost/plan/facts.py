"""What is known of a run before it: its machine, its images, the sizes of its models, and what is stored already."""

import os
import platform

import torch

from expost import pipeline
from expost.costs.fork import Facts, available_bytes
from expost.job import Run
from expost.parts.assembly import Parts
from expost.parts.decoding import block_size
from expost.parts.identity import accelerator
from expost.training.devices import resolved_precision
from stage1_vae.data.images import InMemory
from stage1_vae.data.splits import SPLITS
from stage1_vae.latents.dataset import PARAMETERS


def facts_of(run: Run, parts: Parts, threads: int) -> Facts:
    """Plain JSON."""
    data, spec, settings = parts.data, parts.vae.spec, run.config.evaluation
    return {
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "threads": threads,
            "device": run.device.type if run.device.type == "cpu" else accelerator(),
            "precision": resolved_precision(run.config.trainer),
            "prior_precision": run.fit_settings.get("precision"),
            "available_bytes": available_bytes(),
            "load": os.getloadavg()[0],
            "torch": torch.__version__,
        },
        "images": {
            "name": data.name,
            "shape": list(data.shape),
            "num": {split: len(getattr(data, split)) for split in SPLITS},
            "in_memory": isinstance(data.train, InMemory),
            "labelled": data.num_classes > 0,
        },
        "models": {
            "vae_parameters": sum(p.numel() for p in parts.vae.parameters()),
            "latent_shape": list(spec.shape),
            "latent_params": {name: spec.dtype(name).itemsize for name in PARAMETERS[parts.vae.bottleneck.family]},
            "prior_in_ranks": parts.prior.fits_in_ranks,
            "block": block_size(data.shape),
        },
        "evaluation": {
            "num_bounds": min(settings.num_bound_images, len(data.test)),
            "annealing": settings.annealing and settings.annealing.model_dump(),
        },
    }


def cached(run: Run, parts: Parts) -> list[str]:
    """The stages whose output is in the store already."""
    found = pipeline.keys("evaluation", run, parts)
    typed = {"latents": "encode", "evaluation": "evaluate"}
    places = {name: run.store.root / pipeline.STAGES[name].place / key for name, key in found.items()}
    return [typed.get(name, name) for name, place in places.items() if place.is_dir()]
