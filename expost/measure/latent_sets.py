"""The sets of latents that one evaluation compares, where nobody has images: as vectors, or as the codes that they are.

Every set has equally many latents: the reference is a draw of q(z) of each test latent, and every row of the report is
one set.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images import memorisation
from expost.evaluation.latents.features import MOST_DIMS, LatentFeatures
from expost.evaluation.row_names import AGGREGATE, TRAIN_AGAINST_TEST
from expost.measure.image_sets import SCATTERED, Copies, FeaturedSet, place
from expost.measure.subject import Subject
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.rows import spread_rows

STANDARDISED_BY = 100_000
"""Training latents that say what unit a dimension has."""
BLOCK_NUMBERS = 2**22
"""Of latents that are read at once: 16 MiB."""
MOST_PAIRS = 2**31
"""Latents with training latents whose distance is computed: fewer are looked up where there are millions."""
FEWEST_LOOKED_UP = 500
CODES_DESCRIPTION = "codes, which have no distance to each other: their costs in nats are what compares them"


def num_latents(subject: Subject, limit: int) -> int:
    """Latents in each set."""
    return min(limit, len(subject.test), len(subject.train))


def draw_blocks(latents: LatentDataset, rows: Tensor) -> Iterator[Tensor]:
    """Fresh z ~ q(z|x) of some rows, [n, *latent] at a time."""
    for index in rows.split(max(1, BLOCK_NUMBERS // latents.spec.num_dims)):
        yield latents.draw(index)


def vectors_of(subject: Subject, limit: int, notes: list[str]) -> LatentFeatures | None:
    """How latents become vectors; None of codes, and with a note where there are none."""
    train = subject.train
    if train.spec.support is Support.CODES:
        return None
    most = max(1, min(MOST_DIMS, num_latents(subject, limit) // 2))  # a covariance needs two vectors a dimension
    try:
        return LatentFeatures.of(draw_blocks(train, spread_rows(len(train), STANDARDISED_BY)), most)
    except EvaluationError as error:
        notes.append(f"no distances: {error}")
        return None


def collect_latents(subject: Subject, vectors: LatentFeatures | None, limit: int) -> dict[str, FeaturedSet]:
    """The reference, and one set of as many latents for each row of the table."""
    train, test, num = subject.train, subject.test, num_latents(subject, limit)

    def see(draw: Callable[[], Iterator[Tensor]], timed: bool = False) -> FeaturedSet:
        started = time.perf_counter()
        blocks = list(draw())
        seconds = time.perf_counter() - started if timed else 0.0
        features = [block.flatten(1) if vectors is None else vectors.extract(block) for block in blocks]
        return FeaturedSet(torch.cat(features), torch.empty(0), _first(blocks), seconds)

    priors = {"baseline": subject.baseline, "learned": subject.prior}
    priors |= {row: floor.prior for row, floor in subject.floors.items()}

    def of_prior(row: str) -> FeaturedSet:
        return see(lambda: iter([subject.draw(priors[row], num)]), timed=True)

    sets = {
        "reference": see(partial(draw_blocks, test, spread_rows(len(test), num))),
        "baseline": of_prior("baseline"),
        AGGREGATE: see(partial(draw_blocks, train, torch.randint(len(train), (num,)))),
        TRAIN_AGAINST_TEST: see(partial(draw_blocks, train, spread_rows(len(train), num))),
    }
    # Last: what they draw must not change the draws of rows that other priors on these latents share.
    return sets | {row: of_prior(row) for row in (*subject.floors, "learned")}


def _first(blocks: list[Tensor]) -> Tensor:
    few: list[Tensor] = []
    for block in blocks:
        few.append(block[: SCATTERED - sum(map(len, few))])
    return torch.cat(few)


def find_copies(
    subject: Subject, vectors: LatentFeatures | None, sets: Mapping[str, FeaturedSet], notes: list[str]
) -> Copies:
    """How near every set comes to all training latents; nothing where there is no distance, and a note of fewer sets.

    A training latent is where its posterior has its mean: draws around it are copies, and come near to it.
    """
    of_codes = subject.train.spec.support is Support.CODES
    if vectors is None and not of_codes:
        return Copies({})
    compared = {name: images for name, images in sets.items() if name != TRAIN_AGAINST_TEST}  # copies, all of them
    finite = {name: one.features for name, one in compared.items() if torch.isfinite(one.features).all()}
    if "reference" not in finite:
        return Copies({})
    of_sets = nearest_codes(subject.train, finite) if of_codes else nearest_vectors(subject, vectors, finite)
    fresh = of_sets.pop("reference")
    num = len(fresh)
    if num < len(finite["reference"]):
        notes.append(f"memorisation: {num:,} of each set were looked up among {len(subject.train):,} training latents")
    shares = {name: memorisation.memorisation(distance, fresh) for name, distance in of_sets.items()}
    repeats = {}
    if of_codes:
        same = f"{(fresh == 0).double().mean().item():.1%} of test latents are"
        for name, distance in of_sets.items():
            share = (distance == 0).double().mean().item()
            repeats[name] = (f"{share:.1%} of {num:,} sequences are exactly those of a training latent; {same}",)
    return Copies(shares, notes=repeats)


def num_searched(spec: LatentSpec, num: int, num_train: int) -> int:
    """Of sets of `num` latents, how many of each are looked up among `num_train` training latents."""
    if spec.support is Support.CODES:
        return memorisation.num_looked_up(num, num_train, spec.num_dims)
    return min(num, max(FEWEST_LOOKED_UP, MOST_PAIRS // num_train))


def nearest_codes(train: LatentDataset, sets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set -> shares of places in which its sequences differ from their nearest training sequences, [M]."""
    num = num_searched(train.spec, min(map(len, sets.values())), len(train))
    together = torch.cat([codes[spread_rows(len(codes), num)] for codes in sets.values()])
    blocks = (posterior.sample() for posterior in train.blocks())
    return dict(zip(sets, memorisation.nearest_share(together, blocks).split(num), strict=True))


def nearest_vectors(subject: Subject, vectors: LatentFeatures | None, sets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set -> distances of its vectors to the nearest posterior means of training latents, [M]."""
    assert vectors is not None
    train = subject.train
    num = num_searched(train.spec, min(map(len, sets.values())), len(train))
    few = {name: place(features[spread_rows(len(features), num)], subject) for name, features in sets.items()}
    least = {name: torch.full((num,), torch.inf, dtype=torch.float64) for name in sets}
    for posterior in train.blocks():
        means = place(vectors.extract(posterior.mean), subject)
        for name, features in few.items():
            least[name] = torch.minimum(least[name], memorisation.nearest(features, means).distance)
    return least
