"""What the ELBO lacks of log p(x), image by image: how much the family of q(z|x) costs, and how much the encoder.

With q(z|x) as the encoder gives it, q*(z|x) the best of the same family for this very image, and L the ELBO,

    log p(x) - L[q]  =  (log p(x) - L[q*])   +  (L[q*] - L[q])
                        approximation gap       amortisation gap

(Cremer, Li & Duvenaud, "Inference Suboptimality in Variational Autoencoders", 2018). They are KL(q*||p(z|x)) and
KL(q||p(z|x)) - KL(q*||p(z|x)), so they are at least 0, and mean the same where -log p(x|z) is a cross-entropy and no
log-likelihood. They are of one prior: another one has another posterior.

- q* is sought by Adam from the encoder's q on, all images at once; locations move in units of q's own deviations. What
  it misses is counted as approximation and not as amortisation: the amortisation gap is too small, if anything.
- log p(x) is the tighter, in the mean, of two lower bounds: annealed importance sampling from the normal with the
  moments of q*, and importance sampling from the normal with the mean and the whole covariance of HMC's draws, which
  chains from q(z|x) have come to (Hoffman, "Learning Deep Latent Gaussian Models with Markov Chain Monte Carlo", 2017).
  Both are unbiased for p(x), so what they lack of log p(x) makes the approximation gap too small.
- The ELBOs are means over draws that no search has seen.

Sign: as in `expost.evaluation.bounds`, every `*_nats` but the gaps is a cost, an upper bound on -log p(x) or a part of
one, in nats an image, lower is better.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution

from expost.evaluation.annealing.hmc import LogDensity, Path, transition
from expost.evaluation.annealing.path import (
    ADAPTATION_RATE,
    TARGET_ACCEPTANCE,
    Annealed,
    Annealing,
    Start,
    annealed_bounds,
)
from expost.evaluation.bounds import LogLikelihood, LogPrior, concatenate

MAX_COVARIANCE_DIMS = 256
"""Latents of more dimensions get no normal with a whole covariance."""
SHRINKAGE, WIDENED = 0.05, 1.2
"""Of the covariance of a few hundred draws: towards its diagonal, and times so much, so that its tails are no lighter
than those that they come from."""
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Effort:
    """How much work is done for an image.

    Args:
        num_steps: of Adam.
        learning_rate: its first; it falls to 0 along a cosine.
        num_gradient_draws: of q for one step.
        num_draws: of q and of q* for their ELBOs, and for the importance weights.
        num_chains, num_transitions, leapfrog_steps: of HMC; during the first half the step size follows acceptance, and
            what the second half visits is kept.
        annealing: of the lower bound on log p(x).
    """

    num_steps: int = 300
    learning_rate: float = 0.05
    num_gradient_draws: int = 8
    num_draws: int = 500
    num_chains: int = 8
    num_transitions: int = 60
    leapfrog_steps: int = 5
    annealing: Annealing = Annealing(num_chains=8, num_steps=100, leapfrog_steps=5)  # noqa: RUF009  # frozen

    @property
    def gradients(self) -> int:
        """Of log p(x, z), that an image takes; its draws without a gradient are few beside them."""
        pilot = 4 * (max(150, self.annealing.num_steps) + 25)
        annealed = self.annealing.num_chains * self.annealing.num_steps + pilot
        chains = self.num_chains * self.num_transitions
        return self.num_steps * self.num_gradient_draws + self.leapfrog_steps * (annealed + chains)


@dataclass(frozen=True)
class Family:
    """The posteriors of B images, and others of their family.

    Attributes:
        values: the numbers that tell q(z|x) of an image, [B, ...] each.
        units: what a step of each is measured in, of the same shapes.
        at: other values -> the posterior that they tell, batch [B], with reparameterised draws, a density, a mean and a
            variance.
    """

    values: Sequence[Tensor]
    units: Sequence[Tensor]
    at: Callable[[Sequence[Tensor]], Distribution]


@dataclass(frozen=True)
class Gaps:
    """Of N images under one prior; float64 [N] on the CPU.

    Attributes:
        elbo_nats, local_elbo_nats: -L[q] and -L[q*].
        ais_nats, hmc_nats: upper bounds on -log p(x), by annealing and from the normal of HMC's draws; the latter is
            None where latents have too many dimensions.
        joint_nats, moved_joint_nats: mean -log p(x, z) of draws of q, and of where HMC has moved them.
        acceptance: of the second half of HMC.
        annealed: what else annealing says.
    """

    elbo_nats: Tensor
    local_elbo_nats: Tensor
    ais_nats: Tensor
    hmc_nats: Tensor | None
    joint_nats: Tensor
    moved_joint_nats: Tensor
    acceptance: Tensor
    annealed: Annealed

    @property
    def by_hmc(self) -> bool:
        """Whether the bound from HMC's draws is the tighter one."""
        means = [math.inf if cost is None else cost.mean().item() for cost in (self.hmc_nats, self.ais_nats)]
        return means[0] < means[1] or (math.isfinite(means[0]) and math.isnan(means[1]))

    @property
    def nll_nats(self) -> Tensor:
        """[N] the tighter upper bound on -log p(x)."""
        return self.hmc_nats if self.hmc_nats is not None and self.by_hmc else self.ais_nats

    @property
    def approximation_gap_nats(self) -> Tensor:
        return self.local_elbo_nats - self.nll_nats

    @property
    def amortisation_gap_nats(self) -> Tensor:
        return self.elbo_nats - self.local_elbo_nats


def inference_gaps(
    x_batches: Iterable[Tensor],
    family: Callable[[Tensor], Family],
    log_likelihood: LogLikelihood,
    log_prior: LogPrior,
    effort: Effort,
    max_rows: int = 8192,
) -> Gaps:
    """The gaps of every image under one prior, from torch's global generator.

    Args:
        x_batches: batches [B, C, H, W].
        family: x -> the encoder's posteriors.
        log_likelihood: x, z [n, B, *latent] -> log p(x|z) [n, B] nats, differentiable in z.
        log_prior: z [M, *latent] -> log p(z) [M] nats, differentiable.
        effort: how much work.
        max_rows: most (draw, image) pairs at once.

    Raises:
        EvaluationError: a density that is not differentiable.
        ValueError: when there is no image.
    """
    most = max(effort.num_gradient_draws, effort.num_chains, effort.annealing.num_chains)
    found = []
    for batch in x_batches:
        for x in batch.split(max(1, max_rows // most)):
            found.append(_of_batch(x, family, log_likelihood, log_prior, effort, max_rows))
    columns = zip(*(values for values, _ in found), strict=True)
    elbo, local, ais, hmc, joint, moved, acceptance = (
        None if column[0] is None else torch.cat(column).cpu() for column in columns
    )
    assert elbo is not None and local is not None and ais is not None and joint is not None
    assert moved is not None and acceptance is not None
    annealed = concatenate([annealed for _, annealed in found])
    return Gaps(elbo, local, ais, hmc, joint, moved, acceptance, annealed)


def _of_batch(
    x: Tensor,
    family: Callable[[Tensor], Family],
    log_likelihood: LogLikelihood,
    log_prior: LogPrior,
    effort: Effort,
    max_rows: int,
) -> tuple[tuple[Tensor | None, ...], Annealed]:
    """The tensors of `Gaps` for images x [B, C, H, W], in their order, and what annealing says."""

    def density(z: Tensor) -> Tensor:
        return log_prior(z.flatten(0, 1)).double().view(z.shape[:2])

    def log_joint(z: Tensor) -> Tensor:
        return log_likelihood(x, z).double() + density(z)

    with torch.no_grad():
        known = family(x)
        q = known.at(known.values)
        chains = normal_start(q.mean, q.variance)
    Path(density, partial(log_likelihood, x)).at(chains.sample(1))  # refuses what has no gradient
    best = known.at(best_values(known, log_joint, effort))
    with torch.no_grad():
        start = normal_start(best.mean, best.variance)
        elbo, joint = expected_nats(q, log_joint, effort.num_draws, max_rows)
        local, _ = expected_nats(best, log_joint, effort.num_draws, max_rows)
    annealed = annealed_bounds([x], lambda _: start, log_likelihood, log_prior, effort.annealing, max_rows)
    visited, acceptance = hmc_draws(chains, q.sample(torch.Size([effort.num_chains])), log_joint, effort)
    with torch.no_grad():
        moved = -log_joint(visited[-effort.num_chains :]).mean(0)
        hmc = weighted_nats(visited, log_joint, 2 * effort.num_draws, max_rows)
    return (elbo, local, annealed.nll_nats, hmc, joint, moved, acceptance), annealed


def normal_start(mean: Tensor, variance: Tensor) -> Start:
    """Chains begin at the diagonal normal with these moments, [B, *latent] each."""
    std = variance.sqrt()

    def log_prob(z: Tensor) -> Tensor:
        return (-0.5 * (((z - mean) / std).square() + LOG_2PI) - std.log()).flatten(2).sum(2)

    return Start(
        lambda n: mean + std * torch.randn(n, *mean.shape, dtype=mean.dtype, device=mean.device), log_prob, std
    )


def best_values(family: Family, log_joint: LogDensity, effort: Effort) -> list[Tensor]:
    """Values of the posterior of each image whose ELBO is largest, as far as Adam finds it; those of the encoder where
    the search came to no number."""
    with torch.enable_grad():
        moves = [torch.zeros_like(value, requires_grad=True) for value in family.values]
        optimizer = torch.optim.Adam(moves, lr=effort.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, effort.num_steps)

        def values() -> list[Tensor]:
            return [v + unit * move for v, unit, move in zip(family.values, family.units, moves, strict=True)]

        for _ in range(effort.num_steps):
            posterior = family.at(values())
            z = posterior.rsample(torch.Size([effort.num_gradient_draws]))  # [n, B, *latent]
            cost = (posterior.log_prob(z) - log_joint(z)).mean(0).sum()
            for move, gradient in zip(moves, torch.autograd.grad(cost, moves), strict=True):
                move.grad = gradient  # and nothing of the model's parameters
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found = values()
        finite = torch.stack([value.flatten(1).isfinite().all(1) for value in found]).all(0)  # [B]
        return [
            torch.where(finite.view(-1, *[1] * (value.ndim - 1)), value, before)
            for value, before in zip(found, family.values, strict=True)
        ]


def expected_nats(posterior: Distribution, log_joint: LogDensity, num: int, max_rows: int) -> tuple[Tensor, Tensor]:
    """-ELBO and mean -log p(x, z), [B] each, over `num` draws."""
    costs, joints = [], []
    for n in _pieces(num, posterior.batch_shape[0], max_rows):
        z = posterior.sample(torch.Size([n]))
        joint = -log_joint(z)  # [n, B]
        joints.append(joint)
        costs.append(posterior.log_prob(z).double() + joint)
    return torch.cat(costs).mean(0), torch.cat(joints).mean(0)


@torch.no_grad()
def hmc_draws(start: Start, z: Tensor, log_joint: LogDensity, effort: Effort) -> tuple[Tensor, Tensor]:
    """Where chains from z [n, B, *latent] have been in the second half of their transitions, [m n, B, *latent], the
    last ones at the end; and how often they were accepted there, [B].

    Once the step size stands still, each transition leaves p(z|x) as it is.
    """
    path, num_dims = Path(start.log_prob, log_joint), z[0, 0].numel()
    point = path.at(z)
    log_step = torch.full((z.shape[1],), math.log(0.5 * num_dims**-0.25), dtype=torch.float64, device=z.device)
    visited, accepted, half = [], [], effort.num_transitions // 2
    for i in range(effort.num_transitions):
        moved = transition(path, point, 1.0, log_step.exp(), start.scale, effort.leapfrog_steps)
        point = moved.point
        if i < half:
            log_step = log_step + ADAPTATION_RATE * (moved.acceptance.mean(0) - TARGET_ACCEPTANCE)
        else:
            visited.append(point.z)
            accepted.append(moved.acceptance.mean(0))
    return torch.cat(visited), torch.stack(accepted).mean(0)


def weighted_nats(draws: Tensor, log_joint: LogDensity, num: int, max_rows: int) -> Tensor | None:
    """The importance-weighted upper bound on -log p(x) from the normal that fits `draws` [m, B, *latent] of each image,
    over `num` draws of its own, [B] nats; None where it has too many dimensions."""
    event, points = draws.shape[2:], draws.flatten(2).double()  # [m, B, D]
    num_dims = points.shape[2]
    if num_dims > MAX_COVARIANCE_DIMS:
        return None
    mean = points.mean(0)  # [B, D]
    centred = (points - mean).transpose(0, 1)  # [B, m, D]
    covariance = centred.transpose(1, 2) @ centred / len(points)  # [B, D, D]
    diagonal = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-12))
    factor, _ = torch.linalg.cholesky_ex(WIDENED * ((1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal))
    log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)  # [B]
    log_weights = []
    for n in _pieces(num, len(mean), max_rows):
        noise = torch.randn(n, *mean.shape, dtype=mean.dtype, device=mean.device)  # [n, B, D]
        z = mean + torch.einsum("bij,nbj->nbi", factor, noise)
        log_q = -0.5 * (noise.square() + LOG_2PI).sum(2) - log_det
        log_weights.append(log_joint(z.view(n, -1, *event).to(draws.dtype)) - log_q)
    weights = torch.cat(log_weights)  # [num, B]
    return math.log(num) - torch.logsumexp(torch.where(weights.isfinite(), weights, -torch.inf), dim=0)


def _pieces(num: int, batch: int, max_rows: int) -> list[int]:
    """Draws of `batch` images at a time, `num` in all."""
    size = max(1, max_rows // batch)
    return [min(size, num - start) for start in range(0, num, size)]
