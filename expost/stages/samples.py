"""Images or latents from a prior, streamed to disk: any number in bounded memory, the same bytes for the same seed.

Samples are drawn in blocks of a fixed size, each with a seed of its own, so that the first hundred of a thousand are
the same images as a run of a hundred.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expost.base.errors import UserError
from expost.config.schema import Config, Sample
from expost.forecast.notice import Expectation, sample_parts
from expost.job import Job
from expost.measure.subject import baseline_prior
from expost.parts.assembly import LatentParts, Parts
from expost.parts.decoding import image_blocks, vector_blocks
from expost.stages.delivery import DRAWN_LABELS, DRAWS
from expost.stages.making import Making, Stage
from expost.training.progress import bar
from expost.training.tracking import Tracker
from stage1_vae.data.labels import class_number
from stage1_vae.latents import Support
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Prior
from stage2_prior.sampling import Sampling

EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)
MOST_AT_ONCE, MOST_NUMBERS = 1000, 2**22
"""Latents drawn at once, and their numbers."""


def how_to_sample(settings: Sample) -> Sampling:
    """
    Raises:
        UserError: a number out of range.
    """
    try:
        return Sampling(**{knob.name: getattr(settings, knob.name) for knob in fields(Sampling)})
    except ValueError as error:
        raise UserError(str(error)) from error


def asked_class(settings: Sample, names: Sequence[str]) -> int | None:
    """The number of the class that `sample.label` names, which is one of `names`; None: all classes.

    Raises:
        DataError: there is no such class.
    """
    return None if settings.label is None else class_number(settings.label, names)


def knobs(settings: Sample, label: int | None) -> dict[str, Any]:
    """What is asked for beside plain samples of all classes; `label`: of `asked_class`."""
    how = how_to_sample(settings)
    asked = {knob: asdict(how)[knob] for knob in how.knobs}
    return asked if label is None else {"label": label, **asked}


def check_knobs(settings: Sample, prior: Prior, names: Sequence[str]) -> None:
    """Refuse what `prior` could not draw, before any work.

    Raises:
        UserError, DataError: naming the knob or the label.
    """
    label = None if settings.label is None else asked_class(settings, names) if prior.num_classes else 0
    asked = knobs(settings, label)
    if settings.prior == "base" and asked:
        raise UserError(f"sample.{next(iter(asked))} is for the learned prior; leave it out, or sample.prior=base")
    try:
        prior.check_sampling(how_to_sample(settings), label is not None)
        if label is not None:
            prior.check_labels(torch.tensor([label]))
    except PriorError as error:
        raise UserError(str(error)) from error


def needs(config: Config, parts: Parts) -> tuple[str, ...]:
    if isinstance(parts, LatentParts):
        return ("latents",) if config.sample.prior == "base" else ("prior",)
    return ("vae",) if config.sample.prior == "base" else ("vae", "prior")


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a sample."""
    settings = job.config.sample
    stage1 = {} if isinstance(parts, LatentParts) else {"vae": keys["vae"]}
    base: dict[str, Any] = {}
    if "prior" not in keys and isinstance(parts, LatentParts):
        computed = {"dependent": list(parts.data.dependent)} if parts.data.dependent else {}
        base = {"latents": keys["latents"], **computed}
    return {
        **stage1,
        **base,
        "prior": keys.get("prior", "base"),
        "num": settings.num,
        "noise": settings.noise,
        "seed": job.config.seeds.sample,
        "version": 2,
        **knobs(settings, asked_class(settings, parts.data.class_names)),
    }


def draw_of(making: Making) -> Callable[[int], Tensor]:
    """Draws n latents as is asked from the learned prior, or from the one that stage 1 trained against."""
    parts = making.parts
    if "prior" not in making.inputs:
        if not isinstance(parts, LatentParts):
            return making.vae.trained_against.sample
        base = parts.beside_constants(baseline_prior).to(making.job.device)
        base.fit(making.latents("train"), making.latents("val"), making.job.fit_run(Tracker()))
        return base.sample
    settings, prior = making.job.config.sample, making.prior
    label, how = asked_class(settings, making.parts.data.class_names), how_to_sample(settings)
    if label is None:
        return partial(prior.sample, how=how)
    return lambda n: prior.sample(n, torch.full((n,), label), how)


def write_latents(making: Making) -> Mapping[str, Any]:
    """`latents.npy`, block by block, and `labels.npy` where one class was asked for."""
    job, parts, settings = making.job, making.parts, making.job.config.sample
    spec, draw = parts.spec, draw_of(making)
    dtype = spec.dtype("codes") if spec.support is Support.CODES else np.dtype(np.float32)
    size = max(1, min(MOST_AT_ONCE, MOST_NUMBERS // spec.num_dims))
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (settings.num, *spec.shape),
    }
    with (
        bar("sample", job.shows_progress, total=settings.num, unit="latent") as counter,
        (making.folder / DRAWS).open("wb") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for block, start in enumerate(range(0, settings.num, size)):
            with job.seeded(job.config.seeds.sample * 1_000_003 + block):
                z = draw(size)[: settings.num - start].cpu().numpy()
            file.write(np.ascontiguousarray(z, dtype).tobytes())
            counter.update(len(z))
    if (label := asked_class(settings, parts.data.class_names)) is not None:
        np.save(making.folder / DRAWN_LABELS, np.full(settings.num, label, np.int64))
    return {"num": settings.num}


def write_samples(making: Making) -> Mapping[str, Any]:
    """What was asked for, in the files of the artifact."""
    return write_latents(making) if isinstance(making.parts, LatentParts) else write_images(making)


def expected(making: Making) -> list[Expectation]:
    if isinstance(making.parts, LatentParts):
        return []
    settings, shape = making.job.config.sample, making.parts.of_images.data.shape
    return sample_parts(settings, shape, making.vae, draw_of(making))


def write_images(making: Making) -> Mapping[str, Any]:
    """`samples.npz` with `x`, uint8 (N, C, H, W), or float32 (N, D) of vectors, written block by block."""
    job, data, settings = making.job, making.parts.of_images.data, making.job.config.sample
    shape: tuple[int, ...] = data.shape if data.are_pictures else data.shape[-1:]
    kind, blocks_of = ("|u1", image_blocks) if data.are_pictures else ("<f4", vector_blocks)
    header = {"descr": kind, "fortran_order": False, "shape": (settings.num, *shape)}
    entry = zipfile.ZipInfo("x.npy", date_time=EPOCH_OF_ZIP)  # a fixed date: equal samples, equal bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    blocks = blocks_of(making.vae, draw_of(making), settings.num, settings.noise, job.config.seeds.sample, data)
    with (
        bar("sample", job.shows_progress, total=settings.num, unit="image") as counter,
        zipfile.ZipFile(making.folder / "samples.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(entry, "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.numpy().tobytes())
            counter.update(len(block))
    return {"num": settings.num}


STAGE = Stage(
    name="samples",
    typed="sample",
    needs=needs,
    ingredients=ingredients,
    make=write_samples,
    expected=expected,
)
