"""Expectation-maximisation for a mixture of power spherical distributions over unit vectors.

    p(z) = sum_k w_k q(z; m_k, c_k),  log q = c log((1 + m . z) / 2) + log N(c)  (`stage1_vae.spaces.sphere`)

The E-step is that of any mixture (Dempster, Laird & Rubin, 1977). Given responsibilities r_ik, with R_k = sum_i r_ik:

- the mean direction must raise L_k(m) = sum_i r_ik log((1 + m . z_i) / 2), whose gradient is sum_i r_ik z_i / (1 + m .
  z_i). The step goes to its direction: the fixed point of what Lagrange's condition says, and an ascent along the
  geodesic. Where it overshoots, which is seen by a lower objective, the next one goes half as far.
- the concentration solves digamma(c + 2 b) - digamma(c + b) = -L_k / R_k, b = (D - 1) / 2. The left side falls from
  digamma(2 b) - digamma(b) to 0, so that there is one root, found by bisection on log c, or none above 0: then c is the
  least there is.

Each concentration is shrunk towards a common guess, as that many more points a component would that fit it: a component
on a few points would become as narrow as those are near. The objective, likelihood and shrinkage, never falls.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_vae.latents import LARGEST_CONCENTRATION, log_normaliser

BLOCK_PAIRS = 2**20
"""Pairs of point and component that are looked at together."""
NEAREST = 1e-30
BISECTIONS = 64
MOST_HALVINGS = 10
LEAST_LOG, MOST_LOG = -8.0, float(torch.tensor(LARGEST_CONCENTRATION).log())


@dataclass(frozen=True)
class Caps:
    """K components: log_weights [K], unit means [K, D], log_concentrations [K]; all float64."""

    log_weights: Tensor
    means: Tensor
    log_concentrations: Tensor

    def log_joint(self, z: Tensor) -> Tensor:
        """log w_k + log q(z_i; m_k, c_k), [n, K] nats for unit vectors z [n, D] float64."""
        concentration = self.log_concentrations.exp()
        constant = self.log_weights + log_normaliser(concentration, self.means.shape[1])
        return concentration * log_half(z, self.means) + constant


@dataclass(frozen=True)
class EMSettings:
    """What stays the same throughout.

    Attributes:
        guess: mean of -log((1 + m . z) / 2) that concentrations are shrunk towards.
        pseudo_counts: points that it is worth, a component.
        weight: of a point; several draws of one image are together one.
        max_iter: passes over the points, at most.
        tol: stop when one gains less, in nats a point.
    """

    guess: float
    pseudo_counts: float
    weight: float
    max_iter: int
    tol: float


@dataclass(frozen=True)
class EMState:
    """Where an ascent is.

    Attributes:
        current: the components to be looked at next.
        kept: the last ones that the objective rose to; None: none yet.
        curve: mean log-likelihood before each step that was kept, nats.
        objective: the same with the shrinkage: what never falls.
        iteration: passes over the points so far.
        halvings: of the last step.
        converged: whether the last gain was below the tolerance.
    """

    current: Caps
    kept: Caps | None = None
    curve: tuple[float, ...] = ()
    objective: tuple[float, ...] = ()
    iteration: int = 0
    halvings: int = 0
    converged: bool = False


def log_half(z: Tensor, means: Tensor) -> Tensor:
    """log((1 + m . z) / 2), [n, K] for unit vectors z [n, D] and means [K, D]."""
    return ((1 + z @ means.T) / 2).clamp_min(NEAREST).log()


def solve_concentration(cost: Tensor, num_dims: int) -> Tensor:
    """Log-concentrations that are likeliest where the mean of -log((1 + m . z) / 2) is `cost` [K] >= 0; float64."""
    b = (num_dims - 1) / 2
    low, high = torch.full_like(cost, LEAST_LOG), torch.full_like(cost, MOST_LOG)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        a = middle.exp() + b
        is_low = torch.digamma(a + b) - torch.digamma(a) > cost  # the root is at a higher one
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class EStep:
    """Sums over all points: of responsibilities [K], of what the mean step goes to [K, D], of the costs [K], and of the
    log-likelihoods, nats."""

    counts: Tensor
    pull: Tensor
    cost: Tensor
    log_likelihood: float


def e_step(z: Tensor, current: Caps) -> EStep:
    """Responsibilities of all points [N, D], reduced at once to what the M-step needs."""
    counts, cost = torch.zeros_like(current.log_weights), torch.zeros_like(current.log_weights)
    pull, total = torch.zeros_like(current.means), 0.0
    concentration = current.log_concentrations.exp()
    constant = current.log_weights + log_normaliser(concentration, z.shape[1])
    for block in z.split(max(1, BLOCK_PAIRS // len(counts))):
        half = log_half(block, current.means)  # [n, K]
        joint = concentration * half + constant
        evidence = joint.logsumexp(1, keepdim=True)
        share = (joint - evidence).exp()
        counts += share.sum(0)
        cost -= (share * half).sum(0)
        pull += (share * (-half).exp()).T @ block  # r z / (1 + m . z), but for a factor
        total += evidence.sum().item()
    return EStep(counts, pull, cost, total)


def m_step(step: EStep, means: Tensor, settings: EMSettings) -> Caps:
    """The components that follow; those without a point stay where they are."""
    counts, cost = step.counts * settings.weight, step.cost * settings.weight
    shrunk = (cost + settings.pseudo_counts * settings.guess) / (counts + settings.pseudo_counts).clamp_min(1e-12)
    share = counts.clamp_min(1e-30)
    pulled = F.normalize(step.pull, dim=1)
    is_pulled = step.pull.norm(dim=1, keepdim=True) > 1e-12
    log_concentrations = solve_concentration(shrunk.clamp_min(0), means.shape[1])
    return Caps((share / share.sum()).log(), torch.where(is_pulled, pulled, means), log_concentrations)


def shrinkage(current: Caps, settings: EMSettings) -> float:
    """Log-density of what pulls the concentrations to the guess, nats, but for a constant."""
    concentration = current.log_concentrations.exp()
    each = log_normaliser(concentration, current.means.shape[1]) - concentration * settings.guess
    return settings.pseudo_counts * each.sum().item()


def ascend(
    z: Tensor, state: EMState, settings: EMSettings, on_step: Callable[[EMState], None] = lambda state: None
) -> EMState:
    """Climb from `state` on unit vectors z [N, D] float64 until a step gains less than the tolerance; what is left in
    `kept` is the best that was looked at."""
    while not state.converged and state.iteration < settings.max_iter:
        step = e_step(z, state.current)
        mean = step.log_likelihood / len(z)
        value = mean + shrinkage(state.current, settings) / (settings.weight * len(z))
        state = replace(state, iteration=state.iteration + 1)
        if state.kept is not None and value < state.objective[-1]:
            if state.halvings == MOST_HALVINGS:
                return replace(state, converged=True)  # no step along this direction is an ascent
            halfway = F.normalize(state.kept.means + state.current.means, dim=1)
            state = replace(state, current=replace(state.current, means=halfway), halvings=state.halvings + 1)
            continue
        gain = value - state.objective[-1] if state.objective else torch.inf
        state = replace(
            state,
            kept=state.current,
            curve=(*state.curve, mean),
            objective=(*state.objective, value),
            converged=gain < settings.tol,
            halvings=0,
        )
        if not state.converged:
            following = m_step(step, state.current.means, settings)
            state = replace(state, current=following)
        on_step(state)
    return state
