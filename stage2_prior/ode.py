"""Ordinary differential equations dx/dt = v(x, t) that carry noise into data, and the density of what they carry.

Samples follow the equation by fixed steps: Euler's, or Heun's of two slopes a step and an error of second order.

The density changes along the path by the divergence of the drift (Chen et al., "Neural Ordinary Differential
Equations", 2018, theorem 1, the instantaneous change of variables):

    d log p(x(t)) / dt = -tr dv/dx,   so   log p_1(x(1)) = log p_0(x(0)) - integral of tr dv/dx over the path

The path does not depend on that integral, so the trace, which costs as much as all else, is taken at few places: those
of Gauss and Legendre, n of which are exact for polynomials of degree 2 n - 1 in time, with one step of the classical
method of Runge and Kutta from each to the next for the path itself (Hairer, Norsett & Wanner, "Solving Ordinary
Differential Equations I", 1993, section II.1). The drift is smooth, and a dozen places go as far as fifty steps with a
trace at each of their slopes.

The trace is exact, one directional derivative a dimension and all of them in one pass, or Hutchinson's estimate from
few random directions, tr A = E[e^T A e] (Grathwohl et al., "FFJORD", 2019, equation 8). They hold the direction fixed
along the path, which an adaptive solver needs; here each place has a direction of its own, so that errors average out
along the path. Directions are a hash of the latent and the place: its density is the same wherever it stands.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from stage2_prior.fitting import PriorError
from stage2_prior.row_noise import RowNoise

Drift = Callable[[Tensor, Tensor], Tensor]
"""x [B, *shape] and a time [] -> dx/dt [B, *shape]; rows do not depend on each other."""
Trace = Callable[[Drift, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""A drift, x [B, *shape], a time [] and which place it is -> the drift there, [B, *shape], and its divergence, [B]."""
Method = Literal["euler", "heun", "rk4"]
MOST_PLACES = 1000
"""Of a density, and directions at each: their random numbers lie apart."""
PASSES_A_DERIVATIVE = 1.6
"""What one of many directional derivatives takes as long as, of a residual MLP."""
PASSES: dict[Method, int] = {"euler": 1, "heun": 2, "rk4": 4}
"""Evaluations of the drift a step."""


@dataclass(frozen=True)
class Solver:
    """The section `solver` of a prior's configuration.

    Attributes:
        method: heun, of two passes of the network a step of a sample, or euler, of one.
        num_steps: of a sample.
        density_places: where along its path the divergence of a density is taken.
        exact_dims: dimensions up to which the divergence is exact, and beyond which estimated.
        probes: random directions a place of the estimate.
        tolerance: nats a latent; a larger error of the solver is said in words.

    Raises:
        PriorError: for a number out of range.
    """

    method: Literal["heun", "euler"] = "heun"
    num_steps: int = 10
    density_places: int = 12
    exact_dims: int = 64
    probes: int = 1
    tolerance: float = 0.02

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012, of whoever reads it from a file; no field

    def __post_init__(self) -> None:
        for name in ("num_steps", "density_places", "probes"):
            if not 1 <= (number := getattr(self, name)) <= MOST_PLACES // 2:
                raise PriorError(f"prior.solver.{name}={number}: give 1 to {MOST_PLACES // 2}")
        if self.exact_dims < 0:
            raise PriorError(f"prior.solver.exact_dims={self.exact_dims}: give 0 or more")
        if self.tolerance <= 0:
            raise PriorError(f"prior.solver.tolerance={self.tolerance}: give a number above 0")

    def traces(self, num_dims: int) -> int:
        """Directional derivatives a place of a density of so many dimensions."""
        return num_dims if num_dims <= self.exact_dims else self.probes

    def passes(self, num_dims: int) -> int:
        """Passes of the network, or what costs about as much, of a density."""
        of_a_place = PASSES["rk4"] + math.ceil(PASSES_A_DERIVATIVE * self.traces(num_dims))
        return self.density_places * of_a_place + PASSES["rk4"]


def step(drift: Drift, x: Tensor, start: Tensor, end: Tensor, method: Method, first: Tensor | None = None) -> Tensor:
    """x(end) from x(start), [B, *shape]; `first`: the drift at the start, where it is known."""
    h = end - start
    one = drift(x, start) if first is None else first
    if method == "euler":
        return x + h * one
    if method == "heun":
        return x + h / 2 * (one + drift(x + h * one, end))
    middle = start + h / 2
    two = drift(x + h / 2 * one, middle)
    three = drift(x + h / 2 * two, middle)
    return x + h / 6 * (one + 2 * two + 2 * three + drift(x + h * three, end))


def follow(drift: Drift, x: Tensor, times: Tensor, method: Method) -> Tensor:
    """x at the last of `times` [T + 1] from x at the first, [B, *shape]."""
    for start, end in pairwise(times):
        x = step(drift, x, start, end, method)
    return x


@cache
def gauss_legendre(places: int) -> tuple[list[float], list[float]]:
    """Places in (0, 1), rising, and weights, whose sum is 1."""
    nodes, weights = np.polynomial.legendre.leggauss(places)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def follow_with_divergence(
    drift: Drift, x: Tensor, start: float, end: float, places: int, trace: Trace
) -> tuple[Tensor, Tensor]:
    """x(end) from x(start), [B, *shape], and the integral of the divergence over the path, [B].

    Args:
        drift: dx/dt.
        x: [B, *shape] where the path starts.
        start, end: times; the end may lie before the start.
        places: where the trace is taken; there is one step more.
        trace: how it is taken.
    """
    nodes, weights = gauss_legendre(places)
    times = [x.new_tensor(start + (end - start) * node) for node in [0.0, *nodes, 1.0]]
    x = step(drift, x, times[0], times[1], "rk4")
    total = x.new_zeros(len(x))
    for place, (time, following, weight) in enumerate(zip(times[1:-1], times[2:], weights, strict=True)):
        slope, divergence = trace(drift, x, time, place)
        total = total + (end - start) * weight * divergence
        x = step(drift, x, time, following, "rk4", slope)
    return x, total


@cache
def load_forward_mode() -> None:
    """Let torch load its rules of directional derivatives, with a function that torch itself has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


def derivatives_along(drift: Drift, x: Tensor, time: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The drift at x, [B, *shape], and e^T (dv/dx) e for each of `directions` [K, B, *shape], in one pass: [K, B]."""
    load_forward_mode()

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        slope, change = jvp(lambda at: drift(at, time), (x,), (direction,))  # type: ignore[misc]
        return slope, (change * direction).flatten(1).sum(1)

    slope, changes = vmap(along, out_dims=(None, 0))(directions)  # type: ignore[arg-type]  # None: what all share
    return slope, changes


def exact_trace(drift: Drift, x: Tensor, time: Tensor, place: int) -> tuple[Tensor, Tensor]:
    """The divergence by one directional derivative a dimension."""
    axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
    slope, diagonal = derivatives_along(drift, x, time, axes.expand(-1, len(x), *x.shape[1:]))
    return slope, diagonal.sum(0)


class HutchinsonTrace:
    """The divergence estimated from random directions of signs.

    Args:
        noise: of the rows whose path it is.
        probes: directions a place.
        seed: 0 or more; another one gives other directions.
        frozen: the same directions at all places.
    """

    def __init__(self, noise: RowNoise, probes: int, seed: int = 0, frozen: bool = False) -> None:
        self.noise, self.probes, self.seed, self.frozen = noise, probes, seed, frozen

    def __call__(self, drift: Drift, x: Tensor, time: Tensor, place: int) -> tuple[Tensor, Tensor]:
        first = (self.seed * MOST_PLACES + place * (not self.frozen)) * self.probes * x[0].numel()
        slope, estimates = derivatives_along(drift, x, time, self.noise.signs(self.probes, first).to(x.dtype))
        return slope, estimates.mean(0)


def log_normal(x: Tensor) -> Tensor:
    """log N(x; 0, I), [B, *shape] -> [B]."""
    return -0.5 * (x.flatten(1).square() + math.log(2 * math.pi)).sum(1)
