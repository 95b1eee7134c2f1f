"""Hamiltonian Monte Carlo along a path between two densities, many chains of many images at once.

On the geometric path from a first density s to a last one f, the density at inverse temperature beta is
f_beta(z) = s(z)^(1 - beta) f(z)^beta. A transition draws a momentum v ~ N(0, I), follows Hamilton's equations of
H(z, v) = -log f_beta(z) + |v|^2 / 2 by the leapfrog rule, and accepts the end of the trajectory with probability
min(1, exp(H_before - H_after)); so it leaves f_beta invariant and is reversible, whatever the step size is (Duane,
Kennedy, Pendleton & Roweth, "Hybrid Monte Carlo", 1987; Neal, "MCMC Using Hamiltonian Dynamics", 2011, section 3 and,
for coordinates in units of `scale`, which is a diagonal mass matrix, section 4.1). The step size is that of the kernel
times U(0.8, 1.2), drawn without looking at the chain: a fixed one may resonate with a Gaussian's period.

A trajectory diverges where its energy error exceeds 1000 nats or is no number. It is rejected like any other bad
proposal, so the chain stays where it was and remains a valid one: divergence costs mixing, not correctness.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError

LogDensity = Callable[[Tensor], Tensor]
"""z [n, B, *latent] -> a log-density, normalised or not, [n, B] nats: n chains of B images."""

DIVERGED_NATS = 1000.0
"""Energy error from which a trajectory counts as diverged."""
JITTER = 0.2
"""Step sizes vary by so much of themselves to either side."""


@dataclass(frozen=True)
class Point:
    """Where chains are, and what both ends of the path say there.

    Attributes:
        z: [n, B, *latent].
        log_first, log_last: [n, B] nats, float64; minus infinity where a density is no number.
        grad_first, grad_last: their gradients, [n, B, *latent].
    """

    z: Tensor
    log_first: Tensor
    log_last: Tensor
    grad_first: Tensor
    grad_last: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log last - log first, [n, B] nats."""
        return self.log_last - self.log_first

    def log_density(self, beta: float) -> Tensor:
        """Unnormalised log-density at `beta` in (0, 1], [n, B] nats; at 1 the first density is not asked."""
        return self.log_last if beta == 1 else (1 - beta) * self.log_first + beta * self.log_last

    def gradient(self, beta: float) -> Tensor:
        """Of `log_density`, [n, B, *latent]."""
        return self.grad_last if beta == 1 else (1 - beta) * self.grad_first + beta * self.grad_last

    def moved(self, to: "Point", chosen: Tensor) -> "Point":
        """`to` where `chosen` [n, B], this one elsewhere."""
        wide = _widen(chosen, self.z)
        return Point(
            torch.where(wide, to.z, self.z),
            torch.where(chosen, to.log_first, self.log_first),
            torch.where(chosen, to.log_last, self.log_last),
            torch.where(wide, to.grad_first, self.grad_first),
            torch.where(wide, to.grad_last, self.grad_last),
        )


@dataclass(frozen=True)
class Path:
    """The two ends; both must be differentiable in z."""

    first: LogDensity
    last: LogDensity

    def at(self, z: Tensor) -> Point:
        """Both densities and their gradients at z [n, B, *latent].

        Raises:
            EvaluationError: one of them is not differentiable.
        """
        log_first, grad_first = _with_gradient(self.first, z)
        log_last, grad_last = _with_gradient(self.last, z)
        return Point(z.detach(), log_first, log_last, grad_first, grad_last)


@dataclass(frozen=True)
class Moved:
    """One transition.

    Attributes:
        point: where the chains are now.
        acceptance: probability with which each trajectory was accepted, [n, B]; 0 where it diverged.
        diverged: [n, B].
    """

    point: Point
    acceptance: Tensor
    diverged: Tensor


@torch.no_grad()
def transition(path: Path, point: Point, beta: float, step_size: Tensor, scale: Tensor, leapfrog_steps: int) -> Moved:
    """Move every chain once, leaving the density at `beta` invariant.

    Args:
        path: both ends.
        point: where the chains are.
        beta: inverse temperature, in (0, 1].
        step_size: [B], in units of `scale`; may depend on anything but these chains.
        scale: [B, *latent] typical width of each coordinate.
        leapfrog_steps: of one trajectory, each with one gradient of both densities.
    """
    jitter = 1 + JITTER * (2 * torch.rand(point.log_first.shape, dtype=scale.dtype, device=scale.device) - 1)
    step = _widen(step_size.to(scale.dtype) * jitter, point.z) * scale  # [n, B, *latent]
    momentum = torch.randn_like(point.z)
    kinetic = _half_square(momentum)
    momentum = momentum + 0.5 * step * point.gradient(beta)
    new, whole = point, torch.ones_like(kinetic, dtype=torch.bool)
    for i in range(leapfrog_steps):
        z = new.z + step * momentum
        whole = whole & torch.isfinite(z).flatten(2).all(2)
        new = path.at(torch.where(_widen(whole, z), z, point.z))  # no density is asked about a z that is no number
        momentum = momentum + (0.5 if i == leapfrog_steps - 1 else 1.0) * step * new.gradient(beta)
    gain = (new.log_density(beta) - _half_square(momentum)) - (point.log_density(beta) - kinetic)  # [n, B] nats
    diverged = ~whole | ~(gain > -DIVERGED_NATS)  # true of NaN as well
    acceptance = torch.where(diverged, 0.0, gain.clamp(max=0).exp())
    accepted = torch.rand_like(acceptance) < acceptance
    return Moved(point.moved(new, accepted), acceptance, diverged)


def _with_gradient(density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density [n, B], float64, and its gradient [n, B, *latent]."""
    with torch.enable_grad():
        at = z.detach().requires_grad_(True)
        value = density(at)
        if not value.requires_grad:
            raise EvaluationError("this log-density is not differentiable in z; annealing needs one that is")
        (gradient,) = torch.autograd.grad(value.sum(), at)
    value = value.detach().double()
    return torch.where(torch.isfinite(value), value, -torch.inf), gradient


def _half_square(momentum: Tensor) -> Tensor:
    return 0.5 * momentum.double().square().flatten(2).sum(2)


def _widen(values: Tensor, like: Tensor) -> Tensor:
    """[n, B] -> [n, B, 1, ...] with as many dimensions as `like`."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))
