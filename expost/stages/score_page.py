"""The pictures and the page of a table of scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation.figures import EXTRA, LEARNED
from expost.evaluation.nouns import IMAGES, LATENTS, Nouns
from expost.evaluation.page import Cells, embed, render
from expost.evaluation.scores.pictures import Ranked, captions, draw_ranked, draw_standing
from expost.evaluation.scores.table import Scores, Standing
from expost.measure.image_sets import rows_of
from expost.measure.pictures import picture
from expost.measure.subject import clean_images
from expost.parts.assembly import ImageParts, Parts
from stage1_vae.data.given.data import Given, GivenImages

RANKED, STANDING, PAGE = "score.png", "score-standing.png", "score.html"
OF_IMAGES = (
    "log p(x) is bounded from below by importance sampling from q(z|x). A high one does not say that an image is like "
    "the training images: simple images may have a higher one than any of these (Nalisnick et al., 2019)."
)
NOVELTY = "Novelty: of test images, the percentage that come nearer to the training images."


@dataclass(frozen=True)
class Scored:
    """What the page tells.

    Attributes:
        parts: of the run.
        given: what was scored.
        scores, test: of it, and of test images.
        standing: of the former among the latter.
        sentences: what is said of all of them.
    """

    parts: Parts
    given: Given
    scores: Scores
    test: Scores
    standing: Standing
    sentences: Sequence[str]

    def __len__(self) -> int:
        return len(next(iter(self.scores.tensors().values())))

    @property
    def nouns(self) -> Nouns:
        return IMAGES if isinstance(self.parts, ImageParts) else LATENTS


def write_page(scored: Scored, num: int, config_yaml: str, folder: Path) -> Path:
    """The page, which needs nothing beside it, and its pictures in `folder`; of each end of the ranking `num` rows."""
    order = scored.scores.ranking[1].argsort(descending=True, stable=True)
    ends = {"most likely": order[: min(num, math.ceil(len(order) / 2))]}
    if len(order) > 1:
        ends["least likely"] = order.flip(0)[: min(num, len(order) // 2)]
    pictures = []
    if isinstance(scored.given, GivenImages) and scored.parts.of_images.data.are_pictures:
        draw_ranked([_panel(scored, title, rows) for title, rows in ends.items()], folder / RANKED)
        beside = "" if scored.scores.nearest is None else ", each with its nearest training image on its right"
        pictures.append((f"The most and the least likely images{beside}.", embed(folder / RANKED)))
    draw_standing(scored.scores, scored.test, scored.nouns, folder / STANDING)
    many = scored.nouns.many
    pictures.append((f"Where the scored {many} are among test {many}.", embed(folder / STANDING)))
    page = render(
        "score.html.j2",
        title=f"{scored.given.name}, scored by a model of {scored.parts.data.name}",
        sentences=scored.sentences,
        pictures=pictures,
        tables=[_table(scored, title, rows) for title, rows in ends.items()],
        explained=f"{OF_IMAGES} {NOVELTY}" if scored.nouns is IMAGES else NOVELTY.replace("image", "latent"),
        config_yaml=config_yaml,
    )
    path = folder / PAGE
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def _names(scored: Scored, rows: Tensor) -> dict[int, str]:
    names = {}
    for row in rows.tolist():
        name, inside = scored.given.place(row)
        is_alone = not inside and (row + 1 == len(scored) or scored.given.place(row + 1)[0] != name)
        names[row] = name if is_alone else f"{name} [{inside}]"
    return names


def _panel(scored: Scored, title: str, rows: Tensor) -> Ranked:
    parts, given = scored.parts.of_images, scored.given
    assert isinstance(given, GivenImages)
    images = picture(torch.cat(list(clean_images(parts, rows_of(given.images, rows)))))
    nearest, index = None, scored.scores.nearest
    if index is not None:
        nearest = picture(torch.cat(list(clean_images(parts, rows_of(parts.data.train, index[rows])))))
    below = captions(rows, scored.scores, scored.standing, _names(scored, rows))
    return Ranked(title, LEARNED if title.startswith("most") else EXTRA, images, nearest, below)


def _table(scored: Scored, title: str, rows: Tensor) -> Cells:
    """The figures of some rows."""
    words, values = scored.scores.ranking
    columns = {f"{words}, nats": values}
    columns |= {"likelier test, %": scored.standing.ranked} if scored.standing.ranked is not None else {}
    z = scored.scores.log_prob_z_nats
    columns |= {"log p(z), nats": z} if z is not None and not words.startswith("log p(z)") else {}
    for name, column in (
        ("rate, nats", scored.scores.rate_nats),
        ("distortion, nats", scored.scores.distortion_nats),
        ("nearest training row", scored.scores.nearest),
        ("distance", scored.scores.nearest_distance),
        ("novelty, %", scored.standing.nearer),
    ):
        columns |= {} if column is None else {name: column}
    names = _names(scored, rows)
    lines = [(names[row], [_text(column[row]) for column in columns.values()]) for row in rows.tolist()]
    return Cells(f"The {title}", list(columns), lines)


def _text(value: Tensor) -> str:
    return f"{value.item():.5g}" if value.is_floating_point() else str(value.item())
