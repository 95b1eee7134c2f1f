"""What one number of a latent is for: a test image decoded again and again, with that number alone changed.

Each dimension goes from the 0.5 % to the 99.5 % quantile of q(z) in it, so it never leaves what the decoder was trained
on; a bit is off or on. On the sphere the others shrink or grow together, so that the latent stays on it. Codes have no
order to go along.
"""

from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation.exploration.content import MOST_STEP_BYTES, STEPS, Traversal, Traversals
from expost.evaluation.exploration.sprites import save_sprite, thumbnails
from expost.evaluation.latents.axes import finite_rows
from expost.evaluation.latents.marginals import units
from expost.evaluation.latents.pictures import name_of
from expost.evaluation.sections import Dimensions
from expost.measure.bounds import carries_unchanged
from expost.measure.latents import blocks_of
from expost.measure.pictures import picture
from expost.measure.subject import ImageSubject
from stage1_vae.latents import Support
from stage1_vae.rows import spread_rows

MOST_DIMS, MOST_STARTS, NUM_STEPS = 32, 4, 11
MOST_PIXELS = 48
"""Of the longer side of a decoded image on the page."""
MEASURED = 4000
"""Draws of q(z) that say from where to where a dimension goes."""
LEAST, MOST = 0.005, 0.995
"""Quantiles of q(z) in a dimension: its ends."""


def traverse(subject: ImageSubject, found: Dimensions | None, folder: Path) -> tuple[Traversals, Tensor] | None:
    """The traversals of the active dimensions, their images in `folder`, and of the first start the decoded images
    [dims, steps, C, H, W] as they are; None where there is nothing to go along, or nothing to see.

    Args:
        subject: both stages.
        found: which dimensions are active, where somebody has looked already and has listed them.
        folder: the evaluation's.
    """
    spec = subject.train.spec
    if spec.support is Support.CODES or not subject.parts.data.are_pictures or carries_unchanged(subject.vae):
        return None
    active, order = active_dims(subject, found)
    dims = order[:MOST_DIMS]
    z = finite_rows(subject.train.draw(spread_rows(len(subject.train), MEASURED)))
    rows = spread_rows(len(subject.test), MOST_STARTS)
    starts = subject.test.draw(rows)
    is_finite = torch.isfinite(starts.flatten(1)).all(1)
    if not dims or not len(z) or not is_finite.any():
        return None
    starts, rows = starts[is_finite], rows[is_finite]
    values = values_of(z.flatten(1)[:, dims], spec.support)  # [dims, steps]
    changed = torch.stack([move(start, dims, values, spec.support) for start in starts])  # [starts, dims, steps, ...]
    shown: list[Tensor] = []
    small: list[Tensor] = []
    for block in subject.decode(changed.flatten(0, 2)):
        images = picture(block)
        if sum(map(len, shown)) < values.numel():
            shown.append(images)
        small.append(thumbnails(images, MOST_PIXELS))
    steps = save_sprite(torch.cat(small), folder / STEPS, MOST_STEP_BYTES)
    notes = []
    if len(dims) < active:
        notes.append(f"{len(dims)} of {active:,} active dimensions are shown: those whose posterior means vary most")
    traversals = Traversals(
        starts=tuple(start_name(subject, row) for row in rows.tolist()),
        dims=tuple(
            Traversal(name_of(dim, spec.shape), tuple(round(value, 3) for value in by_step))
            for dim, by_step in zip(dims, values.tolist(), strict=True)
        ),
        steps=steps,
        notes=tuple(notes),
    )
    return traversals, torch.cat(shown)[: values.numel()].unflatten(0, values.shape)


def active_dims(subject: ImageSubject, found: Dimensions | None) -> tuple[int, list[int]]:
    """How many dimensions are active, and their numbers: first those whose posterior means vary most."""
    if found is not None and found.active is not None and found.mean_variance is not None:
        active, variance = torch.tensor(found.active), torch.tensor(found.mean_variance, dtype=torch.float64)
    else:
        used = units(blocks_of(subject.train))
        active, variance = used.active, used.mean_variance
    order = [dim for dim in variance.argsort(descending=True, stable=True).tolist() if active[dim]]
    return len(order), order


def values_of(z: Tensor, support: Support) -> Tensor:
    """The values that each dimension takes, [D, steps], from draws z [n, D] of q(z)."""
    if support is Support.BITS:
        return torch.tensor([[0.0, 1.0]]).repeat(z.shape[1], 1)
    low, high = z.float().quantile(torch.tensor([LEAST, MOST]), dim=0)  # [D] each
    return low[:, None] + torch.linspace(0, 1, NUM_STEPS) * (high - low)[:, None]


def move(start: Tensor, dims: list[int], values: Tensor, support: Support) -> Tensor:
    """The latent `start` [*latent] with number `dims[i]` at `values[i, j]`: [dims, steps, *latent]."""
    num_dims, num_steps = values.shape
    z = start.flatten().expand(num_dims, num_steps, -1).clone()
    for i, dim in enumerate(dims):
        if support is Support.SPHERE:
            rest = start.flatten().clone()
            rest[dim] = 0
            length = (1 - values[i].square()).clamp_min(0).sqrt()  # of all others together
            z[i] = length[:, None] * rest / rest.norm().clamp_min(torch.finfo(rest.dtype).tiny)
        z[i, :, dim] = values[i].to(z.dtype)
    return z.unflatten(2, start.shape)


def start_name(subject: ImageSubject, row: int) -> str:
    """A test image in words, with its class where it is known."""
    labels, names = subject.test.labels, subject.parts.data.class_names
    label = -1 if labels is None else int(labels[row])
    return f"test image {row:,}" + (f", class {names[label]}" if 0 <= label < len(names) else "")
