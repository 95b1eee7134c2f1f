"""Distances between two sets of feature vectors, all in float64.

- Frechet distance |m_a - m_b|^2 + tr(A + B - 2 (AB)^(1/2)) between the normal laws of the same means and covariances
  (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6).
- Kernel distance: unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3
  (Binkowski et al., "Demystifying MMD GANs", 2018, section 3.1). Unbiased, so it may fall a little below zero.
- Precision, recall, density and coverage: see `expost.evaluation.images.neighbours`.

For the two distances lower is better; for the four shares higher is better. Every figure comes with its values on pairs
of halves, from which its spread follows: see `expost.evaluation.images.halves`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images.halves import NUM_BLOCKS, Subsets, spread
from expost.evaluation.images.neighbours import Balls, shares

MOMENT_DIMS = 128
"""Up to this dimension the kernel sum goes by moments: sixteen blocks of D^3 / 2 numbers are 135 MB."""
SHARES = ("precision", "recall", "density", "coverage")
FIGURES = ("frechet_distance", "kernel_distance", *SHARES)


@dataclass(frozen=True)
class Distances:
    """A set of samples against a reference set; see the module for each figure.

    Attributes:
        halves: figure -> its values on the whole sets and on pairs of their halves, float64 [H]; see
            `expost.evaluation.images.halves`.
        num_repeats, num_reference_repeats: vectors that are the same as an earlier one of their set.
    """

    frechet_distance: float
    kernel_distance: float
    precision: float
    recall: float
    density: float
    coverage: float
    num_samples: int
    num_reference: int
    halves: Mapping[str, Tensor] = field(default_factory=dict)
    num_repeats: int = 0
    num_reference_repeats: int = 0

    @property
    def spread(self) -> dict[str, float]:
        """Figure -> standard deviation that other samples and another reference set would give it."""
        spreads = {name: spread(values) for name, values in self.halves.items()}
        return {name: std for name, std in spreads.items() if std is not None}


@dataclass(frozen=True)
class Reference:
    """A reference set with what only it decides, so that several sets of samples share the work."""

    balls: Balls

    @property
    def features(self) -> Tensor:
        """[N, D] float64."""
        return self.balls.centres

    @property
    def num_repeats(self) -> int:
        """Vectors that are the same as an earlier one."""
        return self.balls.distinct.num_repeats

    @classmethod
    def of(cls, features: Tensor, k: int = 5) -> "Reference":
        """Prepare `features` [N, D] for figures with `k` neighbours.

        Raises:
            EvaluationError: for fewer than 2 D vectors, none with a k-th neighbour, NaN or infinity among them, or
                vectors that are all the same.
        """
        check_enough(features, "reference images")
        check_varied(features, "reference images")
        return cls(Balls.around(features.double(), _subsets(features, k), k))


def _subsets(features: Tensor, k: int) -> Subsets:
    """Fewer halves of long vectors, where each costs seconds; none of sets whose halves lack a k-th neighbour."""
    num, dims = features.shape
    contrasts = 0 if num // 2 <= k else 15 if dims <= MOMENT_DIMS else 3
    return Subsets.of(num, contrasts, features.device)


def distances(reference: Reference, features: Tensor) -> Distances:
    """All figures of `features` [M, D] against `reference`.

    Raises:
        EvaluationError: for fewer than 2 D vectors, none with a k-th neighbour, or NaN or infinity among them.
    """
    check_enough(features, "samples")
    samples = Balls.around(features.double(), _subsets(features, reference.balls.k), reference.balls.k)
    num = min(len(reference.balls.subsets), len(samples.subsets))
    balls, samples = reference.balls.first(num), samples.first(num)
    near = shares(balls, samples)
    sets = (balls.centres, samples.centres, balls.subsets, samples.subsets)
    on_halves = {
        "frechet_distance": frechet_distances(*sets),
        "kernel_distance": kernel_distances(*sets),
        **{name: getattr(near, name) for name in SHARES},
    }
    return Distances(
        **{name: values[0].item() for name, values in on_halves.items()},
        num_samples=len(features),
        num_reference=len(reference.features),
        halves=on_halves,
        num_repeats=samples.distinct.num_repeats,
        num_reference_repeats=reference.num_repeats,
    )


def check_enough(features: Tensor, what: str) -> None:
    """Refuse a set that is too small for a covariance, or not finite.

    Raises:
        EvaluationError: with the remedy.
    """
    num, dims = features.shape
    if num < 2 * dims:
        raise EvaluationError(
            f"{num} {what} are too few for a distance on {dims}-dimensional features: use at least {2 * dims} "
            "(evaluation.num_samples, and as many test and training images)"
        )
    if not torch.isfinite(features).all():
        raise EvaluationError(
            f"the features of the {what} hold NaN or infinity: the images do too, or the net diverged"
        )


def check_varied(features: Tensor, what: str) -> None:
    """Refuse features of real images that are the same for all of them, up to the rounding of float32.

    Samples may all be alike, and their distance says so; where real images are, it is the net that sees nothing.

    Raises:
        EvaluationError: with the remedy.
    """
    ranges = features.amax(0) - features.amin(0)  # [D]
    if (ranges <= 8 * torch.finfo(torch.float32).eps * features.abs().amax(0)).all():
        raise EvaluationError(
            f"the features of the {what} do not vary: the net returns the same for every image, so there is nothing "
            "to measure; either the images are all alike, or the net is blind to them: a file of yours "
            "(evaluation.features) may expect another range of pixels than [0, 1]"
        )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the normal laws fitted to a [N, D] and b [M, D]; covariances may be singular."""
    a, b = a.double(), b.double()
    root_a, root_b = _covariance_root(a), _covariance_root(b)  # R with R'R = covariance
    # tr (AB)^(1/2) is the sum of the singular values of Ra Rb'. The covariances are never formed, so nothing is squared
    # and lost to rounding: identical sets give 0 to the last digits, singular ones need no jitter.
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    total = means + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(0.0, total.item())


def _covariance_root(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return torch.linalg.qr(centred, mode="r").R / math.sqrt(len(features) - 1)


def frechet_distances(a: Tensor, b: Tensor, subsets_a: Subsets, subsets_b: Subsets) -> Tensor:
    """Frechet distance of the whole sets and of their halves, [H] on the CPU.

    Halves go by covariances, tr (AB)^(1/2) = tr (R B R)^(1/2) with R = A^(1/2): faster, and exact enough for a spread.
    """
    values = [torch.tensor(frechet_distance(a, b), dtype=torch.float64)]
    for in_a, in_b in zip(subsets_a.members[1:], subsets_b.members[1:], strict=True):
        x, y = a[in_a], b[in_b]
        cov_x, cov_y = torch.atleast_2d(torch.cov(x.T)), torch.atleast_2d(torch.cov(y.T))
        eigenvalues, vectors = torch.linalg.eigh(cov_x)
        root = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
        cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
        means = (x.mean(0) - y.mean(0)).square().sum()
        values.append((means + cov_x.trace() + cov_y.trace() - 2 * cross).clamp(min=0).cpu())
    return torch.stack(values)


def kernel_distances(a: Tensor, b: Tensor, subsets_a: Subsets, subsets_b: Subsets) -> Tensor:
    """Unbiased squared MMD between a [N, D] and b [M, D] (float64) under the cubic kernel, of the whole sets and of
    their halves: [H] on the CPU, all from sums over pairs of blocks."""
    sums = _block_sums_by_moments if a.shape[1] <= MOMENT_DIMS else _block_sums_by_pairs
    within_a, within_b, between = sums(a, b, subsets_a, subsets_b)  # [16, 16] each
    holds_a, holds_b = subsets_a.holds.double(), subsets_b.holds.double()  # [H, 16]
    total_a = _over_blocks(within_a, holds_a, holds_a) - holds_a @ _diagonal(a, subsets_a)  # [H]
    total_b = _over_blocks(within_b, holds_b, holds_b) - holds_b @ _diagonal(b, subsets_b)
    n, m = subsets_a.sizes, subsets_b.sizes
    cross = _over_blocks(between, holds_a, holds_b) / (n * m)
    return (total_a / (n * (n - 1)) + total_b / (m * (m - 1)) - 2 * cross).cpu()


def _over_blocks(sums: Tensor, holds_a: Tensor, holds_b: Tensor) -> Tensor:
    return torch.einsum("hp,pq,hq->h", holds_a, sums, holds_b)


def _diagonal(x: Tensor, subsets: Subsets) -> Tensor:
    """Sum of the kernel of each vector with itself over each block, [16]."""
    own = (x.square().sum(1) / x.shape[1] + 1) ** 3  # [N]
    return own.new_zeros(NUM_BLOCKS).index_add_(0, subsets.block, own)


def _block_sums_by_pairs(a: Tensor, b: Tensor, subsets_a: Subsets, subsets_b: Subsets) -> tuple[Tensor, ...]:
    """Kernel summed over the pairs of each two blocks, [16, 16]: within a, within b, between them."""

    def summed(x: Tensor, y: Tensor, block_x: Tensor, block_y: Tensor, chunk: int = 1024) -> Tensor:
        total = x.new_zeros(NUM_BLOCKS, NUM_BLOCKS)
        for rows, blocks in zip(x.split(chunk), block_x.split(chunk), strict=True):
            kernel = (rows @ y.T / x.shape[1] + 1) ** 3  # [n, M]
            by_column = x.new_zeros(len(rows), NUM_BLOCKS).index_add_(1, block_y, kernel)
            total.index_add_(0, blocks, by_column)
        return total

    blocks_a, blocks_b = subsets_a.block, subsets_b.block
    return summed(a, a, blocks_a, blocks_a), summed(b, b, blocks_b, blocks_b), summed(a, b, blocks_a, blocks_b)


def _block_sums_by_moments(a: Tensor, b: Tensor, subsets_a: Subsets, subsets_b: Subsets) -> tuple[Tensor, ...]:
    """The kernel is a polynomial of x.y, so the sum over all pairs is one of inner products of moments: N + M, not N M.

    sum_ij (x_i.y_j / D + 1)^3 = N M + 3 <A1, B1> / D + 3 <A2, B2> / D^2 + <A3, B3> / D^3.
    """
    moments_a, moments_b = _moments(a, subsets_a), _moments(b, subsets_b)  # [16, 1 + D + D^2 + D^2 (D + 1) / 2]
    return moments_a @ moments_a.T, moments_b @ moments_b.T, moments_a @ moments_b.T


def _moments(x: Tensor, subsets: Subsets) -> Tensor:
    """Count and sums of x, x (x) x and x (x) x (x) x over each block of x [N, D], so scaled that the kernel's sum over
    two blocks is their inner product; the last by pairs i <= j.

    A pair i < j stands for two equal entries, so it is scaled by sqrt(2).
    """
    dims = x.shape[1]
    i, j = torch.triu_indices(dims, dims, device=x.device)
    twice = torch.where(i == j, 1.0, 2.0).to(x.dtype).sqrt()[:, None]
    blocks = []
    for number in range(NUM_BLOCKS):
        rows = x[subsets.block == number]  # [n, D]
        third = (rows[:, i] * rows[:, j]).T @ rows * twice  # [D (D + 1) / 2, D]
        count = x.new_full((1,), len(rows))
        parts = (count, rows.sum(0) * math.sqrt(3 / dims), rows.T @ rows * (math.sqrt(3) / dims), third / dims**1.5)
        blocks.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(blocks)
