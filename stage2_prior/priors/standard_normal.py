"""N(0, I): what a VAE samples from when nobody looks. The baseline of every table."""

import math

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.prior import Exactness, Prior, check_support
from stage2_prior.sampling import Sampling


class StandardNormal(Prior):
    """N(0, I) over real latents of any shape; nothing is fitted."""

    log_prob_is = Exactness.EXACT

    @property
    def num_parameters(self) -> int:
        return 0

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("standard_normal models real numbers", spec, Support.REAL)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        return torch.randn(n, *self.spec.shape, dtype=self.anchor.dtype, device=self.anchor.device)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        return FitReport(seconds=0.0, train_nll_nats=None, val_nll_nats=None)
