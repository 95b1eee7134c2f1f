"""Moments of the aggregate posterior, block by block.

By the law of total variance, q(z) = 1/N sum_i N(m_i, diag(s_i^2)) has the mean of the m_i and the covariance of the m_i
plus the mean of diag(s_i^2). Blocks are merged by the differences of their means (Chan, Golub & LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), in float64: nothing large cancels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stage1_vae.latents import DiagonalNormal, LatentDataset


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
