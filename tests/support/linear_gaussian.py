"""A model whose log p(x) is known, for tests of annealing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from expost.evaluation.annealing.path import Annealed, Annealing, Start, annealed_bounds, proposals
from expost.evaluation.bounds import Bounds, importance_bounds

QUICK = Annealing(num_chains=8, num_steps=60, leapfrog_steps=4)


@dataclass(frozen=True)
class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz, s^2 I), with proposals 1.5 times as wide as the posterior and moved."""

    latent: int = 8
    pixels: int = 24
    num: int = 20
    scale: float = 0.5
    widen: float = 1.5
    shift: float = 0.4
    seed: int = 0

    @cached_property
    def drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(self.pixels, self.latent, generator=g) / math.sqrt(self.latent)
        z = torch.randn(self.num, self.latent, generator=g)
        x = z @ weights.T + self.scale * torch.randn(self.num, self.pixels, generator=g)
        return weights, z, x

    @property
    def x(self) -> Tensor:
        return self.drawn[2]

    @property
    def log_p(self) -> Tensor:
        """Exact log p(x), [N] nats."""
        weights = self.drawn[0].double()
        covariance = weights @ weights.T + self.scale**2 * torch.eye(self.pixels).double()
        return MultivariateNormal(torch.zeros(self.pixels).double(), covariance).log_prob(self.x.double())

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, D] and covariance [D, D]."""
        weights = self.drawn[0]
        covariance = torch.linalg.inv(torch.eye(self.latent) + weights.T @ weights / self.scale**2)
        return x @ weights @ covariance / self.scale**2, covariance

    def start(self, x: Tensor) -> Start:
        mean, covariance = self.posterior(x)
        std = covariance.diagonal().sqrt()
        q = Normal(mean + self.shift * std, self.widen * std.expand_as(mean))
        return Start(lambda n: q.sample(torch.Size([n])), lambda z: q.log_prob(z).sum(-1), q.stddev)

    def from_the_prior(self, x: Tensor) -> Start:
        return Start(lambda n: torch.randn(n, len(x), self.latent), self.log_prior, torch.ones(len(x), self.latent))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(z @ self.drawn[0].T, self.scale).log_prob(x).sum(-1)

    def log_prior(self, z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)

    def anneal(self, settings: Annealing, x: Tensor | None = None) -> Annealed:
        images = self.x if x is None else x
        return annealed_bounds([images], self.start, self.log_likelihood, self.log_prior, settings)

    def importance(self, num_samples: int, x: Tensor | None = None) -> Bounds:
        images = self.x if x is None else x
        priors, propose = {"p": self.log_prior}, proposals(self.start)
        return importance_bounds([images], propose, self.log_likelihood, priors, num_samples, max_rows=2**15)["p"]


def std_error_nats(ess_share: Tensor, num: int) -> Tensor:
    """Of a bound by `num` weights, from their spread (delta method); too small where few weights count."""
    return ((1 / ess_share - 1) / num).clamp_min(0).sqrt()


def from_a_normal(dims: int) -> Callable[[Tensor], Start]:
    def start(x: Tensor) -> Start:
        q = Normal(torch.zeros(len(x), dims), 1.5)
        return Start(lambda n: q.sample(torch.Size([n])), lambda z: q.log_prob(z).sum(-1), q.stddev)

    return start
