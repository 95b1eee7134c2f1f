"""The sets of images that one evaluation compares, as the feature net sees them.

Every set has equally many images: the reference is the test split, and every row of the report is one set.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from expost.evaluation import distances
from expost.evaluation.errors import EvaluationError
from expost.evaluation.images import memorisation
from expost.evaluation.nouns import IMAGES, Nouns
from expost.evaluation.row_names import AGGREGATE, RECONSTRUCTIONS, TRAIN_AGAINST_TEST
from expost.measure.feature_nets import Extractor
from expost.measure.subject import ImageSubject, Subject, clean_images
from stage1_vae.data.images import ImageData, ImageSet, InMemory, Subset, subset
from stage1_vae.rows import spread_rows

PICTURED, SCATTERED = 64, 4000
NEIGHBOURED = 24
"""Samples that are shown with their nearest training images."""


@dataclass(frozen=True)
class FeaturedSet:
    """A set of images as the feature net saw it.

    Attributes:
        features: [N, D].
        few: the first images, [n, C, H, W].
        latents: of decoded draws the first, [n, *latent]; empty for images that were only read.
        seconds: wall time of drawing and decoding all of them; 0 for images that were only read.
    """

    features: Tensor
    few: Tensor
    latents: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = 0.0


@dataclass(frozen=True)
class Copies:
    """How near the sets come to the training images.

    Attributes:
        shares: row -> memorisation.
        nearest: row -> the training images [n, C, H, W] that are nearest to its first few.
        notes: row -> what else a reader should know, in words.
    """

    shares: Mapping[str, memorisation.Memorisation]
    nearest: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def extract_features(net: Extractor, blocks: Iterator[Tensor]) -> FeaturedSet:
    """Features of a stream of images; only the few that will be pictured are kept."""
    rows: list[Tensor] = []
    few: list[Tensor] = []
    for block in blocks:
        rows.append(net.extract(block))
        if sum(len(block) for block in few) < PICTURED:
            few.append(block)
    return FeaturedSet(torch.cat(rows), torch.cat(few)[:PICTURED])


def extract_from_draws(net: Extractor, subject: ImageSubject, draw: Callable[[], Tensor]) -> FeaturedSet:
    """The same for decoded draws, with the time that drawing and decoding took."""
    started = time.perf_counter()
    z = draw()
    spent = [time.perf_counter() - started]
    images = extract_features(net, _clock(subject.decode(z), spent))
    return FeaturedSet(images.features, images.few, z[:SCATTERED].clone(), sum(spent))


def _clock(blocks: Iterator[Tensor], spent: list[float]) -> Iterator[Tensor]:
    while True:
        started = time.perf_counter()
        block = next(blocks, None)
        spent.append(time.perf_counter() - started)
        if block is None:
            return
        yield block


def collect_sets(subject: ImageSubject, net: Extractor, limit: int) -> dict[str, FeaturedSet]:
    """The reference, and one set of as many images for each row of the table."""
    data, parts, train = subject.parts.data, subject.parts, subject.train
    num = num_compared(data, limit)
    return {
        "reference": extract_features(net, clean_images(parts, subset(data.test, num))),
        "baseline": extract_from_draws(net, subject, partial(subject.draw, subject.baseline, num)),
        AGGREGATE: extract_from_draws(net, subject, lambda: train.draw(torch.randint(len(train), (num,)))),
        RECONSTRUCTIONS: extract_features(net, subject.decode(subject.test.draw(reference_rows(data, num)))),
        TRAIN_AGAINST_TEST: extract_features(net, clean_images(parts, subset(data.train, num))),
        # Last: what they draw must not change the draws of rows that other priors on this VAE share. A prior that is
        # one of the floors itself has one floor fewer.
        **{
            row: extract_from_draws(net, subject, partial(subject.draw, floor.prior, num))
            for row, floor in subject.floors.items()
        },
        "learned": extract_from_draws(net, subject, partial(subject.draw, subject.prior, num)),
    }


def num_compared(data: ImageData, limit: int) -> int:
    """Images in each set."""
    return min(limit, len(data.test), len(data.train))


def reference_rows(data: ImageData, num: int) -> Tensor:
    """The test images of the reference, [num]: those of `spread`."""
    return spread_rows(len(data.test), num)


def measure_distances(
    subject: Subject, sets: Mapping[str, FeaturedSet], neighbours: int, notes: list[str]
) -> dict[str, distances.Distances]:
    """Distances of every set against the reference; a note instead where that is not possible, and one of repeats."""
    features = {name: place(images.features, subject) for name, images in sets.items()}
    try:
        reference = distances.Reference.of(features.pop("reference"), neighbours)
    except EvaluationError as error:
        notes.append(str(error))
        return {}
    if reference.num_repeats:
        nouns = subject.nouns
        repeats = describe_repeats(reference.num_repeats, len(reference.features), f"test {nouns.many}", nouns)
        notes.append(f"{repeats}; every one counts")
    by_row = {}
    for name, vectors in features.items():
        try:
            by_row[name] = distances.distances(reference, vectors)
        except EvaluationError as error:  # of this row alone
            notes.append(f"{name}: {error}")
    return by_row


def describe_repeats(repeats: int, num: int, what: str, nouns: Nouns) -> str:
    """How many images or latents of a set are repeats, in words."""
    verb = "is a repeat" if repeats == 1 else "are repeats"
    to = "to the feature net " if nouns is IMAGES else ""
    return f"{repeats:,} of {num:,} {what} {verb}: {to}the same as an earlier one"


def measure_memorisation(
    subject: ImageSubject, net: Extractor, sets: Mapping[str, FeaturedSet], notes: list[str]
) -> Copies:
    """Every set but the training images against all of these; a note instead where features are broken."""
    images = subject.parts.data.train
    training = place(extract_features(net, clean_images(subject.parts, images)).features, subject)
    neighbours = {}
    try:
        distances.check_varied(training, "training images")
    except EvaluationError as error:
        notes.append(str(error))
        return Copies({}, {})
    for name, samples in sets.items():
        if name == TRAIN_AGAINST_TEST:  # copies by construction: it would always be 100 %
            continue
        try:
            neighbours[name] = memorisation.nearest(place(samples.features, subject), training)
        except EvaluationError as error:
            notes.append(f"{name}: {error}")
    if "reference" not in neighbours:
        return Copies({}, {})
    fresh = neighbours.pop("reference").distance
    shares = {name: memorisation.memorisation(near.distance, fresh) for name, near in neighbours.items()}
    shown = {name: near.index[:NEIGHBOURED] for name, near in neighbours.items() if name in ("learned", AGGREGATE)}
    nearest = {
        name: torch.cat(list(clean_images(subject.parts, rows_of(images, index)))) for name, index in shown.items()
    }
    return Copies(shares, nearest)


def place(features: Tensor, subject: Subject) -> Tensor:
    """On a GPU that knows float64; elsewhere where they are."""
    return features.to(subject.device) if subject.device.type == "cuda" else features


def rows_of(images: ImageSet, index: Tensor) -> ImageSet:
    """Those of `images` whose numbers are `index` [n]."""
    return InMemory(images.batch(index)) if isinstance(images, InMemory) else Subset(images, index)
