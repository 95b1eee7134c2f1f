"""Images from a prior, streamed to disk: any number in bounded memory, the same bytes for the same seed.

Samples are drawn in blocks of a fixed size, each with a seed of its own, so that the first hundred of a thousand are
the same images as a run of a hundred.
"""

import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expost.base.errors import UserError
from expost.config.schema import Config, Sample
from expost.forecast.notice import sample_parts
from expost.job import Job
from expost.parts.assembly import Parts
from expost.parts.decoding import image_blocks
from expost.stages.making import Making, Stage
from expost.store.artifacts import Artifact
from expost.store.manifest import is_litter
from expost.training.progress import bar
from stage1_vae.data.labels import class_number
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Prior
from stage2_prior.sampling import Sampling

FILE_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".zip", ".pt")
"""Endings that name a file, and none that is written here."""
MARK = b"samples written by expost"
"""The comment of a delivered archive: such a file may be replaced by other samples."""
EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)


def check_destination(settings: Sample, data_root: Path | None) -> None:
    """Refuse an output that could not be written or that would replace what others made, before any work.

    Args:
        settings: of the samples.
        data_root: the file or folder that images are read from, if any.

    Raises:
        UserError: it has no name, is something else already, or its folder does not exist or cannot be written.
    """
    if (out := settings.out) is None:
        return
    place = out.expanduser().absolute()
    if not out.name:
        raise UserError(f"sample.out={out} has no name; give FILE.npz, or a folder for PNG files")
    if data_root is not None and _endangers(place, data_root.expanduser().absolute()):
        raise UserError(f"sample.out={out} lies where data.root={data_root} is read from; give another place")
    if _is_npz(place):
        _check_file(out, place, settings.overwrite)
    else:
        _check_folder(out, place, settings.overwrite)
    parent = place.parent
    if not parent.is_dir():
        raise UserError(f"sample.out={out}: the folder {parent} does not exist; create it or choose another")
    try:
        _new_file(place if place.is_dir() else parent).unlink()
    except OSError as error:
        raise UserError(f"sample.out={out}: cannot write to {parent}: {error.strerror}; choose another") from error


def _is_npz(place: Path) -> bool:
    return place.suffix.lower() == ".npz"


def _new_file(folder: Path) -> Path:
    """An empty file of a name that nobody has, with the mode that the umask gives; `tempfile` makes private ones.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / f".expost-{uuid.uuid4().hex}.part"
    path.touch(exist_ok=False)
    return path


def _endangers(place: Path, data_root: Path) -> bool:
    """Whether writing to `place` changes the images in `data_root`: those files, or pictures among them."""
    if not data_root.exists():
        return False
    place, data_root = place.resolve(), data_root.resolve()
    if place.exists() and place.samefile(data_root):
        return True
    return data_root.is_dir() and place.is_relative_to(data_root) and (not _is_npz(place) or place.exists())


def _check_file(out: Path, place: Path, overwrite: bool) -> None:
    if place.is_dir():
        raise UserError(f"sample.out={out} is a folder; give another FILE.npz, or a folder without that ending")
    if os.path.lexists(place) and not (overwrite or is_ours(place)):
        raise UserError(
            f"sample.out={out} is there already and does not carry this project's mark; give another name, "
            "or sample.overwrite=true to replace it"
        )


def _check_folder(out: Path, place: Path, overwrite: bool) -> None:
    if place.suffix.lower() in FILE_SUFFIXES or (os.path.lexists(place) and not place.is_dir()):
        raise UserError(f"sample.out={out} is neither FILE.npz nor a folder for PNG files; give one of them")
    if not place.is_dir() or overwrite:
        return
    found = [path for path in place.iterdir() if not is_litter(PurePosixPath(path.name))]
    if found:
        what = "pictures" if any(path.suffix.lower() == ".png" for path in found) else "files"
        raise UserError(
            f"sample.out={out} holds {what} already; empty it, give another folder, "
            "or sample.overwrite=true to write among them"
        )


def is_ours(path: Path) -> bool:
    """Whether `deliver` wrote the file: samples alone, and its mark on them."""
    try:
        if not path.is_file():
            return False
        with zipfile.ZipFile(path) as archive:
            return archive.comment == MARK and set(archive.namelist()) <= {"x.npy", "label.npy"}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def how_to_sample(settings: Sample) -> Sampling:
    """
    Raises:
        UserError: a number out of range.
    """
    try:
        return Sampling(settings.temperature, settings.top_k, settings.top_p, settings.guidance)
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
    return ("vae",) if config.sample.prior == "base" else ("vae", "prior")


def ingredients(job: Job, parts: Parts, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change a sample."""
    settings = job.config.sample
    return {
        "vae": keys["vae"],
        "prior": keys.get("prior", "base"),
        "num": settings.num,
        "noise": settings.noise,
        "seed": job.config.seeds.sample,
        "version": 2,
        **knobs(settings, asked_class(settings, parts.data.class_names)),
    }


def draw_of(making: Making) -> Callable[[int], Tensor]:
    """Draws n latents as is asked from the learned prior, or from the one that stage 1 trained against."""
    if "prior" not in making.inputs:
        return making.vae.trained_against.sample
    settings, prior = making.job.config.sample, making.prior
    label, how = asked_class(settings, making.parts.data.class_names), how_to_sample(settings)
    if label is None:
        return partial(prior.sample, how=how)
    return lambda n: prior.sample(n, torch.full((n,), label), how)


def write_samples(making: Making) -> Mapping[str, Any]:
    """`samples.npz` with `x`, uint8 (N, C, H, W), written block by block."""
    job, data, settings = making.job, making.parts.of_images.data, making.job.config.sample
    header = {"descr": "|u1", "fortran_order": False, "shape": (settings.num, *data.shape)}
    entry = zipfile.ZipInfo("x.npy", date_time=EPOCH_OF_ZIP)  # a fixed date: equal samples, equal bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    blocks = image_blocks(making.vae, draw_of(making), settings.num, settings.noise, job.config.seeds.sample, data)
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


def deliver(job: Job, artifact: Artifact) -> None:
    """Put the stored samples where the user wants them: an .npz file, or a folder of PNG files.

    Raises:
        UserError: the destination cannot be written.
    """
    samples, out = artifact.path / "samples.npz", job.config.sample.out
    target = job.folder / "samples.npz" if out is None else out.expanduser()
    try:
        if _is_npz(target):
            scratch = _new_file(target.parent)
            try:
                shutil.copyfile(samples, scratch)
                with zipfile.ZipFile(scratch, "a") as archive:
                    archive.comment = MARK
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
        else:
            target.mkdir(exist_ok=True)
            write_pngs(samples, target)
    except OSError as error:
        raise UserError(f"sample.out={target}: {error.strerror}; choose another") from error
    job.say("samples", f"{job.config.sample.num} images: {target}")


def write_pngs(samples: Path, folder: Path) -> None:
    """One PNG an image, read from the archive one after the other."""
    with zipfile.ZipFile(samples) as archive, archive.open("x.npy") as file:
        np.lib.format.read_magic(file)
        (num, channels, height, width), _, _ = np.lib.format.read_array_header_1_0(file)
        for i in range(num):
            pixels = np.frombuffer(file.read(channels * height * width), np.uint8).reshape(channels, height, width)
            to_picture(pixels).save(folder / f"{i:06d}.png")


def to_picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [C, H, W] as a grey, RGB or RGBA picture; any other number of channels as the grey of the first."""
    channels = len(pixels)
    if channels in (3, 4):
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return Image.fromarray(pixels[0])


STAGE = Stage(
    name="samples",
    typed="sample",
    needs=needs,
    ingredients=ingredients,
    make=write_samples,
    expected=lambda making: sample_parts(
        making.job.config.sample, making.parts.of_images.data.shape, making.vae, draw_of(making)
    ),
)
