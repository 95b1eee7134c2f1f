"""Gaussian components in exponential-family form, one class a kind of covariance.

A Gaussian is log N(z; m, S) = w . T(z) with statistics T(z) = (1, z, quadratic terms of z) and natural parameters w
that depend on (m, S) alone (Bishop, "Pattern Recognition and Machine Learning", 2006, section 2.4). So the
log-densities of N points under K components are one matrix product [N, F] @ [F, K], and the statistics that the M-step
needs are another, [K, N] @ [N, F]. For a point known only as N(m_i, diag(s_i^2)), E[T(z)] has the same form with z^2
replaced by m_i^2 + s_i^2.

The scale L of a component is its Cholesky factor, S = L L^T: [K, D, D], or [1, D, D] where all share it, or the
diagonal alone, [K, D], or [K, 1] where all dimensions share it.

Variances are shrunk towards a common guess S0, worth `pseudo_counts` (nu) points: S_k = (n_k S_k + nu S0) / (n_k + nu),
the posterior mode under an inverse-Wishart-like prior (Fraley & Raftery, "Bayesian Regularization for Normal Mixture
Estimation and Model-Based Clustering", 2007), whose log-density is -nu/2 (log|S_k| + tr(S_k^-1 S0)) + const.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def part_variance(num_components: int, num_dims: int) -> float:
    """How much smaller than the whole K equal parts of it are, as a variance (Fraley & Raftery, 2007, section 3)."""
    return num_components ** (-2 / num_dims)


def _log_normal(white: Tensor) -> Tensor:
    """log N(0, I) of `white` [N, K, D]: [N, K] nats, read once and without a second tensor of that size."""
    return -0.5 * (torch.einsum("nkd,nkd->nk", white, white) + white.shape[2] * LOG_2PI)


@dataclass(frozen=True)
class MatrixCovariance:
    """Full covariances, [K, D, D], or one shared by all components ("tied"), [1, D, D]."""

    shared: bool = False
    isotropic = False  # whether all dimensions share one variance

    def scale_shape(self, num_components: int, num_dims: int) -> tuple[int, ...]:
        return (1 if self.shared else num_components, num_dims, num_dims)

    def features(self, loc: Tensor, variance: Tensor) -> Tensor:
        """Expected statistics (1, z, z_i z_j for j <= i) of N(loc, diag(variance)): [N, 1 + D + D (D + 1) / 2]."""
        num_dims = loc.shape[1]
        rows = [loc[:, i : i + 1] * loc[:, : i + 1] for i in range(num_dims)]  # row i: z_i (z_0 ... z_i)
        for i, row in enumerate(rows):
            row[:, i] += variance[:, i]
        return torch.cat([torch.ones_like(loc[:, :1]), loc, *rows], dim=1)

    def natural(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> Tensor:
        """Natural parameters of the components, log weights among them: [F, K]."""
        num_components, num_dims = means.shape
        precision = torch.cholesky_inverse(scale).expand(num_components, -1, -1)  # [K, D, D]
        linear = torch.einsum("kde,ke->kd", precision, means)
        log_det = scale.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = log_weights - 0.5 * (means * linear).sum(1) - log_det - 0.5 * num_dims * LOG_2PI
        i, j = torch.tril_indices(num_dims, num_dims, device=means.device)
        quadratic = -0.5 * precision[:, i, j] * torch.where(i == j, 1.0, 2.0)  # j < i stands for both halves
        return torch.cat([constant[:, None], linear, quadratic], dim=1).T

    def moments(self, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of `stats` [K, F]: counts n_k [K], means [K, D], and n_k S_k [K, D, D]; [1, D, D] where all share theirs."""
        count = stats[:, 0].clamp_min(torch.finfo(stats.dtype).tiny)  # [K]
        num_dims = (math.isqrt(8 * stats.shape[1] + 1) - 3) // 2  # F = (D + 1) (D + 2) / 2
        means = stats[:, 1 : 1 + num_dims] / count[:, None]  # [K, D]
        i, j = torch.tril_indices(num_dims, num_dims, device=stats.device)
        moment = stats.new_zeros(len(stats), num_dims, num_dims)
        moment[:, i, j] = moment[:, j, i] = stats[:, 1 + num_dims :]
        scatter = moment - count[:, None, None] * means[:, :, None] * means[:, None, :]
        return count, means, scatter.sum(0, keepdim=True) if self.shared else scatter

    def maximise(self, stats: Tensor, guess: Tensor, pseudo_counts: float) -> tuple[Tensor, Tensor]:
        """Means and scale that maximise the bound given `stats` [K, F]."""
        count, means, scatter = self.moments(stats)
        pseudo_counts = max(pseudo_counts, EMPTY_COUNTS)
        if self.shared:
            count = count.sum(0, keepdim=True)
        covariance = (scatter + pseudo_counts * guess) / (count + pseudo_counts)[:, None, None]
        return means, cholesky(covariance)

    def mean_of(self, weights: Tensor, covariances: Tensor) -> Tensor:
        """The mean [D, D] of `covariances` [K, D, D] by `weights` [K]."""
        return (weights[:, None, None] * covariances).sum(0)

    def inverse(self, covariances: Tensor) -> Tensor:
        """[..., D, D] -> the same."""
        return torch.cholesky_inverse(cholesky(covariances))

    def guess(self, total: Tensor, num_components: int) -> Tensor:
        """S0 for a whole of covariance `total` [D, D]: the same, or its diagonal [D] where scales are vectors."""
        return total * part_variance(num_components, len(total))

    def factor(self, guess: Tensor) -> Tensor:
        """The scale of one component of covariance `guess`."""
        return cholesky(guess)

    def log_prior(self, scale: Tensor, guess: Tensor, pseudo_counts: float) -> Tensor:
        if not pseudo_counts:
            return scale.new_zeros(())
        log_det = 2 * scale.diagonal(dim1=1, dim2=2).log().sum()
        trace = (torch.cholesky_inverse(scale) * guess).sum()
        return -0.5 * pseudo_counts * (log_det + trace)

    def log_density(self, means: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
        """The log-densities of the components as a function, [N, D] -> [N, K] nats."""
        num_components, num_dims = means.shape
        identity = torch.eye(num_dims, dtype=scale.dtype, device=scale.device).expand_as(scale)
        inverse = torch.linalg.solve_triangular(scale, identity, upper=False).expand(num_components, -1, -1)
        whiten = inverse.reshape(-1, num_dims).T  # [D, K * D]: all components in one product
        centre = torch.einsum("kde,ke->kd", inverse, means).flatten()
        log_det = scale.diagonal(dim1=1, dim2=2).log().sum(1)

        def log_density(z: Tensor) -> Tensor:
            white = torch.addmm(centre, z, whiten, beta=-1).view(-1, num_components, num_dims)  # [N, K, D]
            return _log_normal(white) - log_det

        return log_density

    def colour(self, noise: Tensor, scale: Tensor, component: Tensor) -> Tensor:
        if self.shared:
            return noise @ scale[0].T
        order = component.argsort()  # component by component, so that no [n, D, D] is ever held
        out = torch.empty_like(noise)
        sizes = component.bincount(minlength=len(scale)).tolist()
        for rows, factor in zip(order.split(sizes), scale, strict=True):
            out[rows] = noise[rows] @ factor.T
        return out

    def rescale(self, scale: Tensor, unit: Tensor) -> Tensor:
        return unit[:, None] * scale


@dataclass(frozen=True)
class VectorCovariance:
    """Diagonal covariances, [K, D], or one variance for all dimensions of a component ("spherical"), [K, 1]."""

    isotropic: bool = False
    shared = False  # whether all components have one

    def scale_shape(self, num_components: int, num_dims: int) -> tuple[int, ...]:
        return (num_components, 1 if self.isotropic else num_dims)

    def features(self, loc: Tensor, variance: Tensor) -> Tensor:
        """Expected statistics (1, z, z^2) of N(loc, diag(variance)): [N, 1 + 2 D]."""
        return torch.cat([torch.ones_like(loc[:, :1]), loc, loc.square() + variance], dim=1)

    def natural(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> Tensor:
        scale = scale.expand_as(means)
        precision = scale.pow(-2)  # [K, D]
        per_dim = -0.5 * (means.square() * precision + LOG_2PI) - scale.log()
        return torch.cat([(log_weights + per_dim.sum(1))[:, None], means * precision, -0.5 * precision], dim=1).T

    def moments(self, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of `stats` [K, F]: counts n_k [K], means [K, D], and n_k times the variances [K, D]; where these are of all
        dimensions together, the same in each."""
        count = stats[:, 0].clamp_min(torch.finfo(stats.dtype).tiny)  # [K]
        num_dims = stats.shape[1] // 2
        means = stats[:, 1 : 1 + num_dims] / count[:, None]  # [K, D]
        scatter = (stats[:, 1 + num_dims :] - count[:, None] * means.square()).clamp_min(0)
        return count, means, scatter.mean(1, keepdim=True).expand_as(scatter) if self.isotropic else scatter

    def maximise(self, stats: Tensor, guess: Tensor, pseudo_counts: float) -> tuple[Tensor, Tensor]:
        count, means, scatter = self.moments(stats)
        pseudo_counts = max(pseudo_counts, EMPTY_COUNTS)
        variance = (scatter + pseudo_counts * guess) / (count + pseudo_counts)[:, None]
        return means, variance[:, : 1 if self.isotropic else None].clamp_min(SMALLEST_VARIANCE).sqrt()

    def mean_of(self, weights: Tensor, covariances: Tensor) -> Tensor:
        """The mean [D] of variances [K, D] by `weights` [K]."""
        return (weights[:, None] * covariances).sum(0)

    def inverse(self, covariances: Tensor) -> Tensor:
        """[..., D] -> the same."""
        return 1 / covariances.clamp_min(SMALLEST_VARIANCE)

    def guess(self, total: Tensor, num_components: int) -> Tensor:
        variance = total.diagonal()  # [D], also where all are equal
        variance = variance.mean().expand_as(variance) if self.isotropic else variance
        return variance * part_variance(num_components, len(total))

    def factor(self, guess: Tensor) -> Tensor:
        return guess[..., :1].sqrt() if self.isotropic else guess.sqrt()

    def log_prior(self, scale: Tensor, guess: Tensor, pseudo_counts: float) -> Tensor:
        return -0.5 * pseudo_counts * (2 * scale.log() + guess * scale.pow(-2)).sum()

    def log_density(self, means: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
        scale = scale.expand_as(means)
        log_det = scale.log().sum(1)
        return lambda z: _log_normal((z[:, None] - means) / scale) - log_det

    def colour(self, noise: Tensor, scale: Tensor, component: Tensor) -> Tensor:
        return noise * scale[component]

    def rescale(self, scale: Tensor, unit: Tensor) -> Tensor:
        return scale * (unit[:1] if self.isotropic else unit)


Covariance = MatrixCovariance | VectorCovariance
COVARIANCES: dict[str, Covariance] = {
    "full": MatrixCovariance(),
    "tied": MatrixCovariance(shared=True),
    "diagonal": VectorCovariance(),
    "spherical": VectorCovariance(isotropic=True),
}

SMALLEST_VARIANCE = 1e-12
"""Of standardised latents: below it a component is a point."""

EMPTY_COUNTS = 1e-8
"""Weight of the guess that an empty component falls back on, where no shrinkage is asked for."""


def cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factors of [..., D, D]; singular ones get the smallest ridge, by powers of ten, that makes them regular.
    Of points so far out that rounding has left nothing of how they are spread, one that covers the rounding does.

    Raises:
        torch.linalg.LinAlgError: when no ridge helps (it holds NaN).
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp_min(SMALLEST_VARIANCE)  # [..., 1]
    ridge = torch.zeros_like(size)
    for exponent in range(-12, 1):
        if not failed.any():
            return factor
        ridge = torch.where(failed[..., None] > 0, 10.0**exponent * size, ridge)
        factor, failed = torch.linalg.cholesky_ex(covariance + torch.diag_embed(ridge.expand(covariance.shape[:-1])))
    beyond = 2 * covariance.abs().sum(-1).amax(-1, keepdim=True)  # every eigenvalue, by Gershgorin's circles
    ridge = torch.where(failed[..., None] > 0, beyond, ridge)
    return torch.linalg.cholesky(covariance + torch.diag_embed(ridge.expand(covariance.shape[:-1])))
