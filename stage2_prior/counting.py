"""Priors that are fitted by counting: of discrete latents, in closed form, with nothing to train."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.counts import places, unfitted_log_probs
from stage2_prior.fitting import FitReport, FitRun, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.prior import Exactness, Prior
from stage2_prior.sampling import CODE_KNOBS, Sampling


class CountingPrior(Prior, ABC):
    """A density of codes or bits whose fit is `_count`.

    Args:
        spec: what one latent is.
    """

    log_prob_is = Exactness.EXACT
    fits_in_ranks = False
    knobs = CODE_KNOBS
    log_probs: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        self.register_buffer("log_probs", unfitted_log_probs(spec))  # [T, K] of each place by itself

    @property
    def num_place_parameters(self) -> int:
        """Free numbers of the places by themselves."""
        return sum((where.stop - where.start) * (size - 1) for where, size in places(self.spec))

    @abstractmethod
    def _count(self, train: LatentDataset, val: LatentDataset, seed: int) -> str:
        """Set the buffers by what is in `train`, smoothed as suits `val`; what was chosen, in words for the user."""

    @abstractmethod
    def _draw(self, n: int, how: Sampling) -> list[Tensor]:
        """The codes of each place, int64 [n] each."""

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        z = torch.stack(self._draw(n, how), dim=1)  # [n, T]
        return z.to(self.anchor.dtype) if self.spec.support is Support.BITS else z

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Count `train`; `val` chooses the smoothing.

        Raises:
            PriorError: for latents that are not finite.
        """
        watch = Stopwatch()
        check_finite(train, "training")
        note = self._count(train, val, run.seed)
        return report(self, train, val, run, watch.seconds, notes=[note])
