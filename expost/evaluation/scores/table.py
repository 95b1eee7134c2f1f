"""What a model says of single images or latents: a row each, and how it stands among test images.

A log-likelihood alone says little: it changes with the size of images, and a model may give images that it has never
been shown a higher one than its own (Nalisnick et al., "Do Deep Generative Models Know What They Don't Know?", 2019).
So each figure stands beside the share of test images, which are fresh by construction, that have a higher one; and the
distance to the nearest training image beside the share that come nearer.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from expost.evaluation.bounds import bits_per_dim

ROWS_AT_ONCE = 8192
COLUMNS = (
    "name",
    "row",
    "log_prob_bound_nats",
    "test_likelier_percent",
    "bits_per_dim",
    "rate_nats",
    "distortion_nats",
    "log_prob_z_nats",
    "test_likelier_z_percent",
    "nearest_training_row",
    "nearest_training_name",
    "nearest_distance",
    "novelty_percent",
)
"""Of the table, in their order; what does not exist is empty.

name, row: the file, as it is called below what was read, and the number in it, from 0. log_prob_bound_nats: the
importance-weighted lower bound on log p(x). test_likelier_percent, test_likelier_z_percent: of test images, those
whose bound, or log p(z), is higher. log_prob_z_nats: the mean over draws of q(z|x). novelty_percent: of test images,
those that are nearer to the training images; 100: none is as far away.
"""


@dataclass(frozen=True)
class Scores:
    """Figures of N images or latents, [N] on the CPU; None: does not exist.

    Attributes:
        log_prob_bound_nats: float64, a lower bound on log p(x).
        rate_nats: float64, of q(z|x) under the prior.
        distortion_nats: float64, mean -log p(x|z).
        log_prob_z_nats: float64, mean log p(z) over draws of q(z|x).
        nearest_distance: float64, to the nearest training image or latent.
        nearest: int64, its row in the training split.
    """

    log_prob_bound_nats: Tensor | None = None
    rate_nats: Tensor | None = None
    distortion_nats: Tensor | None = None
    log_prob_z_nats: Tensor | None = None
    nearest_distance: Tensor | None = None
    nearest: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that exist, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    @property
    def ranking(self) -> tuple[str, Tensor]:
        """What says which is likelier, and in which words: the bound, else log p(z), else -distortion; NaN is least.

        Raises:
            ValueError: there is none of them.
        """
        named = (
            ("log p(x) ≥", self.log_prob_bound_nats),
            ("log p(z)", self.log_prob_z_nats),
            ("log p(x|z)", None if self.distortion_nats is None else -self.distortion_nats),
        )
        for words, values in named:
            if values is not None:
                return words, values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        raise ValueError("nothing ranks these")


@dataclass(frozen=True)
class Standing:
    """Where scores are among those of test images: percent of these [N], ties counted half; None: does not exist.

    Attributes:
        likelier, likelier_z, nearer: see `COLUMNS`: test_likelier_percent, test_likelier_z_percent, novelty_percent.
    """

    likelier: Tensor | None
    likelier_z: Tensor | None
    nearer: Tensor | None

    @classmethod
    def of(cls, scores: Scores, test: Scores) -> "Standing":
        def above(values: Tensor | None, others: Tensor | None, sign: int = 1) -> Tensor | None:
            if values is None or others is None or not len(others):
                return None
            return percent_above(sign * values, sign * others)

        return cls(
            above(scores.log_prob_bound_nats, test.log_prob_bound_nats),
            above(scores.log_prob_z_nats, test.log_prob_z_nats),
            above(scores.nearest_distance, test.nearest_distance, -1),
        )

    @property
    def ranked(self) -> Tensor | None:
        """Of what ranks the scores."""
        return self.likelier if self.likelier is not None else self.likelier_z


def percent_above(values: Tensor, others: Tensor) -> Tensor:
    """Percent of `others` [M] that are greater than each of `values` [N], ties counted half: float64 [N].

    Of a NaN all are greater; a NaN among `others` is the smallest.
    """
    values, others = (x.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf) for x in (values, others))
    ordered = others.sort().values
    greater = len(ordered) - torch.searchsorted(ordered, values, right=True)
    as_great = len(ordered) - torch.searchsorted(ordered, values) - greater
    return 100 * (greater + 0.5 * as_great) / len(ordered)


def write_csv(
    path: Path,
    scores: Scores,
    standing: Standing,
    num: int,
    place: Callable[[int], tuple[str, int]],
    nearest_name: Callable[[int], str],
    dims: tuple[int, int] | None,
) -> None:
    """The table as a CSV file (RFC 4180, UTF-8), a row each in the order that they were read in.

    Args:
        path: of the file.
        scores, standing: of `num` rows.
        num: how many there are.
        place: row -> file and number in it.
        nearest_name: training row -> its file; "" where it has none of its own.
        dims: numbers of an image, and levels of `bits_per_dim`; None where there are no such bits.
    """
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_lines(scores, standing, num, place, nearest_name, dims))


def _lines(
    scores: Scores,
    standing: Standing,
    num: int,
    place: Callable[[int], tuple[str, int]],
    nearest_name: Callable[[int], str],
    dims: tuple[int, int] | None,
) -> Iterator[list[str]]:
    columns: Mapping[str, Tensor | None] = {
        **{field.name: getattr(scores, field.name) for field in fields(scores)},
        "test_likelier_percent": standing.likelier,
        "test_likelier_z_percent": standing.likelier_z,
        "novelty_percent": standing.nearer,
    }
    for start in range(0, num, ROWS_AT_ONCE):
        stop = min(num, start + ROWS_AT_ONCE)
        block = {key: None if column is None else column[start:stop].tolist() for key, column in columns.items()}
        for i in range(stop - start):
            name, row = place(start + i)
            values = {key: None if column is None else column[i] for key, column in block.items()}
            bound, nearest = values["log_prob_bound_nats"], values["nearest"]
            texts = {key: number(value) for key, value in values.items()}
            texts |= {"name": name, "row": str(row), "nearest_training_row": "" if nearest is None else str(nearest)}
            texts["nearest_training_name"] = "" if nearest is None else nearest_name(nearest)
            texts["bits_per_dim"] = number(None if bound is None or dims is None else bits_per_dim(-bound, *dims))
            yield [texts[column] for column in COLUMNS]


def number(value: float | None) -> str:
    """Seven digits, which is what float32 has; empty for None."""
    return "" if value is None else f"{value:.7g}"
