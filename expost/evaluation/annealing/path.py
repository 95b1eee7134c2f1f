"""Annealed importance sampling of log p(x), and bidirectional Monte Carlo, which bounds its error.

Between a start density s(z), which can be sampled, and the joint f(z) = p(x|z) p(z), whose integral is p(x), lie
f_t(z) = s(z)^(1 - beta_t) f(z)^beta_t with 0 = beta_0 < ... < beta_T = 1. A chain draws z_0 ~ s, then alternates

    log w += (beta_t - beta_(t-1)) (log f(z_(t-1)) - log s(z_(t-1))),    z_t ~ a transition that leaves f_t invariant

and E[w] = p(x) for any number of steps, however badly the transitions mix (Neal, "Annealed importance sampling", 2001,
equations 3-5 and 11; through decoders: Wu, Burda, Salakhutdinov & Grosse, "On the Quantitative Analysis of
Decoder-Based Generative Models", 2017, section 3). So log 1/K sum_k w_k is below log p(x) in expectation, and with
T = 1 it is the importance-weighted bound.

Run backwards from an exact sample z ~ p(z|x), the same chain has E[1/w] = 1/p(x), so -log 1/K sum_k 1/w_k is above
log p(x) in expectation. On images simulated from the model, where the z behind each x is such a sample, the two enclose
the truth, and the gap bounds the error of both (Grosse, Ghahramani & Adams, "Sandwiching the marginal likelihood using
bidirectional Monte Carlo", 2015, section 3).

Step sizes. Adapted on the fly, as Wu et al. do it, a transition depends on the chain's own past, and E[w] = p(x) no
longer holds exactly. Here a pilot of a few chains of its own walks the path first, and one step size for each image
and temperature follows its acceptance; then the pilot is thrown away and the step sizes are frozen. Given the pilot,
every transition is a fixed kernel, so the estimate is unbiased for any pilot, forwards and backwards.

Temperatures: beta_t = (sig(4 (2 t / T - 1)) - sig(-4)) / (sig(4) - sig(-4)) with the logistic sig, dense at both ends
where the density changes fastest.

Sign: weights are log-likelihoods inside this file and become costs in the two lines of `_cost` and `_cost_backwards`:
every `*_nats` of a result is a bound on -log p(x), in nats an image, lower is better, as in `expost.evaluation.bounds`.

    start = lambda x: Start(sample=lambda n: q(x).rsample((n,)), log_prob=lambda z: q(x).log_prob(z), scale=q(x).stddev)
    annealed = annealed_bounds(x_batches, start, log_likelihood, log_prior, Annealing(num_chains=16, num_steps=500))
    annealed.mean_nats(), annealed.notes()
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.annealing.hmc import LogDensity, Path, Point, transition
from expost.evaluation.bounds import Draw, LogLikelihood, LogPrior, Propose, concatenate

TENTHS = 10
"""Parts of the path in which acceptance is reported."""
MAX_DIVERGED_TRANSITIONS = 0.05
"""A chain of which more diverged is called a diverged chain."""
MAX_DIVERGED_CHAINS = 0.1
MIN_TRUSTED = 0.5
"""With fewer trusted images there is no mean: it would be ranked like any other."""
MIN_ACCEPTANCE, MAX_ACCEPTANCE = 0.3, 0.97
"""An image outside these is not trusted: its chains hardly moved, or hardly went anywhere."""
PILOT_CHAINS, TARGET_ACCEPTANCE = 4, 0.65
WARM_UP, MIN_PILOT, ADAPTATION_RATE = 25, 150, 0.2
"""Of the pilot: transitions at the first temperature, at least in all, and how far log step size follows acceptance."""


@dataclass(frozen=True)
class Annealing:
    """How much work is done for an image.

    Args:
        num_chains: K independent weights.
        num_steps: T; the cost is num_steps * leapfrog_steps gradients a chain.
        leapfrog_steps: of one trajectory.
    """

    num_chains: int = 16
    num_steps: int = 500
    leapfrog_steps: int = 10

    def betas(self) -> list[float]:
        """beta_0 = 0 ... beta_T = 1."""
        s = torch.sigmoid(4 * (2 * torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64) - 1))
        return ((s - s[0]) / (s[-1] - s[0])).tolist()


@dataclass(frozen=True)
class Start:
    """Where chains of B images begin: q(z|x), the prior, or any density that can be sampled and differentiated.

    Attributes:
        sample: n -> z [n, B, *latent].
        log_prob: z [n, B, *latent] -> [n, B] nats; it must be normalised.
        scale: [B, *latent], typical width of each coordinate for the HMC (the standard deviation of q).
    """

    sample: Callable[[int], Tensor]
    log_prob: LogDensity
    scale: Tensor


def proposals(start: Callable[[Tensor], Start]) -> Propose:
    """Draws from where chains begin, for importance sampling."""

    def propose(x: Tensor) -> Draw:
        begin = start(x)

        def draw(n: int) -> tuple[Tensor, Tensor]:
            z = begin.sample(n)
            return z, begin.log_prob(z)

        return draw

    return propose


@dataclass(frozen=True)
class Annealed:
    """What annealing says of N images; float64 [N] on the CPU.

    Attributes:
        num_chains: K.
        nll_nats: upper bound on -log p(x), in expectation; infinite where no chain has a weight.
        ess_share: effective sample size of the weights, (sum w)^2 / sum w^2, over K, in [1/K, 1]; 0 without weights.
        diverged: share of the chains of which more than 5 % of the transitions diverged, or that have no weight.
        acceptance: mean over transitions and chains; None with num_steps=1, which has no transition.
        acceptance_lowest, acceptance_highest: of the tenths of the path.
    """

    num_chains: int
    nll_nats: Tensor
    ess_share: Tensor
    diverged: Tensor
    acceptance: Tensor | None
    acceptance_lowest: Tensor | None
    acceptance_highest: Tensor | None

    @property
    def trusted(self) -> Tensor:
        """Bool [N]: there is a weight, few chains diverged, and mean acceptance is within its bounds."""
        moves = torch.ones_like(self.diverged, dtype=torch.bool)
        if self.acceptance is not None:
            moves = (self.acceptance >= MIN_ACCEPTANCE) & (self.acceptance <= MAX_ACCEPTANCE)
        return torch.isfinite(self.nll_nats) & (self.diverged <= MAX_DIVERGED_CHAINS) & moves

    @property
    def acceptance_range(self) -> tuple[float, float] | None:
        """Lowest and highest over all images and tenths of the path; None without a transition."""
        if self.acceptance_lowest is None or self.acceptance_highest is None:
            return None
        return self.acceptance_lowest.min().item(), self.acceptance_highest.max().item()

    def mean_nats(self) -> float | None:
        """Mean of `nll_nats` over ALL images; None where one has no weight or fewer than half are trusted."""
        usable = bool(torch.isfinite(self.nll_nats).all()) and self.trusted.double().mean().item() >= MIN_TRUSTED
        return self.nll_nats.mean().item() if usable else None

    def notes(self) -> list[str]:
        """What a reader must know, in words; empty where there is nothing."""
        num = len(self.nll_nats)
        weightless = int((~torch.isfinite(self.nll_nats)).sum())
        untrusted = int((~self.trusted).sum())
        diverged = int((self.diverged > 0).sum())
        few = int((self.ess_share * self.num_chains < 2).sum()) if self.num_chains > 1 else 0
        counts = {
            f"no chain of {weightless} of {num} images has a weight: no figure": weightless,
            f"{untrusted} of {num} images are not trusted (acceptance outside {MIN_ACCEPTANCE}-{MAX_ACCEPTANCE}, or "
            f"more than {MAX_DIVERGED_CHAINS:.0%} of the chains diverged); raise num_steps": untrusted,
            f"chains diverged on {diverged} of {num} images; their trajectories were rejected": diverged,
            f"{few} of {num} images rest on fewer than 2 effective chains: their bound may be loose": few,
        }
        return [words for words, count in counts.items() if count]


@dataclass(frozen=True)
class Bidirectional:
    """The two sides of -log p(x) on N images simulated from the model; float64 [N] on the CPU.

    Attributes:
        upper: from annealing forwards; `upper.nll_nats` is above -log p(x) in expectation.
        lower_nats: from annealing backwards, below -log p(x) in expectation; minus infinity where a chain had no
            weight.
    """

    upper: Annealed
    lower_nats: Tensor

    @property
    def gap_nats(self) -> Tensor:
        """upper - lower, [N]: above the error of either, in expectation; chance may make a single one negative."""
        return self.upper.nll_nats - self.lower_nats


def annealed_bounds(
    x_batches: Iterable[Tensor],
    start: Callable[[Tensor], Start],
    log_likelihood: LogLikelihood,
    log_prior: LogPrior,
    settings: Annealing,
    max_rows: int = 8192,
) -> Annealed:
    """Bounds on -log p(x) of every image under one prior.

    Args:
        x_batches: batches [B, C, H, W].
        start: where the chains of a batch begin.
        log_likelihood: x, z [n, B, *latent] -> log p(x|z) [n, B] nats, differentiable in z.
        log_prior: z [M, *latent] -> log p(z) [M] nats, differentiable.
        settings: how much work.
        max_rows: most (chain, image) pairs at once; batches are split where they have more.

    Raises:
        EvaluationError: a density that is not differentiable.
        ValueError: when there is no image.
    """
    costs = []
    for batch in x_batches:
        for x in batch.split(max(1, max_rows // settings.num_chains)):
            problem = _problem(x, start, log_likelihood, log_prior)
            costs.append(_cost(_walk(problem, settings, _pilot(problem, settings))))
    return concatenate(costs)


def bidirectional(
    pairs: Iterable[tuple[Tensor, Tensor]],
    start: Callable[[Tensor], Start],
    log_likelihood: LogLikelihood,
    log_prior: LogPrior,
    settings: Annealing,
    max_rows: int = 8192,
) -> Bidirectional:
    """Both sides of -log p(x) on simulated images.

    Args:
        pairs: x [B, C, H, W] ~ p(x|z) with the z [B, *latent] ~ p(z) that each was drawn from; every other z, such as
            a mean of q(z|x), makes `lower_nats` no bound.
        start, log_likelihood, log_prior, settings, max_rows: as for `annealed_bounds`.

    Raises:
        EvaluationError, ValueError: as for `annealed_bounds`.
    """
    size = max(1, max_rows // settings.num_chains)
    upper, lower = [], []
    for batch, exact in pairs:
        for x, z in zip(batch.split(size), exact.split(size), strict=True):
            problem = _problem(x, start, log_likelihood, log_prior)
            step_sizes = _pilot(problem, settings)
            upper.append(_cost(_walk(problem, settings, step_sizes)))
            lower.append(_cost_backwards(_walk(problem, settings, step_sizes, z)))
    return Bidirectional(concatenate(upper), torch.cat(lower))


_Problem = tuple[Start, Path]
"""One batch: the start, and the path to the joint density."""


@dataclass(frozen=True)
class _Walk:
    """K chains of B images: log w [K, B], share of diverged transitions [K, B], acceptance [tenths, B] or None."""

    log_weight: Tensor
    diverged: Tensor
    acceptance: Tensor | None


def _problem(
    x: Tensor, start: Callable[[Tensor], Start], log_likelihood: LogLikelihood, log_prior: LogPrior
) -> _Problem:
    def log_joint(z: Tensor) -> Tensor:
        log_p = log_prior(z.flatten(0, 1)).double().view(z.shape[:2])
        return log_likelihood(x, z).double() + log_p

    with torch.no_grad():
        begin = start(x)
    return begin, Path(begin.log_prob, log_joint)


@torch.no_grad()
def _pilot(problem: _Problem, settings: Annealing) -> Tensor:
    """One step size for each temperature but the first and the last, and each image: [T - 1, B]."""
    start, path = problem
    scale, num_dims = start.scale, start.scale[0].numel()
    log_step = torch.full((len(scale),), math.log(0.5 * num_dims**-0.25), dtype=torch.float64, device=scale.device)
    if settings.num_steps == 1:
        return log_step.new_empty(0, len(scale))
    point = path.at(start.sample(PILOT_CHAINS))
    sizes = []
    repeats = -(-MIN_PILOT // settings.num_steps)  # on a short path acceptance would be chased and never met
    for i, beta in enumerate(settings.betas()[1:-1]):
        for _ in range(repeats + (WARM_UP if i == 0 else 0)):
            moved = transition(path, point, beta, log_step.exp(), scale, settings.leapfrog_steps)
            point = moved.point
            log_step = log_step + ADAPTATION_RATE * (moved.acceptance.mean(0) - TARGET_ACCEPTANCE)
        sizes.append(log_step.exp())
    return torch.stack(sizes)


@torch.no_grad()
def _walk(problem: _Problem, settings: Annealing, step_sizes: Tensor, exact: Tensor | None = None) -> _Walk:
    """Chains from the start to the joint density or, from `exact` [B, *latent], the same way back."""
    start, path = problem
    betas, num = settings.betas(), settings.num_steps
    if exact is None:
        z, steps, after = start.sample(settings.num_chains), range(num), 0
    else:
        z, steps, after = exact.expand(settings.num_chains, *exact.shape), range(num - 1, -1, -1), -1
    point: Point = path.at(z)
    log_weight = torch.zeros_like(point.log_last)
    diverged = torch.zeros_like(log_weight)
    accepted = log_weight.new_zeros(TENTHS, log_weight.shape[1])
    visits = [0] * TENTHS
    for t in steps:
        log_weight = log_weight + (betas[t + 1] - betas[t]) * point.log_ratio
        kernel = t + after  # that of beta_(kernel + 1), between this difference of temperatures and the next
        if not 0 <= kernel < num - 1:
            continue
        moved = transition(path, point, betas[kernel + 1], step_sizes[kernel], start.scale, settings.leapfrog_steps)
        point, tenth = moved.point, kernel * TENTHS // (num - 1)
        diverged += moved.diverged / (num - 1)
        accepted[tenth] += moved.acceptance.mean(0)
        visits[tenth] += 1
    counts = accepted.new_tensor(visits)[:, None]  # [tenths, 1]
    return _Walk(log_weight, diverged, (accepted / counts)[counts[:, 0] > 0] if any(visits) else None)


def _cost(walk: _Walk) -> Annealed:
    """log w [K, B] of chains forwards -> a cost; a weight that is no number counts as zero, which loosens the bound."""
    num_chains = len(walk.log_weight)
    log_weight = torch.where(walk.log_weight < torch.inf, walk.log_weight, -torch.inf)  # NaN and inf go
    total = torch.logsumexp(log_weight, dim=0)  # [B]
    weighty = total > -torch.inf
    ess = torch.where(weighty, (2 * total - torch.logsumexp(2 * log_weight, dim=0)).exp(), 0.0)  # [B] in [1, K]
    diverged = (walk.diverged > MAX_DIVERGED_TRANSITIONS) | (log_weight == -torch.inf)
    tenths = walk.acceptance
    return Annealed(
        num_chains=num_chains,
        nll_nats=(math.log(num_chains) - total).cpu(),
        ess_share=(ess / num_chains).cpu(),
        diverged=diverged.double().mean(0).cpu(),
        acceptance=None if tenths is None else tenths.mean(0).cpu(),
        acceptance_lowest=None if tenths is None else tenths.amin(0).cpu(),
        acceptance_highest=None if tenths is None else tenths.amax(0).cpu(),
    )


def _cost_backwards(walk: _Walk) -> Tensor:
    """log w [K, B] of chains backwards -> lower bounds on -log p(x), [B]; minus infinity where a weight is none."""
    lower = torch.logsumexp(-walk.log_weight, dim=0) - math.log(len(walk.log_weight))
    return torch.where(torch.isfinite(lower), lower, -torch.inf).cpu()
