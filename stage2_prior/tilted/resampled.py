"""Learned accept/reject sampling: a base whose draws a network accepts or not, p(z) = pi(z) a(z) / Z.

After Bauer & Mnih, "Resampled Priors for Variational Autoencoders", AISTATS 2019. A draw z ~ pi is accepted with the
probability a(z) = sigmoid of a network, so that Z = E_pi[a(z)] is the rate of acceptance. So that sampling ends, the
T-th draw is taken as it is, and with (1 - Z)^(T-1) = r, the chance of coming so far, the density of that is (equation
4) p(z) = pi(z) ((1 - r) a(z) / Z + r). The network maximises it with Z from fresh draws of pi in each step. How Z is
known in the end, and how well: `stage2_prior.tilted.tilting`. There the paper's base is N(0, I), which has to reject
nearly all where the answer is far: from a fitted mixture there is less to reject.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_vae.latents import LatentSpec
from stage2_prior.fitting import PriorError
from stage2_prior.prior import Prior
from stage2_prior.sampling import Sampling
from stage2_prior.tilted.tilting import Tilted, log_mean_exp

LOG_ODDS = -4.0
"""Of acceptance at the start, where it is the same everywhere. From 0.1 on networks learned to accept all of what they
had not yet seen enough of to refuse it, and stayed there, 0.36 nats off on a ring; from below, what forces the rate of
acceptance up to a few in T is the density itself, and no more than that."""


class Resampled(Tilted):
    """A base thinned by a network; vectors of real numbers.

    Args:
        base: pi, unfitted; its density is exact, and it is not fitted by gradient.
        attempts: T, draws a sample at most.
        hidden, dropout: of the network.
        num_proposals: draws of the base a step of training.
        num_draws: of the base for Z after the fit.

    Raises:
        PriorError: for a number out of range, or a base that is none.
    """

    def __init__(
        self,
        spec: LatentSpec,
        base: Prior | None = None,
        attempts: int = 30,
        hidden: Sequence[int] = (256, 256, 256),
        dropout: float = 0.0,
        num_proposals: int = 1024,
        num_draws: int = 2**18,
    ) -> None:
        super().__init__(spec, base, hidden, dropout, num_draws, bias=True)
        for name, count in {"attempts": attempts, "num_proposals": num_proposals}.items():
            if count < 1:
                raise PriorError(f"prior.{name}={count}: give at least 1")
        self.attempts, self.num_proposals = attempts, num_proposals
        nn.init.constant_(self.head.bias, LOG_ODDS)

    @property
    def caveats(self) -> list[str]:
        accepted = math.exp(float(self.log_normaliser))
        return [
            f"it accepts {accepted:.1%} of its proposals, of which the last of {self.attempts} is always taken.",
            *super().caveats,
        ]

    def log_tilt(self, z: Tensor) -> Tensor:
        return F.logsigmoid(self.answer(z))

    def log_density(self, of_base: Tensor, tilt: Tensor, log_normaliser: Tensor) -> Tensor:
        log_rejected = torch.log(-torch.expm1(log_normaliser.clamp_max(-1e-6)))
        log_rest = (self.attempts - 1) * log_rejected  # log r
        accepted = tilt - log_normaliser + torch.log(-torch.expm1(log_rest.clamp_max(-1e-30)))
        return of_base + torch.logaddexp(accepted, log_rest)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        if not self.training:
            return self._held_out_loss(z)
        with torch.no_grad():
            proposals = self.base.sample(self.num_proposals)
        tilt = self.log_tilt(torch.cat([z, proposals]))  # one pass for both
        of_data, of_proposals = tilt.split([len(z), len(proposals)])
        return -self.log_density(self.base.log_prob(z), of_data, log_mean_exp(of_proposals))

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        z = self.base.sample(n)
        waiting = torch.arange(n, device=z.device)  # whose last proposal is not accepted
        for _ in range(self.attempts - 1):
            log_level = -torch.empty(len(waiting), device=z.device).exponential_()  # log of a uniform number
            waiting = waiting[log_level > self.log_tilt(z[waiting])]
            if not len(waiting):
                break
            z[waiting] = self.base.sample(len(waiting))
        return z
