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
from expost.evaluation.row_names import AGGREGATE, RECONSTRUCTIONS, TRAIN_AGAINST_TEST
from expost.measure.feature_nets import Extractor
from expost.measure.subject import Trained, cleaned
from stage1_vae.data.images import ImageData, ImageSet, InMemory, Rows, spread
from stage1_vae.rows import spread_rows

PICTURED, SCATTERED = 64, 4000
NEIGHBOURED = 24
"""Samples that are shown with their nearest training images."""


@dataclass(frozen=True)
class Seen:
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
class Copied:
    """How near the sets come to the training images.

    Attributes:
        shares: row -> memorisation.
        nearest: row -> the training images [n, C, H, W] that are nearest to its first few.
    """

    shares: Mapping[str, memorisation.Memorisation]
    nearest: Mapping[str, Tensor]


def look(net: Extractor, blocks: Iterator[Tensor]) -> Seen:
    """Features of a stream of images; only the few that will be pictured are kept."""
    rows: list[Tensor] = []
    few: list[Tensor] = []
    for block in blocks:
        rows.append(net.extract(block))
        if sum(len(kept) for kept in few) < PICTURED:
            few.append(block)
    return Seen(torch.cat(rows), torch.cat(few)[:PICTURED])


def look_at_draws(net: Extractor, trained: Trained, draw: Callable[[], Tensor]) -> Seen:
    """The same for decoded draws, with the time that drawing and decoding took."""
    started = time.perf_counter()
    z = draw()
    spent = [time.perf_counter() - started]
    seen = look(net, _timed(trained.decoded(z), spent))
    return Seen(seen.features, seen.few, z[:SCATTERED].clone(), sum(spent))


def _timed(blocks: Iterator[Tensor], spent: list[float]) -> Iterator[Tensor]:
    while True:
        started = time.perf_counter()
        block = next(blocks, None)
        spent.append(time.perf_counter() - started)
        if block is None:
            return
        yield block


def seen_images(trained: Trained, net: Extractor, limit: int) -> dict[str, Seen]:
    """The reference, and one set of as many images for each row of the table."""
    data, parts = trained.parts.data, trained.parts
    num = num_compared(data, limit)
    return {
        "reference": look(net, cleaned(parts, spread(data.test, num))),
        "baseline": look_at_draws(net, trained, partial(trained.draw, trained.baseline, num)),
        AGGREGATE: look_at_draws(net, trained, partial(trained.draw_aggregate, num)),
        RECONSTRUCTIONS: look(net, trained.decoded(trained.test.draw(test_rows(data, num)))),
        TRAIN_AGAINST_TEST: look(net, cleaned(parts, spread(data.train, num))),
        # Last: what they draw must not change the draws of rows that other priors on this VAE share. A prior that is
        # one of the floors itself has one floor fewer.
        **{
            row: look_at_draws(net, trained, partial(trained.draw, floor.prior, num))
            for row, floor in trained.floors.items()
        },
        "learned": look_at_draws(net, trained, partial(trained.draw, trained.prior, num)),
    }


def num_compared(data: ImageData, limit: int) -> int:
    """Images in each set."""
    return min(limit, len(data.test), len(data.train))


def test_rows(data: ImageData, num: int) -> Tensor:
    """The test images of the reference, [num]: those of `spread`."""
    return spread_rows(len(data.test), num)


def measured_distances(
    trained: Trained, seen: Mapping[str, Seen], neighbours: int, notes: list[str]
) -> dict[str, distances.Distances]:
    """Distances of every set against the reference; a note instead where that is not possible, and one of repeats."""
    features = {name: _placed(s.features, trained) for name, s in seen.items()}
    try:
        reference = distances.Reference.of(features.pop("reference"), neighbours)
    except EvaluationError as error:
        notes.append(str(error))
        return {}
    if reference.num_repeats:
        notes.append(f"{repeated(reference.num_repeats, len(reference.features), 'test images')}; every one counts")
    found = {}
    for name, each in features.items():
        try:
            found[name] = distances.distances(reference, each)
        except EvaluationError as error:  # of this row alone
            notes.append(f"{name}: {error}")
    return found


def repeated(repeats: int, num: int, what: str) -> str:
    """How many images of a set are repeats, in words."""
    verb = "is a repeat" if repeats == 1 else "are repeats"
    return f"{repeats:,} of {num:,} {what} {verb}: to the feature net the same as an earlier one"


def measured_memorisation(trained: Trained, net: Extractor, seen: Mapping[str, Seen], notes: list[str]) -> Copied:
    """Every set but the training images against all of these; a note instead where features are broken."""
    images = trained.parts.data.train
    training = _placed(look(net, cleaned(trained.parts, images)).features, trained)
    found = {}
    try:
        distances.check_varied(training, "training images")
    except EvaluationError as error:
        notes.append(str(error))
        return Copied({}, {})
    for name, s in seen.items():
        if name == TRAIN_AGAINST_TEST:  # copies by construction: it would always be 100 %
            continue
        try:
            found[name] = memorisation.nearest(_placed(s.features, trained), training)
        except EvaluationError as error:
            notes.append(f"{name}: {error}")
    if "reference" not in found:
        return Copied({}, {})
    fresh = found.pop("reference").distance
    shares = {name: memorisation.memorisation(near.distance, fresh) for name, near in found.items()}
    shown = {name: near.index[:NEIGHBOURED] for name, near in found.items() if name in ("learned", AGGREGATE)}
    nearest = {name: torch.cat(list(cleaned(trained.parts, _rows(images, index)))) for name, index in shown.items()}
    return Copied(shares, nearest)


def _placed(features: Tensor, trained: Trained) -> Tensor:
    """On a GPU that knows float64; elsewhere where they are."""
    return features.to(trained.device) if trained.device.type == "cuda" else features


def _rows(images: ImageSet, index: Tensor) -> ImageSet:
    return InMemory(images.batch(index)) if isinstance(images, InMemory) else Rows(images, index)
