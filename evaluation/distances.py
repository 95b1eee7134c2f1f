"""Distances between two sets of feature vectors, all in float64.

- Frechet distance |m_a - m_b|^2 + tr(A + B - 2 (AB)^(1/2)) between the normal laws of the same means and covariances
  (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6).
- Kernel distance: unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3
  (Binkowski et al., "Demystifying MMD GANs", 2018, section 3.1). Unbiased, so it may fall a little below zero.
- Precision and recall: the share of one set inside the k-nearest-neighbour balls of the other
  (Kynkaanniemi et al., "Improved Precision and Recall Metric", 2019, eq. 1-3).
- Density and coverage: how many reference balls a sample falls into, over k, and the share of reference balls that hold
  a sample (Naeem et al., "Reliable Fidelity and Diversity Metrics", 2020, eq. 3-4); more robust to outliers.

For the two distances lower is better; for the four shares higher is better (density may exceed 1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.errors import EvaluationError

MOMENT_DIMS = 128
"""Up to this dimension the kernel sum goes by moments: D^3 numbers are 16 MB."""


@dataclass(frozen=True)
class Neighbours:
    """Figures from k-nearest-neighbour balls; `k` is the number of neighbours."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


@dataclass(frozen=True)
class Distances:
    """A set of samples against a reference set; see the module for each figure."""

    frechet_distance: float
    kernel_distance: float
    precision: float
    recall: float
    density: float
    coverage: float
    num_samples: int
    num_reference: int


@dataclass(frozen=True)
class Reference:
    """A reference set with what only it decides, so that several sets of samples share the work.

    Attributes:
        features: [N, D] float64.
        radius: [N] squared distance to the k-th nearest other reference vector.
        k: number of neighbours.
    """

    features: Tensor
    radius: Tensor
    k: int

    @classmethod
    def of(cls, features: Tensor, k: int = 5) -> "Reference":
        """Prepare `features` [N, D].

        Raises:
            EvaluationError: for fewer than 2 D vectors, none with a k-th neighbour, or NaN or infinity among them.
        """
        check_enough(features, "reference images")
        features = features.double()
        return cls(features, _kth_distance(features, k), k)


def distances(reference: Reference, features: Tensor) -> Distances:
    """All figures of `features` [M, D] against `reference`.

    Raises:
        EvaluationError: for fewer than 2 D vectors, none with a k-th neighbour, or NaN or infinity among them.
    """
    check_enough(features, "samples")
    features = features.double()
    near = neighbours(reference, features)
    return Distances(
        frechet_distance=frechet_distance(reference.features, features),
        kernel_distance=kernel_distance(reference.features, features),
        precision=near.precision,
        recall=near.recall,
        density=near.density,
        coverage=near.coverage,
        num_samples=len(features),
        num_reference=len(reference.features),
    )


def check_enough(features: Tensor, what: str) -> None:
    """Refuse a set that is too small for a covariance, or not finite.

    Raises:
        EvaluationError: with the remedy.
    """
    num, dims = features.shape
    if num < 2 * dims:
        raise EvaluationError(
            f"{num} {what} are too few for a distance on {dims}-dimensional features: "
            f"use at least {2 * dims} (evaluation.num_samples, or more test images)"
        )
    if not torch.isfinite(features).all():
        raise EvaluationError(
            f"the features of the {what} hold NaN or infinity: the images do too, or the net diverged"
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


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD between a [N, D] and b [M, D] under the cubic kernel, over all pairs."""
    a, b = a.double(), b.double()
    n, m = len(a), len(b)
    kernel_sum = _kernel_sum_by_moments if a.shape[1] <= MOMENT_DIMS else _kernel_sum_by_pairs
    within_a = kernel_sum(a, a) - _kernel(a.square().sum(1), a.shape[1])
    within_b = kernel_sum(b, b) - _kernel(b.square().sum(1), b.shape[1])
    return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * kernel_sum(a, b) / (n * m)


def _kernel(inner: Tensor, dims: int) -> float:
    base = inner / dims + 1
    return (base.square() * base).sum().item()


def _kernel_sum_by_pairs(a: Tensor, b: Tensor, chunk: int = 1024) -> float:
    return sum(_kernel(rows @ b.T, a.shape[1]) for rows in a.split(chunk))


def _kernel_sum_by_moments(a: Tensor, b: Tensor) -> float:
    """The kernel is a polynomial of x.y, so the sum over all pairs is one of inner products of moments: N + M, not N M.

    sum_ij (x_i.y_j / D + 1)^3 = N M + 3 <A1, B1> / D + 3 <A2, B2> / D^2 + <A3, B3> / D^3.
    """
    dims = a.shape[1]
    moments_a = _moments(a)
    moments_b = moments_a if a is b else _moments(b)
    first, second, third = (torch.sum(x * y).item() for x, y in zip(moments_a, moments_b, strict=True))
    return len(a) * len(b) + 3 * first / dims + 3 * second / dims**2 + third / dims**3


def _moments(x: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of x, x (x) x and x (x) x (x) x over the rows of x [N, D]; the last by pairs i <= j, [D (D + 1) / 2, D].

    A pair i < j stands for two equal entries, so it is scaled by sqrt(2): inner products of moments come out right.
    """
    i, j = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
    scale = torch.where(i == j, 1.0, 2.0).to(x.dtype).sqrt()
    third = x.new_zeros(len(i), x.shape[1])
    for rows in x.split(chunk):
        third.addmm_((rows[:, i] * rows[:, j]).T, rows)
    return x.sum(0), x.T @ x, third * scale[:, None]


def neighbours(reference: Reference, features: Tensor, chunk: int = 512) -> Neighbours:
    """Precision, recall, density and coverage of `features` [M, D] against `reference`.

    Raises:
        EvaluationError: when `features` has no k-th neighbour.
    """
    features = features.double()
    radius_features = _kth_distance(features, reference.k)  # [M] squared
    recalled = torch.zeros(len(reference.features), dtype=torch.bool, device=features.device)
    nearest = torch.full_like(reference.radius, math.inf)  # [N] squared distance to the nearest sample
    precise = hits = 0
    for rows, radius in zip(features.split(chunk), radius_features.split(chunk), strict=True):
        squared = _squared_distances(rows, reference.features)  # [m, N]
        balls = (squared <= reference.radius).count_nonzero(dim=1)  # [m] reference balls that each sample is in
        precise += int(balls.count_nonzero())
        hits += int(balls.sum())
        recalled |= (squared <= radius[:, None]).any(0)
        nearest = torch.minimum(nearest, squared.amin(0))
    return Neighbours(
        precision=precise / len(features),
        recall=recalled.double().mean().item(),
        density=hits / (reference.k * len(features)),
        coverage=(nearest <= reference.radius).double().mean().item(),
        k=reference.k,
    )


def _kth_distance(features: Tensor, k: int, chunk: int = 512) -> Tensor:
    """Squared distance of each vector to its k-th nearest other one, [N]."""
    if len(features) <= k:
        raise EvaluationError(f"{k} nearest neighbours need more than {k} vectors in each set (evaluation.num_samples)")
    parts = []
    for start in range(0, len(features), chunk):
        squared = _squared_distances(features[start : start + chunk], features)  # [n, N]
        rows = torch.arange(len(squared), device=features.device)
        squared[rows, start + rows] = math.inf  # a vector is not its own neighbour
        parts.append(squared.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(parts)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2, [n, m], as one matrix product of augmented vectors; float64 absorbs the cancellation."""
    left = torch.cat([-2 * a, a.square().sum(1, keepdim=True), torch.ones_like(a[:, :1])], dim=1)  # [n, D + 2]
    right = torch.cat([b, torch.ones_like(b[:, :1]), b.square().sum(1, keepdim=True)], dim=1)  # [m, D + 2]
    return (left @ right.T).clamp_(min=0)


def gap_closed(fd_baseline: float, fd_prior: float, fd_reconstructions: float) -> float | None:
    """Share of the Frechet distance between baseline and reconstructions that the learned prior removes.

    1: samples are as good as reconstructions, the best that this decoder can do; 0: no better than the baseline;
    None where the baseline is already no worse than the reconstructions.
    """
    gap = fd_baseline - fd_reconstructions
    return (fd_baseline - fd_prior) / gap if gap > 0 else None
