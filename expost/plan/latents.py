"""Latents that come from elsewhere, in small: those that are only talked of, and what copying them costs.

Where they are there, later probes work on some of them; where they are only talked of, on noise.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expost.base.errors import UserError
from expost.config.schema import Config
from expost.forecast.timing import seconds_of
from expost.parts.assembly import LatentParts
from expost.plan.costs import Facts
from expost.plan.inputs import Opening, held_out
from expost.plan.probe import Probing
from expost.plan.stages import MAX_LATENT_BYTES, NOISE_ROWS, imagine_params, latents_of, lengthen_latents
from stage1_vae.data.latents.data import LatentData, LatentStyle
from stage1_vae.data.latents.source import Latents
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.latents.spec import DerivedColumn
from stage1_vae.rows import spread_rows

READ_NUMBERS, COPIED_NUMBERS = 2**23, 2**20
"""Numbers of latents in the file whose reading is timed, and of the first that are copied."""


def imagine_latents(config: Config, folder: Path) -> tuple[LatentData, Opening]:
    """The latents that `plan.num_images` and `plan.image_shape` describe, and what reading them would cost.

    Raises:
        UserError: only one of the two is given, or no latent has such a shape.
    """
    plan = config.plan
    if plan.num_images is None or plan.image_shape is None:
        raise UserError("plan.num_images and plan.image_shape belong together; give both, or neither")
    spec, family = imagine_spec(config)
    params = imagine_params(spec, family)

    def column(values: np.ndarray, num: int) -> DerivedColumn:
        """`num` rows that repeat those of `values`."""

        def read(rows: Any) -> np.ndarray:
            numbers = np.arange(*rows.indices(num)) if isinstance(rows, slice) else np.asarray(rows)
            return values[numbers % NOISE_ROWS]

        return DerivedColumn((num, *spec.shape), read)

    def imagine(num: int) -> LatentDataset:
        labels = torch.arange(num) % plan.num_classes if plan.num_classes else None
        return LatentDataset(spec, family, {name: column(values, num) for name, values in params.items()}, labels)

    first = next(iter(params))
    data = LatentData(
        f"{plan.num_images:,} imagined latents",
        *(imagine(num) for num in (plan.num_images, *held_out(plan))),
        class_names=tuple(map(str, range(plan.num_classes))),
        fingerprint="imagined",
        style=LatentStyle(first, str(params[first].dtype), spec.shape),
    )
    return data, time_reading(params, folder, sum(map(len, data.splits.values())), spec.num_dims)


def imagine_spec(config: Config) -> tuple[LatentSpec, str]:
    """What one of them is, and the family of its posterior.

    Raises:
        UserError: no latent has the shape that was given.
    """
    shape, codes, num_classes = config.plan.image_shape or (), config.data.get("num_codes"), config.plan.num_classes
    if isinstance(codes, int) and len(shape) < 3:
        height, width = (1, *shape)[-2:]
        spec = LatentSpec((height * width,), Support.CODES, ((height, width),), (codes,), num_classes=num_classes)
        return spec, "codes"
    if codes is not None or len(shape) not in (1, 3):
        raise UserError(
            f"plan.image_shape={list(shape)}: with data=latents it is [16] of vectors or [4,32,32] of maps, each with "
            "means and standard deviations; with one number for data.num_codes, [64] or [16,16] of codes"
        )
    return LatentSpec(shape, num_classes=num_classes), "diagonal_normal"


def time_reading(params: dict[str, np.ndarray], folder: Path, num: int, dims: int) -> Opening:
    """What it costs to look through `num` such latents and to hash them, by those of one .npz file."""
    rows = max(16, min(num, READ_NUMBERS // dims))
    folder.mkdir()
    path = folder / "latents.npz"
    repeats = -(-rows // NOISE_ROWS)
    np.savez(path, **{name: np.concatenate([values] * repeats)[:rows] for name, values in params.items()})  # type: ignore[arg-type]
    source = Latents(str(path), axes="NCHW" if params[next(iter(params))].ndim == 4 else None)
    source.load()
    seconds = seconds_of(source.load)
    path.unlink()
    return Opening(seconds * num / rows, 0, "looked through, and read in blocks")


def keep_few(probing: Probing) -> Facts:
    """Write what later stages read: all latents, or as many as there may be; how many there are of each split."""
    data, rows = probing.parts.data, {}
    assert isinstance(data, LatentData)
    for split, latents in data.splits.items():
        rows[split] = num = min(len(latents), max(1000, MAX_LATENT_BYTES // latents.row_bytes))
        folder = latents_of(probing).path / split
        folder.mkdir(parents=True)
        few = latents if num == len(latents) else latents.take(spread_rows(len(latents), num))
        few.save(folder)
    return rows


def probe_copy(probing: Probing) -> Facts:
    """Copying some blocks of the training latents; the files of all of them to the byte."""
    parts = probing.parts
    assert isinstance(parts, LatentParts)
    data = parts.data

    def few(num: int) -> LatentParts:
        some = replace(
            data, train=first_rows(data.train, num), val=first_rows(data.val, 1), test=first_rows(data.test, 1)
        )
        return replace(parts, data=some)

    return lengthen_latents(probing, few, max(2, COPIED_NUMBERS // data.spec.num_dims))


def first_rows(latents: LatentDataset, num: int) -> LatentDataset:
    """The first `num`, read as all of them are."""
    num = min(num, len(latents))

    def column(values: Any) -> DerivedColumn:
        def read(rows: Any) -> np.ndarray:
            block: np.ndarray = values[slice(*rows.indices(num)) if isinstance(rows, slice) else rows]
            return block

        return DerivedColumn((num, *values.shape[1:]), read)

    labels = None if latents.labels is None else latents.labels[:num]
    return LatentDataset(latents.spec, latents.family, {n: column(v) for n, v in latents.params.items()}, labels)
