"""Moments of the aggregate posterior, block by block.

By the law of total variance, q(z) = 1/N sum_i N(m_i, diag(s_i^2)) has the mean of the m_i and the covariance of the m_i
plus the mean of diag(s_i^2). Blocks are merged by the differences of their means (Chan, Golub & LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), in float64: nothing large cancels.

A few wild rows, or heavy tails, make a variance that says nothing of where most latents are. Where it is that of a few,
units are those of the middle: `location_and_spread`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stage1_vae.latents import DiagonalNormal, LatentDataset
from stage1_vae.rows import spread_rows

TRIMMED = 0.005
"""Share of the latents that is left out at each end of a dimension, to see how wide the others are."""
WIDE = 1.5
"""Without them the deviation of normal latents is a thirtieth less. One that is more than so many times the others' is
made by a few."""
FEWEST_TRIMMED = 50
"""Latents of which at least the outermost one at each end is left out; of fewer that would leave too little."""
ROUNDING = 1e-12
"""Of a mean: a deviation below it is that of a dimension which never moves."""
TRIMMED_ROWS, TRIMMED_NUMBERS = 20_000, 2**22
"""Latents that are sorted for it, at most, and their numbers, of a thousand latents at least."""


@dataclass(frozen=True)
class Moments:
    """Moments over all N posteriors, float64; D dimensions, flattened.

    Attributes:
        mean: [D] of q(z).
        between: [D] variances or [D, D] covariance of the posterior means; of draws, each counts as one.
        within: [D] mean variance of a posterior; 0 for point masses.
        log_std: [D] mean logarithm of the posterior standard deviations; None for point masses and draws.
    """

    mean: Tensor
    between: Tensor
    within: Tensor
    log_std: Tensor | None

    @property
    def total(self) -> Tensor:
        """Variances [D] or covariance [D, D] of q(z)."""
        return self.between + (self.within if self.between.ndim == 1 else torch.diag(self.within))


def moments(latents: LatentDataset, device: torch.device | str = "cpu", full: bool = False) -> Moments:
    """Moments of q(z) on `device`, in one pass; `full`: with covariances and not variances alone."""
    dims = latents.spec.num_dims
    zeros = torch.zeros(dims, dtype=torch.float64, device=device)
    mean, within, log_std = zeros, zeros, zeros if latents.has_density else None
    latents = latents.in_points()
    between = torch.zeros(dims, dims, dtype=torch.float64, device=device) if full else zeros
    num = 0
    for posterior in latents.blocks():
        loc = posterior.mean.to(device).flatten(1).double()  # [n, D]
        num += len(loc)
        share = len(loc) / num
        its_mean = loc.mean(0)
        step = its_mean - mean
        if full:
            centred = loc - its_mean
            block, apart = centred.T @ centred / len(loc), torch.outer(step, step)
        else:
            block, apart = loc.var(0, unbiased=False), step.square()
        between = between + share * (block - between) + share * (1 - share) * apart
        mean = mean + share * step
        if isinstance(posterior, DiagonalNormal) and log_std is not None:
            its_log_std = posterior.log_std.to(device).flatten(1).double()
            within = within + share * (torch.exp(2 * its_log_std).mean(0) - within)
            log_std = log_std + share * (its_log_std.mean(0) - log_std)
    return Moments(mean, between, within, log_std)


def are_few(latents: LatentDataset) -> bool:
    """Whether these are points, and too few for the covariance of their dimensions: fewer than twice as many."""
    return not latents.has_density and len(latents) < 2 * latents.spec.num_dims


def correlation_shrinkage(white: Tensor) -> float:
    """The share by which correlations of points are to be shrunk towards 0, from 0 to 1.

    It minimises the expected squared error: sum of the variances of the correlations over that of their squares, over
    pairs (Schaefer & Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation", 2005, section 2.3).

    Args:
        white: [N, D] float64, standardised.
    """
    num = len(white)
    if num < 4:
        return 1.0
    correlation = white.T @ white / num
    square = white.square().T @ white.square() / num - correlation.square()  # variance of a product, [D, D]
    pairs = ~torch.eye(len(correlation), dtype=torch.bool, device=white.device)
    size = correlation[pairs].square().sum()
    return 1.0 if size == 0 else min(1.0, (square[pairs].sum() / (num - 1) / size).item())


def shrinkage_of_few(latents: LatentDataset, aggregate: Moments) -> float:
    """The same of points that are all in memory, since they are few, with their covariances in `aggregate`."""
    loc = torch.cat([block.mean.flatten(1).double() for block in latents.in_points().blocks()])
    mean, variance = aggregate.mean.cpu(), aggregate.total.diagonal().cpu()
    kept = variance > (ROUNDING * mean).square()
    return correlation_shrinkage((loc - mean)[:, kept] / variance[kept].sqrt())


def location_and_spread(latents: LatentDataset, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In which units to look at the latents, and where they were not those of all of them.

    Args:
        latents: of real numbers.
        mean, variance: [D] float64, of q(z); their device is that of the answer.

    Returns:
        Mean and standard deviation [D], 1 where nothing moves, and whether they are those of the middle alone [D],
        without the outermost 0.5 % at each end, at least one, since the deviation of all is more than 1.5 times as much
        (for trimming: Huber, "Robust Statistics", 1981, section 5.4).
    """
    points = latents.in_points()
    rows = spread_rows(len(points), min(TRIMMED_ROWS, max(1000, TRIMMED_NUMBERS // latents.spec.num_dims)))
    posterior = points.posterior(rows)
    loc = sorted_columns(posterior.mean.to(mean.device).flatten(1).double())  # [n, D]
    cut = max(1, round(TRIMMED * len(loc)))
    middle = loc[cut : len(loc) - cut] if len(loc) >= FEWEST_TRIMMED else loc
    within = posterior.variance.to(mean.device).flatten(1).double().mean(0)
    spread = middle.var(0, unbiased=False) + within
    least = (ROUNDING * mean).square()  # of the sums above: float32 itself is a hundred thousand times coarser
    few = (variance > WIDE**2 * spread) & (spread > least)
    unit = torch.where(few, spread, torch.where(variance > least, variance, 1.0)).sqrt()
    return torch.where(few, middle.mean(0), mean), unit, few


def sorted_columns(values: Tensor) -> Tensor:
    """[N, D] -> the same, each column by itself from least to greatest; contiguous ones sort three times as fast. What
    is returned lies row by row, as `values` do, so that sums over it round as they always have."""
    return values.T.contiguous().sort(1).values.T.contiguous()
