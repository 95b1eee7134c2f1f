"""Images that are only talked of: a data set of any size that costs next to nothing, for stage=plan.

A set that would be held in memory is held in memory, at its full size, so that probes meet it as training will. One
that would be read from image files is read from image files: a few are written and stand for all. Their content is
noise of several wavelengths, which decodes about as fast as photographs of the same size.
"""

import math
import os
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from expost.base.errors import UserError
from expost.config.build import target_class
from expost.config.schema import Config, Plan
from stage1_vae.data.folders.files import Files, Target
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import Domain, ImageData, ImageSet, InMemory
from stage1_vae.data.splits import fits_in_memory
from stage1_vae.machine import available_bytes

NUM_FILES = 256
MIN_PICTURES, PICTURED_VALUES = 16, 2**22
"""Of them so many differ that they hold so many values when decoded; noise takes its time."""
KINDS = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_HELD_OUT = 10_000


@dataclass(frozen=True)
class Opening:
    """What it costs to open the data set.

    Attributes:
        seconds: to find, check and, where they fit, decode the images.
        peak_bytes: of Python objects meanwhile; 0 where it was measured with the process.
        how: in words.
    """

    seconds: float
    peak_bytes: int
    how: str


def imagine_images(config: Config, folder: Path) -> tuple[ImageData, Opening]:
    """The data set that `plan.num_images` and `plan.image_shape` describe, and what opening it would cost.

    Raises:
        UserError: only one of the two is given, or its images cannot be held as the data source holds them.
    """
    plan, shape = config.plan, config.plan.image_shape
    if plan.num_images is None or shape is None:
        raise UserError("plan.num_images and plan.image_shape belong together; give both, or neither")
    if len(shape) != 3:
        raise UserError(
            f"plan.image_shape={list(shape)}: an image is [channels,height,width]; vectors belong to data=latents"
        )
    counts = (plan.num_images, *held_out(plan))
    num, num_bytes = sum(counts), sum(counts) * math.prod(shape)
    limit, in_files = config.data.get("memory_limit_gib"), issubclass(target_class(config.data), ImageFolder)
    fits = limit is None or fits_in_memory(num_bytes, limit)
    if not fits and not in_files:
        raise UserError(
            f"{num_bytes / 2**30:.0f} GiB of images do not fit in data.memory_limit_gib={limit}; "
            "plan with data=image_folder, which reads them from disk"
        )
    if fits and num_bytes > (free := available_bytes()) / 2:
        raise UserError(
            f"these images are held in memory, {num_bytes / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free "
            "here; plan with data=image_folder, which reads them from disk"
        )
    pictures = smooth_noise(max(MIN_PICTURES, min(NUM_FILES, PICTURED_VALUES // math.prod(shape))), shape)
    paths = write_files(folder, pictures) if in_files else []

    def imagine(num: int) -> ImageSet:
        labels = torch.arange(num) % plan.num_classes if plan.num_classes else None
        if fits:
            return InMemory(torch.from_numpy(pictures).repeat(-(-num // len(pictures)), 1, 1, 1)[:num], labels)
        return Files([paths[i % NUM_FILES] for i in range(num)], Target(KINDS[shape[0]], shape[1:]), labels)

    train, val, test = map(imagine, counts)
    data = ImageData(
        name=f"{plan.num_images:,} imagined images",
        train=train,
        val=val,
        test=test,
        shape=shape,
        levels=256,
        domain=Domain.UNIT,
        class_names=tuple(map(str, range(plan.num_classes))),
        fingerprint="imagined",
    )
    return data, time_opening(folder, num, fits) if in_files else Opening(0.0, 0, "held in memory")


def held_out(plan: Plan) -> tuple[int, int]:
    """Images or latents of validation and of test."""
    default = min(MAX_HELD_OUT, max(2, (plan.num_images or 0) // 10))
    return plan.num_val or default, plan.num_test or default


def time_opening(folder: Path, num: int, decodes: bool) -> Opening:
    """What opening `num` such files as are in `folder` costs, where each is decoded into memory or read when needed."""
    source = ImageFolder(str(folder), memory_limit_gib=math.inf if decodes else 0.0)
    source.load()
    started = time.perf_counter()
    source.load()
    seconds = time.perf_counter() - started
    tracemalloc.start()
    source.load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    how = "decoded into memory" if decodes else "read from files, batch by batch"
    each = num / NUM_FILES
    return Opening(seconds * each, round(peak * each), how)  # tensors are not traced: they are there, and counted


def write_files(folder: Path, pictures: np.ndarray) -> list[Path]:
    """`NUM_FILES` image files of `pictures` [n, C, H, W]: JPEG, or PNG where there is an alpha channel.

    Raises:
        UserError: image files have no such number of channels.
    """
    shape = pictures.shape[1:]
    if shape[0] not in KINDS:
        raise UserError(f"plan.image_shape={list(shape)}: image files have 1, 3 or 4 channels, which come first")
    folder.mkdir()
    paths = [folder / f"{i:04d}{'.png' if shape[0] == 4 else '.jpg'}" for i in range(NUM_FILES)]
    for i, path in enumerate(paths):
        if i < len(pictures):
            Image.fromarray(np.ascontiguousarray(pictures[i].transpose(1, 2, 0).squeeze())).save(path, quality=90)
        else:
            os.link(paths[i % len(pictures)], path)
    return paths


def smooth_noise(num: int, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [num, C, H, W]: noise of several wavelengths, so that it compresses about as a photograph does."""
    generator = torch.Generator().manual_seed(0)
    height, width = shape[1:]
    images = np.empty((num, *shape), dtype=np.uint8)
    for i in range(num):
        total = torch.full((1, *shape), 0.5)
        for period in (32, 8, 2):
            coarse = torch.randn(1, shape[0], -(-height // period), -(-width // period), generator=generator)
            total += 0.02 * math.sqrt(period) * F.interpolate(coarse, size=(height, width), mode="bilinear")
        images[i] = total.clamp(0, 1).mul(255).byte().numpy()[0]
    return images
