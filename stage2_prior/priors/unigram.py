"""Codes by themselves: p(z) = prod_t p_t(z_t), each place with the frequencies of its own codes.

The floor under learned priors of codes: one that does not beat it has learned nothing of how codes go together.
Frequencies are counted in one pass and smoothed by adding a constant to each count (Laplace's rule, its constant by
held-out likelihood), so that no code has probability zero.
"""

import time
from typing import ClassVar

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.counts import check_discrete, place_counts, places, smoothed_log_probs, unfitted_log_probs
from stage2_prior.held_out import check_finite, measured_nll_nats
from stage2_prior.prior import Exactness, FitReport, FitRun, Prior
from stage2_prior.sampling import CODE_KNOBS, Sampling, draw_categorical


class Unigram(Prior):
    """Independent places, for codes and bits.

    Args:
        spec: what one latent is.
    """

    version: ClassVar[int] = 1
    log_prob_is = Exactness.EXACT
    fits_in_ranks = False
    knobs = CODE_KNOBS
    log_probs: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        self.register_buffer("log_probs", unfitted_log_probs(spec))  # [T, K], uniform until fitted

    @property
    def num_parameters(self) -> int:
        return sum((where.stop - where.start) * (size - 1) for where, size in places(self.spec))

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_discrete("unigram", spec)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        place = torch.arange(self.spec.num_dims, device=z.device)
        return self.log_probs[place, z.long()].sum(1).float()

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        drawn = [draw_categorical(log_probs.expand(n, -1), how) for log_probs in self.log_probs]
        z = torch.stack(drawn, dim=1)  # [n, T]
        return z.to(self.anchor.dtype) if self.spec.support is Support.BITS else z

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Count `train`; `val` chooses the smoothing.

        Raises:
            PriorError: for latents that are not finite.
        """
        started = time.perf_counter()
        check_finite(train, "training")
        log_probs, alpha = smoothed_log_probs(place_counts(train), place_counts(val), self.spec)
        self.log_probs.copy_(log_probs)
        seconds = time.perf_counter() - started
        figures = measured_nll_nats(self, train, val, run.seed)
        return FitReport(seconds, *figures, notes=[f"every count was raised by {alpha:g}"])
