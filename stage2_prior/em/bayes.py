"""Variational Bayes for a mixture of Gaussians with a Dirichlet process over its weights.

Weights are broken from a stick: pi_k = v_k prod_{j<k} (1 - v_j), v_k ~ Beta(1, alpha), v_K = 1 (Blei & Jordan,
"Variational Inference for Dirichlet Process Mixtures", 2006, truncated at K); components are Gaussian-Wishart, mu_k ~
N(0, (beta_0 Lambda_k)^-1), Lambda_k ~ W(W_0, nu_0) (Bishop, "Pattern Recognition and Machine Learning", 2006, section
10.2). A component that no point needs falls back on its prior and keeps no weight: their number is an answer.

All factors of the variational posterior follow from the expected statistics of the points (equations 10.60 to 10.63),
and all that the E-step needs of them is a mixture again: E log pi_k + E log N(z; mu_k, Lambda_k^-1) (10.64 to 10.66) is
log c_k + log N(z; m_k, (nu_k W_k)^-1) with a weight c_k that takes up every expectation. So the E-step is that of
`stage2_prior.em.gaussian`, for points that are Gaussians themselves, and the state is those statistics alone.

Components stand in the order of their weights: it is the order in which a stick costs least (Kurihara, Welling & Teh,
"Collapsed Variational Dirichlet Process Mixture Models", 2007, section 5).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stage1_vae.ranks import ALONE, Ranks
from stage2_prior.em.covariances import MatrixCovariance, cholesky
from stage2_prior.em.gaussian import Components, Statistics, e_step
from stage2_prior.em.points import PointSet

FULL = MatrixCovariance()


@dataclass(frozen=True)
class Belief:
    """Before the points are seen, the same for each component; in standardised coordinates, whose mean is 0.

    Attributes:
        concentration: alpha; the higher, the more components.
        mean_counts: beta_0, points that the mean 0 is worth.
        degrees: nu_0 of the Wishart, at least the number of dimensions.
        guess: [D, D], the covariance (nu_0 W_0)^-1.
    """

    concentration: float
    mean_counts: float
    degrees: float
    guess: Tensor


@dataclass(frozen=True)
class Factors:
    """The variational posterior of K components, which are in the order of their counts.

    Attributes:
        ones, others: [K] of Beta(ones, others) for each stick but the last, which is whole.
        mean_counts, degrees: [K].
        means: [K, D].
        scale: [K, D, D], Cholesky factors of the covariances (nu_k W_k)^-1.
    """

    ones: Tensor
    others: Tensor
    mean_counts: Tensor
    degrees: Tensor
    means: Tensor
    scale: Tensor

    @classmethod
    def of(cls, stats: Tensor, belief: Belief) -> "Factors":
        """What maximises the bound given the summed statistics `stats` [K, F] of the points."""
        stats = stats[stats[:, 0].argsort(descending=True, stable=True)]
        count, num_dims = stats[:, 0], len(belief.guess)
        mean_counts, degrees = belief.mean_counts + count, belief.degrees + count
        means = stats[:, 1 : 1 + num_dims] / mean_counts[:, None]
        i, j = torch.tril_indices(num_dims, num_dims, device=stats.device)
        moment = stats.new_zeros(len(stats), num_dims, num_dims)
        moment[:, i, j] = moment[:, j, i] = stats[:, 1 + num_dims :]
        scatter = moment - mean_counts[:, None, None] * means[:, :, None] * means[:, None, :]
        covariance = (belief.degrees * belief.guess + scatter) / degrees[:, None, None]
        later = count.flip(0).cumsum(0).flip(0) - count
        return cls(1 + count, belief.concentration + later, mean_counts, degrees, means, cholesky(covariance))

    @property
    def log_weights(self) -> Tensor:
        """[K] logarithms of the expected weights, which sum to one."""
        total = self.ones + self.others
        return break_stick((self.ones / total).log(), (self.others / total).log())

    def mixture(self) -> Components:
        """The components at the expected weights, means and precisions."""
        return Components(self.log_weights, self.means, self.scale)

    def expected(self) -> Components:
        """The mixture, of weights that are none, whose joint log-densities are the expected ones."""
        total = torch.digamma(self.ones + self.others)
        log_weights = break_stick(torch.digamma(self.ones) - total, torch.digamma(self.others) - total)
        num_dims = self.means.shape[1]
        log_det = digammas(self.degrees, num_dims) + num_dims * (math.log(2) - self.degrees.log())
        return Components(log_weights + 0.5 * (log_det - num_dims / self.mean_counts), self.means, self.scale)

    def divergence_nats(self, belief: Belief) -> Tensor:
        """KL divergence of the posterior from the belief."""
        one, other, alpha = self.ones[:-1], self.others[:-1], belief.concentration
        log_beta = torch.lgamma(one) + torch.lgamma(other) - torch.lgamma(one + other)
        expected = (one - 1) * torch.digamma(one) + (other - alpha) * torch.digamma(other)
        of_sticks = expected - (one - 1 + other - alpha) * torch.digamma(one + other) - log_beta - math.log(alpha)
        num_dims = self.means.shape[1]
        precision = torch.cholesky_inverse(self.scale)  # [K, D, D] nu_k W_k
        ratio = belief.mean_counts / self.mean_counts
        distance = torch.einsum("kd,kde,ke->k", self.means, precision, self.means)
        of_means = 0.5 * (num_dims * (ratio - 1 - ratio.log()) + belief.mean_counts * distance)
        degrees, first = self.degrees, torch.full_like(self.degrees, belief.degrees)
        log_det = -2 * self.scale.diagonal(dim1=1, dim2=2).log().sum(1) - num_dims * degrees.log()  # log |W_k|
        log_det_first = -torch.logdet(belief.guess) - num_dims * first.log()
        of_precisions = (
            0.5 * first * (log_det_first - log_det)
            + 0.5 * (first * (precision * belief.guess).sum((1, 2)) - degrees * num_dims)
            + torch.special.multigammaln(0.5 * first, num_dims)
            - torch.special.multigammaln(0.5 * degrees, num_dims)
            + 0.5 * (degrees - first) * digammas(degrees, num_dims)
        )
        return of_sticks.sum() + (of_means + of_precisions).sum()


def break_stick(of_one: Tensor, of_others: Tensor) -> Tensor:
    """From log v and log (1 - v), [K] each, or their expectations: those of the weights [K]; the last v is 1."""
    before = of_others.cumsum(0) - of_others  # of the pieces that are broken off first
    return before + torch.cat([of_one[:-1], torch.zeros_like(of_one[-1:])])


def digammas(degrees: Tensor, num_dims: int) -> Tensor:
    """E log|Lambda| of a Wishart, [K], but for log|W| + D log 2."""
    steps = torch.arange(num_dims, device=degrees.device)
    return torch.digamma(0.5 * (degrees[:, None] - steps)).sum(1)


@dataclass(frozen=True)
class BayesState:
    """Everything that the next iteration depends on, beside the points and the settings.

    Attributes:
        stats: [K, F] expected statistics of all points, from which all factors follow.
        double: whether single precision was found too coarse.
        curve: the bound on the evidence in nats a point; it never falls.
        converged: whether the last gain was below the tolerance.
    """

    stats: Tensor
    double: bool = False
    curve: tuple[float, ...] = ()
    converged: bool = False


@dataclass(frozen=True)
class BayesSettings:
    """What stays the same throughout.

    Attributes:
        belief: before the points are seen.
        max_iter: passes over the points, at most.
        tol: stop when one gains less, in nats a point.
        ranks: among whom the points of an E-step are shared.
        cache_bytes: statistics of the points are kept between iterations up to this size.
    """

    belief: Belief
    max_iter: int
    tol: float
    ranks: Ranks = ALONE
    cache_bytes: int = 0


def variational_bayes(
    points: PointSet,
    state: BayesState,
    settings: BayesSettings,
    on_iteration: Callable[[BayesState], None] = lambda state: None,
) -> BayesState:
    """Ascend from `state` until a pass gains less than `tol` nats a point, or `max_iter` passes."""
    num = len(state.stats)
    statistics = Statistics(points, FULL, num, state.double, settings.cache_bytes, settings.ranks)
    while not state.converged and len(state.curve) < settings.max_iter:
        factors = Factors.of(state.stats, settings.belief)
        step = e_step(statistics, factors.expected())
        bound = step.bound_nats - factors.divergence_nats(settings.belief).item() / len(points)
        gain = bound - state.curve[-1] if state.curve else math.inf
        double = statistics.dtype is torch.float64
        state = replace(
            state, stats=step.stats, double=double, curve=(*state.curve, bound), converged=gain < settings.tol
        )
        on_iteration(state)
    return state
