"""Where EM begins: k-means++ and a few Lloyd iterations on draws of a sample of the points, or points at random.

k-means++ goes to where points are far from each other, and may have no centre left for what is narrow beside something
wide; a random point lies in each part of the points as often as the part weighs.
"""

import torch
from torch import Tensor

from stage2_prior.em.covariances import Covariance
from stage2_prior.em.gaussian import cluster_statistics
from stage2_prior.em.points import Points, PointSet
from stage2_prior.fitting import FitRun

POINTS_AT_ONCE = 8192
"""Of k-means."""


def start_statistics(
    points: PointSet, covariance: Covariance, num: int, iterations: int, run: FitRun, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Summed statistics [K, F] of the points of `num` clusters of a sample, and how many points it has."""
    sample, drawn = draw_sample(points, num, run, generator)
    stats = cluster_statistics(sample, kmeans(drawn, num, iterations, generator), covariance, num)
    return run.ranks.broadcast(stats), len(sample)  # another kind of machine rounds otherwise


def random_statistics(
    points: PointSet, covariance: Covariance, num: int, run: FitRun, generator: torch.Generator
) -> Tensor:
    """Mean statistics [K, F] of a sample's points, each with the nearest of `num` that were drawn at random."""
    sample, drawn = draw_sample(points, num, run, generator)
    centres = drawn[torch.randperm(len(sample), generator=generator)[:num].to(drawn.device)]
    stats = cluster_statistics(sample, assign(drawn, centres), covariance, num)
    return run.ranks.broadcast(stats) / len(sample)


def draw_sample(points: PointSet, least: int, run: FitRun, generator: torch.Generator) -> tuple[Points, Tensor]:
    """Some of the points, `least` at least where there are as many, and a draw [N, D] of each."""
    chosen = torch.randperm(len(points), generator=generator)[: max(run.sizes.start_points, least)]
    sample = points.rows(chosen.to(points.device))
    noise = torch.randn(sample.loc.shape, generator=generator).to(sample.loc.device)
    return sample, sample.loc + sample.variance.sqrt() * noise


def seed_centres(points: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """k-means++ centres [num, D] among `points` [N, D]; where fewer than `num` points differ, some centres repeat.

    Each next centre is a point drawn with a probability proportional to its squared distance from the nearest centre so
    far (Arthur & Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007).
    """
    centres = points.new_empty(num, points.shape[1])
    distance = points.new_full((len(points),), 1.0)  # the first is drawn uniformly
    for k in range(num):
        weight = distance if distance.sum() > 0 else torch.ones_like(distance)
        cumulative = weight.double().cumsum(0)
        target = torch.rand((), generator=generator, dtype=torch.float64).to(points.device) * cumulative[-1]
        centres[k] = points[torch.searchsorted(cumulative, target).clamp_max(len(points) - 1)]
        to_new = (points - centres[k]).square().sum(1)
        distance = to_new if k == 0 else torch.minimum(distance, to_new)
    return centres


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each point, [N]."""
    half_norm = 0.5 * centres.square().sum(1)
    return torch.cat([(half_norm - rows @ centres.T).argmin(1) for rows in points.split(POINTS_AT_ONCE)])


def kmeans(points: Tensor, num: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Assignment [N] of `points` [N, D] to `num` clusters, each with at least one point while enough differ."""
    centres = seed_centres(points, num, generator)
    for _ in range(iterations):
        nearest = assign(points, centres)
        count = torch.bincount(nearest, minlength=num)
        total = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centres)
    return assign(points, centres)
