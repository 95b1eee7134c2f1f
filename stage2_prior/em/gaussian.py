"""Expectation-maximisation for a mixture of Gaussians whose points are themselves Gaussians q(z|x_i).

The aggregate posterior q(z) = 1/N sum_i q(z|x_i) is fitted by ascending a lower bound of E_q(z)[log p(z)]:

    1/N sum_i log sum_k pi_k exp E_q(z|x_i)[log N(z; m_k, S_k)]   (Jensen, one responsibility a point, not one a draw)

whose E- and M-step are those of ordinary EM (Dempster, Laird & Rubin, 1977) with z z^T replaced by its expectation
m_i m_i^T + diag(s_i^2): exact, deterministic ascent, and after each M-step the mixture has the mean and the covariance
of q(z) itself. For point masses it *is* ordinary EM. On the latents of an MNIST VAE (16 dimensions, 100 full
components, all from one start) it left a test rate of 19.70 nats, against 19.80 for EM on one draw a point (which
over-fits the noise of that draw) and 19.69 for fresh draws an iteration, which took twice as long and never settle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stage1_vae.ranks import ALONE, Ranks
from stage2_prior.em.covariances import Covariance
from stage2_prior.em.points import Points, PointSet

SMALL_WORK = 5e7
"""Products [N, F] x [F, K] up to this many multiplications are in float64: they cost nothing."""

EMPTY_POINTS = 0.1
"""A component with fewer points, counted by responsibility, is empty."""

FLOAT32_ERROR_NATS = 1e-3
"""Single precision is used for large products while its rounding error of a log-density stays below this."""


@dataclass(frozen=True)
class Components:
    """K Gaussians: log_weights [K], means [K, D], scale as its `Covariance` has it; all float64."""

    log_weights: Tensor
    means: Tensor
    scale: Tensor


class Statistics:
    """The expected statistics of a rank's share of the points, in blocks of rows, cached where they are small.

    Args:
        points: whose; all of them, whatever the share.
        covariance: what the statistics are.
        num_components: how many components they will be asked under.
        double: compute in double precision whatever the amount of work.
        cache_bytes: they are kept up to this size, to be asked for again.
        ranks: among whom the points are shared.
    """

    def __init__(
        self,
        points: PointSet,
        covariance: Covariance,
        num_components: int,
        double: bool = False,
        cache_bytes: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.points, self.covariance, self.num_components = points, covariance, num_components
        self.cache_bytes = cache_bytes
        self.ranks, self.share = ranks, ranks.share(len(points))
        self.num_features = points.rows(slice(0, 1)).features(covariance, torch.float64).shape[1]
        width = max(self.num_features, num_components)
        budget = 2**18 if points.device.type == "cpu" else 2**25  # a block and its responsibilities fit the cache
        self.block = max(256, budget // width)
        self.cached: list[Tensor] = []
        large = len(points) * self.num_features * num_components > SMALL_WORK
        self.dtype = torch.float32 if large and not double else torch.float64

    def __iter__(self) -> Iterator[Tensor]:
        if self.cached:
            yield from self.cached
            return
        keep = len(self.points) * self.num_features * self.dtype.itemsize <= self.cache_bytes
        blocks = []
        for start in range(self.share.start, self.share.stop, self.block):
            rows = slice(start, min(start + self.block, self.share.stop))
            features = self.points.rows(rows).features(self.covariance, self.dtype)
            if keep:
                blocks.append(features)
            yield features
        self.cached = blocks  # only now, when all are there

    def to_double(self) -> None:
        self.dtype, self.cached = torch.float64, []

    def rounding_nats(self, natural: Tensor) -> float:
        """Expected rounding error of a log-density in float32: sums of F terms of alternating sign."""
        first = self.points.rows(slice(0, self.block)).features(self.covariance, torch.float64)
        return torch.finfo(torch.float32).eps * (natural.square().T @ first.square().mean(0)).sqrt().max().item()


@dataclass(frozen=True)
class EStep:
    """What one pass over the points gives.

    Attributes:
        stats: [K, F], of all points.
        evidence: the bound of each point of this rank's share.
        bound_nats: its mean over all points.
        statistics: of which points.
    """

    stats: Tensor
    evidence: Tensor
    bound_nats: float
    statistics: Statistics

    def worst(self, num: int) -> Points:
        """The `num` points with the smallest bounds, of all ranks' shares; the same on each rank."""
        statistics = self.statistics
        return statistics.points.rows(statistics.ranks.lowest(self.evidence, statistics.share.start, num))


def e_step(statistics: Statistics, current: Components) -> EStep:
    """Responsibilities of all points, reduced at once to the statistics that the M-step needs."""
    natural = statistics.covariance.natural(current.log_weights, current.means, current.scale)
    if statistics.dtype is torch.float32 and statistics.rounding_nats(natural) > FLOAT32_ERROR_NATS:
        statistics.to_double()
    weights = natural.to(statistics.dtype).contiguous()  # [F, K]
    stats = torch.zeros(natural.T.shape, dtype=torch.float64, device=natural.device)
    evidence = [natural.new_zeros(0, dtype=statistics.dtype)]
    for features in statistics:
        joint = features @ weights  # [n, K] log pi_k + E log N_k
        peak = joint.amax(1, keepdim=True)
        joint.sub_(peak).exp_()
        mass = joint.sum(1, keepdim=True)
        stats += joint.div_(mass).T @ features
        evidence.append((peak + mass.log()).squeeze(1))  # [n]
    bounds = torch.cat(evidence)
    total = statistics.ranks.sum(bounds.sum(dtype=torch.float64))
    return EStep(statistics.ranks.sum(stats), bounds, total.item() / len(statistics.points), statistics)


@dataclass(frozen=True)
class EMState:
    """Everything that the next iteration depends on, beside the points and the settings.

    Attributes:
        current: the components whose bound comes next.
        fallback: what to return to if moving empty components did not pay; None: nothing was moved.
        may_move: [K] components that were not yet placed anew.
        double: whether single precision was found too coarse.
        iteration: passes over the points so far.
        moved: components moved by the last iteration, on trial.
        reseeded: components that were placed anew for good.
        curve: mean bound in nats before each M-step; once done, the last value belongs to `current`.
        objective: the same plus the log-density of the shrinkage, per point: what never falls.
        converged: whether the last gain was below the tolerance.
    """

    current: Components
    fallback: Components | None
    may_move: Tensor
    double: bool = False
    iteration: int = 0
    moved: int = 0
    reseeded: int = 0
    curve: tuple[float, ...] = ()
    objective: tuple[float, ...] = ()
    converged: bool = False

    @classmethod
    def begin(cls, start: Components) -> "EMState":
        return cls(start, None, torch.ones(len(start.means), dtype=torch.bool, device=start.means.device))


@dataclass(frozen=True)
class EMSettings:
    """What stays the same throughout.

    Attributes:
        covariance: the kind.
        guess: what covariances are shrunk towards; in exact EM, with one more axis, [K, ...], one for each component.
        pseudo_counts: points that the guess is worth, a component.
        max_iter: passes over the points, at most.
        tol: stop when one gains less, in nats a point.
        ranks: among whom the points of an E-step are shared; all take the same M-step.
        cache_bytes: statistics of the points are kept between iterations up to this size.
    """

    covariance: Covariance
    guess: Tensor
    pseudo_counts: float
    max_iter: int
    tol: float
    ranks: Ranks = ALONE
    cache_bytes: int = 0


def expectation_maximisation(
    points: PointSet,
    state: EMState,
    settings: EMSettings,
    on_iteration: Callable[[EMState], None] = lambda state: None,
    is_over: Callable[[], bool] = lambda: False,
) -> EMState:
    """Ascend from `state` until a step gains less than `tol` nats a point, or `max_iter` steps, or until `is_over`.

    A component with less than a tenth of a point is empty: it is moved, once, to the point explained worst, and the
    move is undone if it lowered the objective, so that the objective never falls.
    """
    num = len(state.may_move)
    statistics = Statistics(points, settings.covariance, num, state.double, settings.cache_bytes, settings.ranks)
    while not state.converged and state.iteration <= settings.max_iter and not is_over():
        state = iterate(state, statistics, settings)
        on_iteration(state)
    return state


def iterate(state: EMState, statistics: Statistics, settings: EMSettings) -> EMState:
    """One pass over the points, and the step that it allows."""
    points, covariance = statistics.points, settings.covariance
    step = e_step(statistics, state.current)
    state = replace(state, iteration=state.iteration + 1, double=statistics.dtype is torch.float64)
    shrinkage = covariance.log_prior(state.current.scale, settings.guess, settings.pseudo_counts).item()
    value = step.bound_nats + shrinkage / len(points)
    if state.fallback is not None and value < state.objective[-1]:
        return replace(state, current=state.fallback, fallback=None, moved=0)
    gain = value - state.objective[-1] if state.objective else torch.inf
    state = replace(
        state,
        reseeded=state.reseeded + state.moved,
        moved=0,
        curve=(*state.curve, step.bound_nats),
        objective=(*state.objective, value),
        converged=gain < settings.tol and state.fallback is None,
    )
    if state.converged or state.iteration > settings.max_iter:
        return state
    current = m_step(step.stats, covariance, settings.guess, settings.pseudo_counts, len(points))
    empty = ((step.stats[:, 0] < EMPTY_POINTS) & state.may_move).nonzero().squeeze(1)
    if not len(empty) or state.iteration >= settings.max_iter:
        return replace(state, current=current, fallback=None)
    may_move = state.may_move.clone()
    may_move[empty] = False
    moved = move(current, empty, step.worst(len(empty)).loc, 1 / len(points), covariance.factor(settings.guess))
    return replace(state, current=moved, fallback=current, moved=len(empty), may_move=may_move)


def m_step(stats: Tensor, covariance: Covariance, guess: Tensor, pseudo_counts: float, num: int) -> Components:
    """The components that maximise the bound given `stats` [K, F]."""
    means, scale = covariance.maximise(stats, guess, pseudo_counts)
    share = stats[:, 0].clamp_min(1e-30) / num  # so that the logarithm of an empty component is finite
    return Components(torch.log(share / share.sum()), means, scale)


def cluster_statistics(points: Points, cluster: Tensor, covariance: Covariance, num: int) -> Tensor:
    """Summed statistics of the points of each of `num` clusters, [K, F] float64; `cluster` [N]."""
    statistics = Statistics(points, covariance, num)
    stats = torch.zeros(num, statistics.num_features, dtype=torch.float64, device=points.device)
    for features, rows in zip(statistics, cluster.split(statistics.block), strict=True):
        stats.index_add_(0, rows, features.double())
    return stats


def move(current: Components, which: Tensor, to: Tensor, weight: float, fresh_scale: Tensor) -> Components:
    """`current` with the components `which` [M] on the points `to` [M, D]; fresh scales unless all share theirs."""
    means, scale, weights = current.means.clone(), current.scale.clone(), current.log_weights.exp()
    means[which], weights[which] = to.to(means.dtype), weight
    if len(scale) == len(means):
        scale[which] = fresh_scale[which] if fresh_scale.ndim == scale.ndim else fresh_scale
    return Components(torch.log(weights / weights.sum()), means, scale)
