"""Whether samples are copies of training images: how near each comes to the training set, against how near a fresh
image comes.

d(x) is the distance of an image to its nearest neighbour among ALL training images. Test images are fresh by
construction, so their d is what an honest draw from the data has. The figure is the rank statistic of data-copying

    memorisation = P(d_sample < d_test) + 1/2 P(d_sample = d_test),

the chance that a sample lies nearer to the training set than a test image does (Mann & Whitney, 1947; Meehan,
Chaudhuri & Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020, section 3, who
standardise the same U). Fresh test images score 50 % whatever the data, copies 100 %, images that are unlike any
training image score near 0 %: it is a share to be near 50 %, not one to push up or down.

Distances are Euclidean between feature vectors, as those of every other figure here. Pixels would answer another
question: a decoder's mean is blurred, a blurred image is near to many images pixel by pixel, and any VAE would look as
if it copied. On the reference VAE on MNIST, reconstructions of test images, which no prior and no memory made, score
52 % in features and 64 % in pixels; draws from the training aggregate, which are reconstructions of training images,
58 % and 81 %. What a decoder that blurs can show of its memory is the difference between these two rows.

Sequences of codes have no distance but the share of their places in which they differ; with it the figure is the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images.halves import Subsets, spread
from expost.evaluation.images.squared import TIE, Targets

SCORES_AT_ONCE = 2**24
SCORES_IN_CACHE = 2**18
ROWS_AT_ONCE, MIN_KEYS_AT_ONCE = 256, 256
MOST_COMPARED = 2**34
"""Codes with codes, ten seconds of a core: fewer sequences are looked up among many training sequences."""
RESULTS_AT_ONCE = 2**22
UNSURE = 4096
"""Squared distances below so many roundings of float32 are looked up again."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training vector of each of M vectors: its row [M], and the distance to it [M] float64."""

    index: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Memorisation:
    """Share of samples nearer to the training set than a test image is, and its spread over halves; None without."""

    share: float
    spread: float | None


@torch.no_grad()
def nearest(features: Tensor, training: Tensor) -> Nearest:
    """The nearest of `training` [T, D] for each of `features` [M, D], by brute force in chunks, on their device.

    The search is a float32 matrix product on vectors centred on the training mean; the distance of the one found is
    then computed again from the difference. Where that is so near that the rounding of the product may have hidden a
    nearer one, the search is repeated by differences, so that a copy is at distance 0 whatever else is near.

    Raises:
        EvaluationError: NaN or infinity among the vectors, or no training vector.
    """
    if not len(training) or not torch.isfinite(training).all() or not torch.isfinite(features).all():
        raise EvaluationError("a nearest training image needs training images, and features without NaN or infinity")
    centre = training.mean(0, dtype=torch.float64).float()
    keys = training.float() - centre  # [T, D]
    penalty = -0.5 * keys.square().sum(1)  # [T]; argmax of x.t - |t|^2 / 2 is argmin of |x - t|
    index = torch.cat([_largest(rows.float() - centre, keys, penalty) for rows in features.split(ROWS_AT_ONCE)])
    distance = torch.linalg.vector_norm(features.double() - training[index].double(), dim=1)
    norms = (features.float() - centre).square().sum(1) - 2 * penalty[index]  # |x|^2 + |t|^2
    unsure = (distance.square() < UNSURE * torch.finfo(torch.float32).eps * norms).nonzero().squeeze(1)
    if len(unsure):
        rows, which = torch.unique(features[unsure].double(), dim=0, return_inverse=True)
        squared = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
        squared.scatter_reduce_(0, which, distance[unsure].square(), "amin")
        row, squares = _by_differences(rows, squared, training.double())
        index[unsure], distance[unsure] = row[which], squares.sqrt()[which]
    return Nearest(index.cpu(), distance.cpu())


def _largest(rows: Tensor, keys: Tensor, penalty: Tensor) -> Tensor:
    """Row of `keys` [T, D] with the largest rows.keys + penalty for each of `rows` [M, D], the first of several: [M].

    A block of scores stays in the cache of a core: written to memory, they would take several times as long.
    """
    size = max(MIN_KEYS_AT_ONCE, SCORES_IN_CACHE // len(rows))
    if rows.is_cuda:
        size = max(size, SCORES_AT_ONCE // len(rows))
    best = rows.new_full((len(rows),), -torch.inf)
    index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for start in range(0, len(keys), size):
        block = slice(start, start + size)
        score, place = torch.addmm(penalty[block], rows, keys[block].T).max(1)
        index = torch.where(score > best, start + place, index)
        best = torch.maximum(best, score)
    return index


def _by_differences(rows: Tensor, most: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest training vector of each of `rows` [M, D], the first of several, and the squared distance to it.

    Args:
        rows: float64.
        most: [M] squared distances that are no smaller than those.
        training: [T, D] float64.
    """
    targets, size = Targets(training), max(1, SCORES_AT_ONCE // len(training))
    blocks = []
    for block, bound in zip(rows.split(size), most.split(size), strict=True):
        i, j = (targets.from_below(block) <= bound[:, None] * (1 + TIE)).nonzero().unbind(1)
        squared = targets.of_pairs(block, i, j)
        least = torch.full_like(bound, torch.inf).scatter_reduce_(0, i, squared, "amin")
        first = torch.full_like(i[:1], len(training)).repeat(len(block))
        first.scatter_reduce_(0, i, j.where(squared == least[i], len(training)), "amin")
        blocks.append((first, least))
    index, squared = (torch.cat(part) for part in zip(*blocks, strict=True))
    return index, squared


def num_looked_up(num: int, num_training: int, length: int) -> int:
    """Of `num` sequences, how many to look up among `num_training` of `length` places."""
    return min(num, max(100, MOST_COMPARED // max(1, num_training * length)))


def nearest_share(codes: Tensor, training: Iterable[Tensor]) -> Tensor:
    """Share of places in which each of `codes` [M, T] differs from its nearest training sequence: float64 [M].

    0 where a training sequence is the very same. `training`: blocks [n, T]; memory does not grow with their number.
    """
    return nearest_sequence(codes, training)[1]


@torch.no_grad()
def nearest_sequence(codes: Tensor, training: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The first training sequence that is nearest to each of `codes` [M, T], int64 [M], and `nearest_share`."""
    rows = codes.flatten(1).float()
    least = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    index, start = torch.zeros(len(rows), dtype=torch.int64, device=rows.device), 0
    for block in training:
        targets = block.flatten(1).to(rows.device).float()  # float32 is exact for codes below 2^24
        size = max(1, RESULTS_AT_ONCE // len(targets))
        nearest = [torch.cdist(some, targets, p=0).min(1) for some in rows.split(size)]
        share = torch.cat([found.values for found in nearest]).double() / rows.shape[1]
        index = torch.where(share < least, start + torch.cat([found.indices for found in nearest]), index)
        least = torch.minimum(least, share)
        start += len(targets)
    return index, least


def memorisation(sample_distance: Tensor, test_distance: Tensor) -> Memorisation:
    """Chance that a sample [M] is nearer to the training set than a test image [N], ties counted half."""
    samples, test = sample_distance.cpu(), test_distance.cpu()
    # one of the two may have no halves
    members = zip(Subsets.of(len(samples)).members, Subsets.of(len(test)).members, strict=False)
    values = [_share_nearer(samples[rows], test[test_rows]) for rows, test_rows in members]
    return Memorisation(values[0], spread(torch.tensor(values, dtype=torch.float64)))


def _share_nearer(samples: Tensor, test: Tensor) -> float:
    """Mann-Whitney: for each sample the share of test images that are further, those equally far counted half."""
    ordered = test.sort().values
    further = len(test) - torch.searchsorted(ordered, samples, right=True)
    as_far = torch.searchsorted(ordered, samples, right=True) - torch.searchsorted(ordered, samples)
    return ((further + 0.5 * as_far).double().mean() / len(test)).item()
