"""Mini-batch EM for sets of points that are many: the M-step comes after each batch and not after each pass.

The expected statistics of one point are a running mean s over batches (Cappe & Moulines, "On-line
expectation-maximization algorithm for latent data models", 2009; with batches Liang & Klein, "Online EM for
Unsupervised Models", 2009, who call it stepwise EM):

    s <- (1 - g_t) s + g_t s_t,    g_t = (t + 2)^-0.6,

with s_t the mean over batch t under the current components, which are the M-step of s. The steps g_t shrink slowly, so
s forgets its start but keeps the noise of the last batches. The mean of all s_t of one epoch has nearly no noise: each
point is in it once (in the spirit of the averaging that Cappe & Moulines advise, section 3.3). So each epoch ends with
the better of both, on a fixed block of held-out points; they also tell when to stop.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stage2_prior.em.gaussian import (
    EMPTY_POINTS,
    Components,
    EMSettings,
    EStep,
    Points,
    Statistics,
    e_step,
    m_step,
    move,
)

FORGETTING = 0.6
"""Exponent of the steps; the theory asks for more than 0.5 and at most 1."""


@dataclass(frozen=True)
class StepwiseState:
    """Everything that the next epoch depends on, beside the points, their order and the settings.

    Attributes:
        current: the components.
        stats: [K, F] float64, running mean of the expected statistics of a point.
        may_move: [K] components that were not yet placed anew.
        epoch: passes over the points so far.
        step: batches so far.
        double: whether single precision was found too coarse.
        reseeded: empty components that were placed anew.
        train_curve: mean bound of the points of each epoch, each under the components that its batch met.
        curve: mean bound of the held-out points after each epoch, nats.
        converged: whether the last epoch gained less than the tolerance there.
    """

    current: Components
    stats: Tensor
    may_move: Tensor
    epoch: int = 0
    step: int = 0
    double: bool = False
    reseeded: int = 0
    train_curve: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    converged: bool = False

    @classmethod
    def begin(cls, start: Components, stats: Tensor) -> "StepwiseState":
        return cls(start, stats, torch.ones(len(start.means), dtype=torch.bool, device=stats.device))


@dataclass(frozen=True)
class StepwiseSettings:
    """What stays the same throughout.

    Attributes:
        em: the settings of EM; an iteration is an epoch, and a gain is one of the held-out points.
        num: N, the number of points.
        batch_size: points a batch; the last of an epoch may have fewer.
    """

    em: EMSettings
    num: int
    batch_size: int


def stepwise_em(
    state: StepwiseState,
    epoch: Callable[[int], Iterable[Points]],
    held_out: Points,
    settings: StepwiseSettings,
    on_epoch: Callable[[StepwiseState], None] = lambda state: None,
) -> StepwiseState:
    """Go on from `state` until an epoch gains less than `tol` nats a held-out point, or `max_iter` epochs.

    `epoch`: number of an epoch -> its batches, each point once, in random order.
    """
    while not state.converged and state.epoch < settings.em.max_iter:
        state = one_epoch(state, epoch(state.epoch), held_out, settings)
        on_epoch(state)
    return state


def one_epoch(
    state: StepwiseState, batches: Iterable[Points], held_out: Points, settings: StepwiseSettings
) -> StepwiseState:
    """All batches once, and the better of the last components and those of the epoch's mean statistics."""
    total, bound, num = torch.zeros_like(state.stats), 0.0, 0
    for batch in batches:
        state, step = one_batch(state, batch, settings)
        total += step.stats
        bound += step.bound_nats * len(batch)
        num += len(batch)
    averaged = total / num
    candidates = [(state.current, state.stats), (_maximise(averaged, settings), averaged)]
    bounds = [
        e_step(_statistics(held_out, len(total), settings, state.double), components).bound_nats
        for components, _ in candidates
    ]
    better = int(bounds[1] >= bounds[0])
    current, stats = candidates[better]
    gain = bounds[better] - state.curve[-1] if state.curve else math.inf
    empty = ((total[:, 0] < EMPTY_POINTS) & state.may_move).nonzero().squeeze(1)
    state = replace(
        state,
        current=current,
        stats=stats,
        epoch=state.epoch + 1,
        train_curve=(*state.train_curve, bound / num),
        curve=(*state.curve, bounds[better]),
        converged=gain < settings.em.tol and not len(empty),
    )
    if len(empty) and state.epoch < settings.em.max_iter:
        state = _reseed(state, empty, step.worst(len(empty)), settings)
    return state


def one_batch(state: StepwiseState, batch: Points, settings: StepwiseSettings) -> tuple[StepwiseState, EStep]:
    """The running statistics moved towards those of `batch`, and the components that they ask for."""
    statistics = _statistics(batch, len(state.stats), settings, state.double)
    step = e_step(statistics, state.current)
    share = (state.step + 2) ** -FORGETTING * len(batch) / settings.batch_size
    stats = torch.lerp(state.stats, step.stats / len(batch), share)
    double = state.double or (statistics.dtype is torch.float64 and len(batch) == settings.batch_size)
    return replace(state, current=_maximise(stats, settings), stats=stats, step=state.step + 1, double=double), step


def _statistics(points: Points, num_components: int, settings: StepwiseSettings, double: bool) -> Statistics:
    return Statistics(points, settings.em.covariance, num_components, double, ranks=settings.em.ranks)


def _maximise(stats: Tensor, settings: StepwiseSettings) -> Components:
    """The M-step, as if all N points had the mean statistics `stats` [K, F]."""
    em = settings.em
    return m_step(stats * settings.num, em.covariance, em.guess, em.pseudo_counts, settings.num)


def _reseed(state: StepwiseState, empty: Tensor, worst: Points, settings: StepwiseSettings) -> StepwiseState:
    """`state` with the components `empty` [M] on the points `worst` [M], each with the weight of one point."""
    covariance, guess = settings.em.covariance, settings.em.guess
    moved = move(state.current, empty, worst.loc, 1 / settings.num, covariance.factor(guess))
    variance = (guess.diagonal() if guess.ndim == 2 else guess).expand_as(worst.loc)
    stats, may_move = state.stats.clone(), state.may_move.clone()
    stats[empty] = Points(worst.loc, variance).features(covariance, torch.float64) / settings.num
    may_move[empty] = False
    return replace(state, current=moved, stats=stats, may_move=may_move, reseeded=state.reseeded + len(empty))
