"""Posteriors as the points that EM fits: standardised, and read from the disk some rows at a time if they are many."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, Posterior
from stage1_vae.rows import spread_rows
from stage2_prior.em.covariances import Covariance
from stage2_prior.moments import location_and_spread, moments

WIDEST, ROWS = 6.0, 20_000
"""Units of a dimension beyond which a deviation is that of a few wild latents, and latents that are looked at then.
That of Student's law with 2 degrees is nearly always less, that of 3,000 of which one is 10,000 units out is not."""


@dataclass(frozen=True)
class Points:
    """N points N(loc, diag(variance)); loc and variance [N, D], in standardised coordinates, in memory."""

    loc: Tensor
    variance: Tensor

    @property
    def device(self) -> torch.device:
        return self.loc.device

    def __len__(self) -> int:
        return len(self.loc)

    def rows(self, rows: slice | Tensor) -> "Points":
        return Points(self.loc[rows], self.variance[rows])

    def features(self, covariance: Covariance, dtype: torch.dtype) -> Tensor:
        return covariance.features(self.loc.to(dtype), self.variance.to(dtype))


@dataclass(frozen=True)
class Scaling:
    """From latents to standardised points and back.

    Attributes:
        shift, unit: [D] float64, on the device of the fit.
        min_std: by which every posterior is widened, in units.
        has_tails: whether a few points are so far out that the units are those of the others.
    """

    shift: Tensor
    unit: Tensor
    min_std: float
    has_tails: bool = False

    @property
    def log_unit(self) -> float:
        """By how much more, in nats, a latent costs than its standardised point."""
        return self.unit.log().sum().item()

    def points(self, posterior: Posterior) -> Points:
        loc, variance = (value.to(self.unit.device) for value in (posterior.mean, posterior.variance))
        scaled = (loc - self.shift.to(loc)) / self.unit.to(loc)
        return Points(scaled, variance / self.unit.square().to(loc) + self.min_std**2)


@dataclass(frozen=True)
class StoredPoints:
    """All posteriors of `latents`, of which only the rows that are asked for are in memory."""

    latents: LatentDataset
    scaling: Scaling

    @property
    def device(self) -> torch.device:
        return self.scaling.unit.device

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, rows: slice | Tensor) -> Points:
        return self.scaling.points(self.latents.posterior(rows.cpu() if isinstance(rows, Tensor) else rows))


PointSet = Points | StoredPoints
"""N points that are read some rows at a time, wherever they lie."""


def in_memory(
    latents: LatentDataset, device: torch.device, isotropic: bool, min_std: float
) -> tuple[Points, Scaling, Tensor]:
    """All posteriors in units of the pooled standard deviation, the scaling, and their total covariance [D, D]."""
    posterior = latents.posterior(slice(None))
    loc, variance = posterior.mean.to(device), posterior.variance.to(device)
    mean = loc.mean(0, dtype=torch.float64)
    pooled = (loc.double() - mean).square().mean(0) + variance.mean(0, dtype=torch.float64)  # [D]
    scaling = _scaling(latents, mean, pooled, isotropic, min_std)
    points = scaling.points(posterior)
    centred = points.loc.double() - points.loc.mean(0, dtype=torch.float64)
    total = centred.T @ centred / len(points) + torch.diag(points.variance.double().mean(0))
    return points, scaling, total


def on_disk(
    latents: LatentDataset, device: torch.device, isotropic: bool, min_std: float
) -> tuple[StoredPoints, Scaling, Tensor]:
    """The same of a set that is read block by block."""
    aggregate = moments(latents, device, full=True)
    scaling = _scaling(latents, aggregate.mean, aggregate.total.diagonal(), isotropic, min_std)
    widened = torch.diag(torch.full_like(aggregate.mean, min_std**2))
    total = aggregate.total / torch.outer(scaling.unit, scaling.unit) + widened
    return StoredPoints(latents, scaling), scaling, total


def _scaling(latents: LatentDataset, mean: Tensor, pooled: Tensor, isotropic: bool, min_std: float) -> Scaling:
    """Of latents with this mean and these variances [D]; `isotropic`: one unit for all dimensions."""
    shift, unit, few = location_and_spread(latents, mean, pooled)
    unit = unit.square().mean().sqrt().expand_as(unit) if isotropic else unit
    return Scaling(shift, unit, min_std, bool(few.any()))


def covariance_of_most(points: PointSet, total: Tensor, scaling: Scaling) -> Tensor:
    """`total` [D, D] of standardised points; where a few wild ones make a dimension wider than `WIDEST`, that of those
    which lie within it in all dimensions."""
    if not scaling.has_tails or total.diagonal().max() <= WIDEST**2:
        return total
    some = points.rows(spread_rows(len(points), ROWS))
    most = (some.loc.abs() <= WIDEST).all(1)
    if int(most.sum()) <= len(total):
        return total
    loc = some.loc[most].double()
    centred = loc - loc.mean(0)
    return centred.T @ centred / len(loc) + torch.diag(some.variance[most].double().mean(0))
