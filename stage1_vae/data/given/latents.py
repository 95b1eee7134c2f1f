"""Latents that somebody has, read as those were that a prior was fitted to: all of a file or folder, in their order."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from stage1_vae.data.given.data import GivenLatents, existing_root, of_score
from stage1_vae.data.images import DataError
from stage1_vae.data.latents.assignment import Assigned
from stage1_vae.data.latents.columns import Stack
from stage1_vae.data.latents.data import LatentData
from stage1_vae.data.latents.shapes import Shapes
from stage1_vae.data.latents.source import Latents, column_of
from stage1_vae.data.latents.survey import digest_of
from stage1_vae.data.watched import Watched
from stage1_vae.latents import LatentDataset

WHAT = "a file or folder of latents, such as score.root=new.npz"
VERSION = 1
"""Of the fingerprint."""


def read_given_latents(source: Latents, root: str, like: LatentData) -> GivenLatents:
    """All latents of the file or folder `root`.

    Args:
        source: what read the latents that the prior was fitted to; its keys hold here too.
        root: of `score.root`.
        like: those latents.

    Raises:
        DataError: there are none, they cannot be read, or they are of another shape or kind.
    """
    path, began_ns = existing_root(root, WHAT), time.time_ns()
    try:
        return _read(source, path, like, began_ns)
    except DataError as error:
        raise of_score(error) from error


def _read(source: Latents, path: Path, like: LatentData, began_ns: int) -> GivenLatents:
    spec, family = like.spec, like.train.family
    sizes = list(spec.num_codes) if family == "codes" else None
    own = replace(source, root=str(path), label=False, label_column=None, groups=None, num_codes=sizes)
    found = own.find(path, has_train=False)
    kinds = tuple(next(iter(found.columns.values())))
    shapes = own.shapes(path, found, kinds)
    check_alike(path, shapes, like)
    end_to_end = {kind: Stack([part for of in found.columns.values() for part in of[kind].parts]) for kind in kinds}
    found.columns = {"all": end_to_end}
    facts = own.survey_all(found, shapes, kinds, {"train": Assigned("", None)})["all"]
    params = {
        name: column_of(found, "all", kind, reading, shapes.event, spec.dtype(name))
        for name, (kind, reading) in shapes.readings(kinds).items()
    }
    stack, base = end_to_end[kinds[0]], path if path.is_dir() else path.parent

    def place(row: int) -> tuple[str, int]:
        part = int(np.searchsorted(stack.ends, row, "right"))
        file, number = stack.parts[part].origin(row - (int(stack.ends[part - 1]) if part else 0))
        return os.path.relpath(file, base), number

    first = facts[next(iter(params))]
    return GivenLatents(
        path.name,
        place,
        digest_of(["given", str(VERSION), family, *(f"{name} {own.digest}" for name, own in facts.items())]),
        (first.smallest, first.largest),
        tuple(found.guesses),
        tuple(found.left_out),
        Watched(found.paths, began_ns).check,
        LatentDataset(replace(spec, num_classes=0), family, params, None, {"files": str(path)}),
    )


def check_alike(path: Path, shapes: Shapes, like: LatentData) -> None:
    """
    Raises:
        DataError: these latents are none of those that the prior was fitted to.
    """
    spec, family = like.spec, like.train.family
    if family != shapes.family:
        raise DataError(
            f"{path} holds {_words(shapes.family)}, and this prior was fitted to {_words(family)}: save them as those "
            "were"
        )
    if shapes.event != spec.shape or shapes.grids != spec.grids:
        own, theirs = (f"{'x'.join(map(str, one.shape if one is spec else shapes.event))}" for one in (spec, shapes))
        raise DataError(
            f"{path} holds latents of {theirs}, and this prior was fitted to latents of {own}: encode with the same "
            "encoder, and see data.axes and data.grids"
        )


def _words(family: str) -> str:
    """A family of posteriors."""
    words = {"diagonal_normal": "means with standard deviations", "delta": "points without standard deviations"}
    return words.get(family, family)
