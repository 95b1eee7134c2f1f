"""One latent dimension at a time: is it used, and does its marginal look like the prior's?

- Active units: dimensions whose posterior mean varies over images, Var_x(E[z_d|x]) > 0.01 (Burda, Grosse &
  Salakhutdinov, "Importance Weighted Autoencoders", 2016, section 5.2). Latents from elsewhere have units of their own:
  there it is 0.01 of the variance of q(z) in that dimension, which N(0, I) would make 1.
- Posterior collapse: the posterior of the dimension is the unit normal for practically every image,
  P_x(KL(q(z_d|x) || N(0, 1)) < epsilon) >= 1 - delta (Lucas, Tucker, Grosse & Norouzi, "Don't Blame the ELBO!", 2019,
  definition 1), here with epsilon = 0.05 nats and delta = 0.01. A dimension may be inactive without having collapsed
  (a constant code with little noise), and has no collapse to speak of where posteriors are point masses.
- Wasserstein-1 distance between the marginals of q(z) and of the prior: between two equally large samples it is the
  mean distance of their order statistics. It is in units of z. Two samples of one density are some way apart too; that
  distance, measured between random halves of both samples thrown together, is given beside it as the floor.

A prior may match every marginal and still be far from q(z): marginals see no dependence between dimensions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError

ACTIVE_VARIANCE = 0.01
COLLAPSE_NATS, COLLAPSE_SHARE = 0.05, 0.99


@dataclass(frozen=True)
class Units:
    """How the dimensions of the latent are used; all [D], for flattened latents.

    Attributes:
        mean_variance: variance over images of the posterior mean.
        active: `mean_variance` above 0.01, or above that share of the variance of q(z).
        collapsed: not active, and the posterior is N(0, 1) for 99 % of images; None for point masses, and for latents
            in units of their own. The two thresholds overlap a little: a mean that varies by 0.11 is active and costs
            0.006 nats.
    """

    mean_variance: Tensor
    active: Tensor
    collapsed: Tensor | None


@torch.no_grad()
def units(blocks: Iterable[tuple[Tensor, Tensor | None]], in_own_units: bool = False) -> Units:
    """Active and collapsed dimensions, from latents that need not fit in memory.

    Args:
        blocks: posterior means and log standard deviations (None for point masses), [n, *latent] each; at least two
            images in all.
        in_own_units: of latents whose autoencoder was not trained against N(0, I), or was rescaled.

    Raises:
        EvaluationError: for fewer than two images.
    """
    num, unused = 0, None
    shift, total, squares, within = (torch.zeros(0) for _ in range(4))
    for means, log_stds in blocks:
        means = means.flatten(1).double()  # [n, D]
        if num == 0:
            shift = means.mean(0)  # near the mean of all, so that nothing large cancels
            total, squares, within = (torch.zeros_like(shift) for _ in range(3))
            unused = None if log_stds is None else torch.zeros_like(shift)
        num += len(means)
        total += (means - shift).sum(0)
        squares += (means - shift).square().sum(0)
        if log_stds is not None and unused is not None:
            log_stds = log_stds.flatten(1).double()
            within += torch.exp(2 * log_stds).sum(0)
            kl_nats = 0.5 * (means.square() + torch.exp(2 * log_stds) - 1) - log_stds  # [n, D]
            unused += (kl_nats < COLLAPSE_NATS).sum(0)
    if num < 2:
        raise EvaluationError("active units need at least two images: a variance over images is asked for")
    variance = (squares - total.square() / num) / (num - 1)  # [D]
    active = variance > ACTIVE_VARIANCE * (variance + within / num if in_own_units else 1)
    collapsed = None if unused is None or in_own_units else (unused / num >= COLLAPSE_SHARE) & ~active
    return Units(variance, active, collapsed)


@torch.no_grad()
def wasserstein_1(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance of each marginal of a [n, *latent] and b [n, *latent], [D] in units of z.

    Raises:
        EvaluationError: the samples are not equally large, or empty.
    """
    if len(a) != len(b) or len(a) == 0:
        raise EvaluationError(f"marginals are compared between equally large samples, got {len(a)} and {len(b)}")
    return (a.flatten(1).sort(dim=0).values - b.flatten(1).sort(dim=0).values).abs().mean(0)


@torch.no_grad()
def wasserstein_1_floor(a: Tensor, b: Tensor) -> Tensor:
    """The distance of two samples of one density as large as these, [D]: between random halves of both together."""
    together = torch.cat([a.flatten(1), b.flatten(1)])
    order = torch.randperm(len(together), generator=torch.Generator().manual_seed(0)).to(together.device)
    return wasserstein_1(together[order[: len(a)]], together[order[len(a) :]])
