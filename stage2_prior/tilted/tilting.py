"""A base density tilted by a network: p(z) = p_0(z) exp t(z) / Z, with Z = E_p_0(z)[exp t(z)].

What the base is: an exact density that is fitted first, such as a mixture. What the tilt and the training are:
`stage2_prior.tilted.resampled` and `stage2_prior.tilted.energy`. Z has no closed form. While the network learns, each
step estimates it from fresh draws of the base, and validation from the same draws each time; after the fit it is
estimated once, from many. With weights w = exp t(z) of M draws, log Z = log mean w, and by the delta method its
standard error is sqrt((1 / s - 1) / M), where s = (mean w)^2 / mean w^2 is the share of M that counts (the effective
sample size over M: Kong, Liu & Wong, "Sequential Imputations and Bayesian Missing Data Problems", 1994, section 4.1).
All densities share that error. The nearer the base, the smaller it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.bases import check_base, fit_base, take_after
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.held_out import report
from stage2_prior.nets.dropout import Dropout
from stage2_prior.prior import Exactness, GradientPrior, Prior, check_real_vector

FIRST_GAIN = 4.0
"""As in `nets.made`: units must bend at the width of one posterior, a tenth of the whole."""
NEARLY_ZERO = 1e-2
"""Scale of the last layer's weights at the start, where the density is that of the base."""
ROWS_AT_ONCE = 8192
HELD_OUT_DRAWS = 2**14
"""Draws of the base for the normaliser of held-out figures."""


class Tilted(GradientPrior, ABC):
    """Density over vectors of real numbers: a base, times what a network says of z, over an estimated normaliser.

    Args:
        base: unfitted prior of the same latents with an exact density and a fit of its own.
        hidden: widths of the hidden layers; equal neighbours get a residual connection.
        dropout: share of hidden activations set to zero in training.
        num_draws: M, draws of the base for the normaliser after the fit.
        bias: whether a constant in the network's answer means anything.

    Raises:
        PriorError: for a number out of range, or a base that is none.
    """

    log_prob_is = Exactness.ESTIMATE
    prior_keys: ClassVar[tuple[str, ...]] = ("base",)
    log_normaliser: Tensor
    share_that_counts: Tensor
    fixed: Tensor

    def __init__(
        self, spec: LatentSpec, base: Prior | None, hidden: Sequence[int], dropout: float, num_draws: int, bias: bool
    ) -> None:
        super().__init__(spec)
        if base is None:
            raise PriorError("prior.base=null: it tilts another prior; give mixture")
        check_base(base)
        if not hidden or min(hidden) < 1:
            raise PriorError(f"prior.hidden={list(hidden)}: give at least one width, each at least 1")
        if not 0 <= dropout < 1:
            raise PriorError(f"prior.dropout={dropout}: give a share from 0 to below 1")
        if num_draws < 2:
            raise PriorError(f"prior.num_draws={num_draws}: give at least 2")
        self.base, self.num_draws = base, num_draws
        take_after(self, base)
        layers = [nn.Linear(*pair) for pair in pairwise((spec.num_dims, *hidden))]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(hidden[-1], 1, bias=bias)
        self.dropout = Dropout(dropout)
        with torch.no_grad():
            layers[0].weight.mul_(FIRST_GAIN)
            self.head.weight.mul_(NEARLY_ZERO)
        self.register_buffer("log_normaliser", torch.zeros((), dtype=torch.float64))
        self.register_buffer("share_that_counts", torch.ones((), dtype=torch.float64))
        self.register_buffer("fixed", torch.zeros(0, spec.num_dims), persistent=False)  # base draws, during the fit

    @property
    def num_parameters(self) -> int:
        return super().num_parameters + self.base.num_parameters

    @property
    def log_prob_error_nats(self) -> float:
        return math.sqrt(max(0.0, 1 / float(self.share_that_counts) - 1) / self.num_draws)

    @property
    def caveats(self) -> list[str]:
        count = self.num_draws * float(self.share_that_counts)
        return [
            f"its densities share an estimated normaliser, from {self.num_draws:,} draws that count as {count:,.0f} "
            f"(standard error {self.log_prob_error_nats:.2g} nats).",
            *self.base.caveats,
        ]

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        return 2 if section.get("dropout") else 1  # it draws four entries at once

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector(cls.__name__.lower(), spec)

    @abstractmethod
    def log_tilt(self, z: Tensor) -> Tensor:
        """t(z), [B, D] -> [B] float32."""

    def answer(self, z: Tensor) -> Tensor:
        """What the network says of z, [B, D] -> [B] float32."""
        h = z
        for layer in self.layers:
            after = nn.functional.silu(layer(h))
            h = self.dropout(h + after if h.shape == after.shape else after)
        with torch.autocast(z.device.type, enabled=False):  # densities are never in half precision
            answer: Tensor = self.head(h.float()).squeeze(1)
        return answer

    def log_density(self, of_base: Tensor, tilt: Tensor, log_normaliser: Tensor) -> Tensor:
        """log p(z), [B] from log p_0(z) [B], t(z) [B] and log Z."""
        return of_base + tilt - log_normaliser

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.log_density(self.base.log_prob(z), self.log_tilt(z), self.log_normaliser.float())

    def _held_out_loss(self, z: Tensor) -> Tensor:
        """-log p(z) with the normaliser of today's network, from the same draws each time; after the fit the final."""
        if not len(self.fixed):
            return -self._log_prob(z, None)
        return -self.log_density(self.base.log_prob(z), self.log_tilt(z), log_mean_exp(self.log_tilt(self.fixed)))

    def prepare(self, train: LatentDataset) -> None:
        """Draw from the base, which is fitted, for held-out figures."""
        self.fixed = self.base.sample(HELD_OUT_DRAWS)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the base as it fits itself, then the network on it by gradient, then estimate the normaliser.

        Raises:
            PriorError: as `fit_by_gradient` and the base do.
        """
        base = fit_base(self.base, train, val, run)
        fitted = super().fit(train, val, run)
        self.fixed = self.fixed[:0]
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(run.seed)
            self._estimate_normaliser()
        seconds, notes = base.seconds + fitted.seconds, [*base.notes, *fitted.notes]
        return replace(report(self, train, val, run, seconds, fitted.curve, notes), seconds=seconds)

    @torch.no_grad()
    def _estimate_normaliser(self) -> None:
        sizes = [min(ROWS_AT_ONCE, self.num_draws - start) for start in range(0, self.num_draws, ROWS_AT_ONCE)]
        tilt = torch.cat([self.log_tilt(self.base.sample(size)) for size in sizes]).double()
        self.log_normaliser.copy_(log_mean_exp(tilt))
        self.share_that_counts.copy_(torch.exp(2 * self.log_normaliser - log_mean_exp(2 * tilt)))


def log_mean_exp(values: Tensor) -> Tensor:
    """[M] -> []."""
    return torch.logsumexp(values, 0) - math.log(len(values))
