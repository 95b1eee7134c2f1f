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
from torch import Tensor
from torch.nn import functional as F

from expost.base.errors import UserError
from expost.config.build import target_class
from expost.config.schema import Config, Plan
from expost.costs.fork import available_bytes
from stage1_vae.data.folders.files import Files, Target
from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import Domain, ImageData, ImageSet, InMemory
from stage1_vae.data.splits import fits_in_memory

NUM_FILES = 256
MIN_PICTURES, PICTURED_VALUES = 16, 2**22
"""Of them so many differ that they hold so many values when decoded; noise takes its time."""
KINDS = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_HELD_OUT = 10_000


@dataclass(frozen=True)
class Reading:
    """What it costs to open the data set.

    Attributes:
        seconds: to find, check and, where they fit, decode the images.
        peak_bytes: of Python objects meanwhile; 0 where it was measured with the process.
        how: in words.
    """

    seconds: float
    peak_bytes: int
    how: str


def imagined(config: Config, folder: Path) -> tuple[ImageData, Reading]:
    """The data set that `plan.num_images` and `plan.image_shape` describe, and what opening it would cost.

    Raises:
        UserError: only one of the two is given, or its images cannot be held as the data source holds them.
    """
    plan = config.plan
    if plan.num_images is None or plan.image_shape is None:
        raise UserError("plan.num_images and plan.image_shape belong together; give both, or neither")
    held_out = min(MAX_HELD_OUT, max(2, plan.num_images // 10))
    counts = {"train": plan.num_images, "val": plan.num_val or held_out, "test": plan.num_test or held_out}
    num_bytes = sum(counts.values()) * math.prod(plan.image_shape)
    limit = config.data.get("memory_limit_gib")
    in_files = issubclass(target_class(config.data), ImageFolder)
    if limit is None or fits_in_memory(num_bytes, limit):
        sets, reading = _in_memory(counts, plan, folder if in_files else None)
    elif in_files:
        sets, reading = _in_files(counts, plan, folder)
    else:
        raise UserError(
            f"{num_bytes / 2**30:.0f} GiB of images do not fit in data.memory_limit_gib={limit}; "
            "plan with data=image_folder, which reads them from disk"
        )
    classes = tuple(str(number) for number in range(plan.num_classes))
    data = ImageData(
        name=f"{plan.num_images:,} imagined images",
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
        shape=plan.image_shape,
        levels=256,
        domain=Domain.UNIT,
        num_classes=len(classes),
        class_names=classes,
        fingerprint="imagined",
    )
    return data, reading


def _labels(num: int, plan: Plan) -> Tensor | None:
    return torch.arange(num) % plan.num_classes if plan.num_classes else None


def _in_memory(counts: dict[str, int], plan: Plan, folder: Path | None) -> tuple[dict[str, ImageSet], Reading]:
    """Tensors at their full size; `folder`: they come from files, which take time to decode."""
    assert plan.image_shape is not None
    num_bytes = sum(counts.values()) * math.prod(plan.image_shape)
    if num_bytes > (free := available_bytes()) / 2:
        raise UserError(
            f"these images are held in memory, {num_bytes / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free here; "
            "plan with data=image_folder, which reads them from disk"
        )
    few = torch.from_numpy(smooth_noise(num_pictures(plan.image_shape), plan.image_shape))
    sets: dict[str, ImageSet] = {}
    for split, num in counts.items():
        images = torch.empty((num, *plan.image_shape), dtype=torch.uint8)
        for start in range(0, num, len(few)):
            images[start : start + len(few)] = few[: num - start]
        sets[split] = InMemory(images, _labels(num, plan))
    if folder is None:
        return sets, Reading(0.0, 0, "held in memory")
    write_files(folder, plan.image_shape)
    seconds, peak = _opened(folder, memory_limit_gib=math.inf)
    return sets, Reading(seconds * sum(counts.values()), round(peak * sum(counts.values())), "decoded into memory")


def _in_files(counts: dict[str, int], plan: Plan, folder: Path) -> tuple[dict[str, ImageSet], Reading]:
    """A few files under as many names as there are images."""
    assert plan.image_shape is not None
    channels, height, width = plan.image_shape
    paths = write_files(folder, plan.image_shape)
    target = Target(KINDS[channels], (height, width))
    sets: dict[str, ImageSet] = {
        split: Files([Path(paths[i % len(paths)]) for i in range(num)], target, _labels(num, plan))
        for split, num in counts.items()
    }
    seconds, peak = _opened(folder, memory_limit_gib=0.0)
    num_images = sum(counts.values())
    return sets, Reading(seconds * num_images, round(peak * num_images), "read from files, batch by batch")


def num_pictures(shape: tuple[int, int, int]) -> int:
    return max(MIN_PICTURES, min(NUM_FILES, PICTURED_VALUES // math.prod(shape)))


def _opened(folder: Path, memory_limit_gib: float) -> tuple[float, float]:
    """Seconds and bytes of Python objects that one image file costs when its folder is opened."""
    source = ImageFolder(str(folder), memory_limit_gib=memory_limit_gib)
    source.load()
    started = time.perf_counter()
    source.load()
    seconds = time.perf_counter() - started
    tracemalloc.start()
    source.load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds / NUM_FILES, peak / NUM_FILES  # tensors are not traced: they are there, and counted, already


def write_files(folder: Path, shape: tuple[int, int, int]) -> list[str]:
    """`NUM_FILES` image files of `shape` (C, H, W): JPEG, or PNG where there is an alpha channel.

    Raises:
        UserError: image files have no such number of channels.
    """
    if shape[0] not in KINDS:
        raise UserError(f"plan.image_shape={list(shape)}: image files have 1, 3 or 4 channels, which come first")
    folder.mkdir()
    paths = [str(folder / f"{i:04d}{'.png' if shape[0] == 4 else '.jpg'}") for i in range(NUM_FILES)]
    pictures = smooth_noise(num_pictures(shape), shape)
    for path, pixels in zip(paths, pictures, strict=False):
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0).squeeze())).save(path, quality=90)
    for i in range(len(pictures), NUM_FILES):
        os.link(paths[i % len(pictures)], paths[i])
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
