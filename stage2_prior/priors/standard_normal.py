"""N(0, I), what a VAE samples from when nobody looks and the baseline of every table, and N(0, s^2 I) beside it."""

import math

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun, PriorError, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.moments import moments
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


class Isotropic(StandardNormal):
    """N(0, s^2 I): a ball that is as wide as the latents want it, or as somebody says.

    The likeliest s^2 is the mean square of a number of q(z), means and variances of the posteriors together, and no
    draw is needed for it. Samples follow `temperature`.

    Args:
        std: s; None: the likeliest.

    Raises:
        PriorError: no width.
    """

    knobs = frozenset({"temperature"})
    width: Tensor

    def __init__(self, spec: LatentSpec, std: float | None = None) -> None:
        super().__init__(spec)
        if std is not None and std <= 0:
            raise PriorError(f"prior.std={std}: give a number above 0, or null")
        self.std = std
        self.register_buffer("width", torch.tensor(1.0 if std is None else std, dtype=torch.float64))

    @property
    def num_parameters(self) -> int:
        return int(self.std is None)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("isotropic models real numbers", spec, Support.REAL)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        unit = self.width.to(z.dtype)
        return super()._log_prob(z / unit, context) - self.spec.num_dims * unit.log()

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        return how.temperature * self.width.to(self.anchor.dtype) * super()._sample(n, context, how)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Match the mean square of `train`, where no width was given; `val` is only measured.

        Raises:
            PriorError: for latents that are not finite, or all 0.
        """
        watch = Stopwatch()
        check_finite(train, "training")
        if self.std is None:
            aggregate = moments(train, run.device)
            square = (aggregate.mean.square() + aggregate.total).mean()
            if square <= 0:
                raise PriorError("all latents are 0, and a ball around 0 has no width; choose prior=gaussian")
            self.width.copy_(square.sqrt())
        return report(self, train, val, run, watch.seconds)
