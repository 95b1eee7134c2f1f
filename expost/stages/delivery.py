"""Samples on their way to where the user wants them: checked before any work, written whole or not at all."""

import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from expost.base.errors import UserError
from expost.config.schema import Sample
from expost.job import Job
from expost.parts.assembly import LatentParts, Parts
from expost.store.artifacts import Artifact
from expost.store.manifest import is_litter
from stage1_vae.data.labels import class_values
from stage1_vae.data.latents.data import LatentData
from stage1_vae.data.latents.writing import write_draws
from stage1_vae.files.npy import map_array

FILE_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".zip", ".pt", ".safetensors")
"""Endings that name a file, and none that images are written to."""
LATENT_SUFFIXES = (".npz", ".npy", ".safetensors")
MARK = b"samples written by expost"
"""The comment of a delivered archive begins so: such a file may be replaced by other samples."""
ROWS_AT_ONCE = 4096
DRAWS, DRAWN_LABELS = "latents.npy", "labels.npy"
"""Files of stored samples of latents: as ours are, [N, *shape], and int64 [N] where one class was asked for."""


def check_destination(settings: Sample, data_root: Path | None, are_latents: bool = False) -> None:
    """Refuse an output that could not be written or that would replace what others made, before any work.

    Args:
        settings: of the samples.
        data_root: the file or folder that the data are read from, if any.
        are_latents: samples are no images.

    Raises:
        UserError: it has no name, is something else already, or its folder does not exist or cannot be written.
    """
    if (out := settings.out) is None:
        return
    place = out.expanduser().absolute()
    if not out.name:
        raise UserError(f"sample.out={out} has no name; give {_kinds(are_latents)}")
    if are_latents and place.suffix.lower() not in LATENT_SUFFIXES:
        raise UserError(f"sample.out={out}: samples of latents are no images; give {_kinds(are_latents)}")
    if data_root is not None and endangers(place, data_root.expanduser().absolute()):
        raise UserError(f"sample.out={out} lies where data.root={data_root} is read from; give another place")
    if are_latents or _is_npz(place):
        _check_file(out, place, settings.overwrite, are_latents)
    else:
        _check_folder(out, place, settings.overwrite)
    parent = place.parent
    if not parent.is_dir():
        raise UserError(f"sample.out={out}: the folder {parent} does not exist; create it or choose another")
    try:
        new_file(place if place.is_dir() else parent).unlink()
    except OSError as error:
        raise UserError(f"sample.out={out}: cannot write to {parent}: {error.strerror}; choose another") from error


def _kinds(are_latents: bool) -> str:
    return "FILE.npz, FILE.npy or FILE.safetensors" if are_latents else "FILE.npz, or a folder for PNG files"


def _is_npz(place: Path) -> bool:
    return place.suffix.lower() == ".npz"


def new_file(folder: Path) -> Path:
    """An empty file of a name that nobody has, with the mode that the umask gives; `tempfile` makes private ones.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / f".expost-{uuid.uuid4().hex}.part"
    path.touch(exist_ok=False)
    return path


def endangers(place: Path, data_root: Path) -> bool:
    """Whether writing to `place` changes the images in `data_root`: those files, or pictures among them."""
    if not data_root.exists():
        return False
    place, data_root = place.resolve(), data_root.resolve()
    if place.exists() and place.samefile(data_root):
        return True
    is_beside = data_root.is_dir() and place.is_relative_to(data_root)
    return is_beside and (not _is_npz(place) or place.exists())


def _check_file(out: Path, place: Path, overwrite: bool, are_latents: bool) -> None:
    if place.is_dir():
        other = "" if are_latents else ", or a folder without that ending"
        raise UserError(f"sample.out={out} is a folder; give another FILE{place.suffix}{other}")
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


def mark(names: Sequence[str]) -> bytes:
    """The comment of a delivered archive of these members and no others; of images, as it always was."""
    return MARK if set(names) <= {"x.npy", "label.npy"} else MARK + f": {', '.join(sorted(names))}".encode()


def is_ours(path: Path) -> bool:
    """Whether `deliver` wrote the file: samples alone, and its mark on them."""
    try:
        if not path.is_file():
            return False
        with zipfile.ZipFile(path) as archive:
            return archive.comment == mark(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def deliver(job: Job, parts: Parts, artifact: Artifact) -> None:
    """Put the stored samples where the user wants them: images as an .npz file or a folder of PNG files, latents in a
    file like the one that they came from.

    Raises:
        UserError: the destination cannot be written.
    """
    out, are_latents = job.config.sample.out, isinstance(parts, LatentParts)
    suffix = parts.data.style.suffix if isinstance(parts, LatentParts) else ".npz"
    target = job.folder / f"samples{suffix}" if out is None else out.expanduser()
    try:
        if isinstance(parts, LatentParts):
            deliver_latents(parts.data, artifact.path, target)
        elif _is_npz(target):
            with _whole(target) as scratch:
                shutil.copyfile(artifact.path / "samples.npz", scratch)
        else:
            target.mkdir(exist_ok=True)
            write_pngs(artifact.path / "samples.npz", target)
    except OSError as error:
        raise UserError(f"sample.out={target}: {error.strerror}; choose another") from error
    job.say("samples", f"{job.config.sample.num} {'latents' if are_latents else 'images'}: {target}")


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A scratch file that takes the place of `target` after the block, an archive with the mark."""
    scratch = new_file(target.parent)
    scratch = scratch.rename(scratch.with_name(scratch.name + target.suffix))
    try:
        yield scratch
        if _is_npz(target):
            with zipfile.ZipFile(scratch, "a") as archive:
                archive.comment = mark(archive.namelist())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def deliver_latents(data: LatentData, folder: Path, target: Path) -> None:
    """Write the stored draws in `folder` as the user's own files hold latents.

    Raises:
        DataError: the file's kind of numbers cannot hold a draw.
        OSError: it cannot be written.
    """
    draws = map_array(folder / DRAWS)
    labels = None
    if (folder / DRAWN_LABELS).exists():
        labels = class_values(data.class_names)[map_array(folder / DRAWN_LABELS)]
    starts = range(0, len(draws), ROWS_AT_ONCE)
    blocks = (torch.from_numpy(np.array(draws[start : start + ROWS_AT_ONCE])) for start in starts)
    with _whole(target) as scratch:
        write_draws(scratch, blocks, len(draws), data.style, labels)


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
