"""The latents of an evaluation as points that a page lets one explore: q(z) of the test split, and draws of the priors.

A page holds at most ten thousand points of q(z), however many latents there are; then they are spread over the split,
and the page says so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.exploration.content import (
    MOST_DRAWS,
    MOST_POINTS,
    MOST_SPRITE_BYTES,
    POINTS,
    UNKNOWN,
    Cloud,
    Exploration,
    Sprite,
    Traversals,
    round_to,
)
from expost.evaluation.exploration.sprites import save_sprite, thumbnails
from expost.evaluation.latents.axes import Plane, finite_rows, frame_of
from expost.evaluation.row_names import AGGREGATE, BASELINES
from expost.measure.image_sets import SCATTERED, FeaturedSet
from expost.measure.pictures import picture
from expost.measure.subject import ImageSubject, Subject, clean_images
from stage1_vae.data.images import subset
from stage1_vae.rows import spread_rows

MOST_PIXELS = 32
"""Of the longer side of a point's image."""


@dataclass(frozen=True)
class Placed:
    """One density on the plane, before its points have a frame.

    Attributes:
        points: [n, 2], all finite.
        kept: numbers [n] of the latents that these are, among those that were drawn.
        num_drawn: how many were.
    """

    name: str
    role: str
    points: Tensor
    kept: Tensor
    num_drawn: int

    @classmethod
    def of(cls, name: str, role: str, points: Tensor) -> "Placed":
        """Of points [n, 2] some of which may be nowhere."""
        kept = torch.isfinite(points).all(1).nonzero().flatten()
        return cls(name, role, points[kept], kept, len(points))


def explore_images(
    subject: ImageSubject,
    sets: Mapping[str, FeaturedSet],
    name: str,
    limit: int,
    traversals: Traversals | None,
    folder: Path,
) -> Exploration | None:
    """The points of `limit` test images at most and, where there are pictures, the image of each in `folder`; None
    where no latent is finite.

    Args:
        subject: both stages.
        sets: the draws of both priors, as they were measured.
        name: of the learned prior.
        limit: of each cloud.
        traversals: beside the points.
        folder: the evaluation's.
    """
    data, num = subject.parts.data, min(limit, MOST_POINTS)
    shown = finite_rows(subject.embed(subject.train.draw(torch.randperm(len(subject.train))[:SCATTERED])))
    if not len(shown):
        return None
    plane, rows = Plane.of(shown), spread_rows(len(subject.test), num)
    drawn = {role: sets[role].latents[:MOST_DRAWS] for role in titles_of(subject, name)}
    posterior = torch.cat([plane.project(subject.embed(subject.test.draw(some))) for some in rows.split(1000)])
    placed = [Placed.of("q(z)", "posterior", posterior)]
    placed += [
        Placed.of(title, role, plane.project(subject.embed(drawn[role])))
        for role, title in titles_of(subject, name).items()
    ]

    def images() -> Iterator[Tensor]:
        yield from select_rows(clean_images(subject.parts, subset(data.test, num)), placed[0].kept)
        for cloud in placed[1:]:
            yield from subject.decode(drawn[cloud.role][cloud.kept])

    sprite = None
    if data.are_pictures:
        small = torch.cat([thumbnails(picture(block), MOST_PIXELS) for block in images()])
        sprite = save_sprite(small, folder / POINTS, MOST_SPRITE_BYTES)
    return exploration(placed, plane, rows, subject, data.class_names, sprite, traversals)


def explore_latents(subject: Subject, sets: Mapping[str, FeaturedSet], name: str) -> Exploration | None:
    """The points of latents that nothing decodes; None where none is finite. Of codes there is no plane."""
    shown = finite_rows(sets[AGGREGATE].features[:SCATTERED])
    if not len(shown):
        return None
    plane, reference = Plane.of(shown), sets["reference"].features
    some = spread_rows(len(reference), MOST_POINTS)
    rows = spread_rows(len(subject.test), len(reference))[some]
    placed = [Placed.of("q(z)", "posterior", plane.project(reference[some]))]
    placed += [
        Placed.of(title, role, plane.project(sets[role].features[:MOST_DRAWS]))
        for role, title in titles_of(subject, name).items()
    ]
    return exploration(placed, plane, rows, subject, subject.parts.data.class_names, None, None)


def titles_of(subject: Subject, name: str) -> dict[str, str]:
    """Role -> what the prior is called; one alone where the learned prior is the baseline itself."""
    baseline = {"baseline": BASELINES[subject.baseline_name]}
    return baseline if name == subject.baseline_name else {**baseline, "learned": name}


def select_rows(blocks: Iterator[Tensor], kept: Tensor) -> Iterator[Tensor]:
    """Of the rows in `blocks`, one after another, those whose numbers are `kept`, ascending [n]."""
    start = 0
    for block in blocks:
        yield block[kept[(kept >= start) & (kept < start + len(block))] - start]
        start += len(block)


def exploration(
    placed: list[Placed],
    plane: Plane,
    rows: Tensor,
    subject: Subject,
    class_names: tuple[str, ...],
    sprite: Sprite | None,
    traversals: Traversals | None,
) -> Exploration | None:
    """What a page needs of points that have been placed; `rows` [n]: where those of q(z) are in the test split."""
    try:
        low, high, notes = frame({cloud.name: cloud.points for cloud in placed})
    except EvaluationError:
        return None
    noun, num_test = f"test {subject.nouns.one}", len(subject.test)
    if len(rows) < num_test:
        notes.insert(
            0, f"{len(rows):,} of {num_test:,} {subject.nouns.many} of the test split are shown, spread over it"
        )
    notes += [
        f"{cloud.name}: {lost:,} of {cloud.num_drawn:,} are not finite and have no place"
        for cloud in placed
        if (lost := cloud.num_drawn - len(cloud.points))
    ]
    labels = None if subject.test.labels is None or not class_names else subject.test.labels.cpu()[rows]
    clouds, first = [], 0
    for cloud in placed:
        across, up = cloud.points.T.tolist()
        is_posterior = cloud.role == "posterior"
        kept = cloud.kept
        clouds.append(
            Cloud(
                name=cloud.name,
                role=cloud.role,
                noun=noun if is_posterior else "draw",
                x=round_to(across, high[0] - low[0]),
                y=round_to(up, high[1] - low[1]),
                rows=tuple(rows[kept].tolist()) if is_posterior else None,
                labels=known_labels(labels[kept], len(class_names)) if is_posterior and labels is not None else None,
                first=None if sprite is None else first,
            )
        )
        first += len(cloud.points)
    return Exploration(plane.titles, low, high, tuple(clouds), class_names, sprite, traversals, tuple(notes))


def frame(points: Mapping[str, Tensor]) -> tuple[tuple[float, float], tuple[float, float], list[str]]:
    """The lowest and the highest place that is shown of the points [n, 2] of each cloud, and a note for each cloud that
    has some beyond it.

    Raises:
        EvaluationError: there is no point.
    """
    everything = torch.cat(list(points.values()))
    if not len(everything):
        raise EvaluationError("no latent is finite")
    low, high = frame_of(everything)
    notes = []
    for name, places in points.items():
        beyond = int(((places < low) | (places > high)).any(1).sum())
        if beyond:
            notes.append(f"{name}: {beyond:,} of {len(places):,} points lie beyond the frame: reduce it to see them")
    (left, bottom), (right, top) = low.tolist(), high.tolist()
    return (left, bottom), (right, top), notes


def known_labels(labels: Tensor, num_classes: int) -> tuple[int, ...]:
    """The numbers of classes [n]; of a latent that has none, that of the unknown."""
    return tuple(label if 0 <= label < num_classes else UNKNOWN for label in labels.tolist())
