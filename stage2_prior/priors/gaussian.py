"""One Gaussian with a full covariance, moment-matched to the aggregate posterior in closed form.

The maximum of E_q(z)[log N(z; m, S)] over m and S has the moments of q(z) = 1/N sum_i N(m_i, diag(s_i^2)), which the
law of total variance gives without a draw: m = mean of m_i, S = mean of diag(s_i^2) + covariance of the m_i (for the
fact that the moments are the answer: Bishop, "Pattern Recognition and Machine Learning", 2006, section 2.3.4). Of fewer
points than twice their dimensions that maximum is no density, or a hairline from none: their correlations are shrunk.
"""

import math

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.em.covariances import cholesky
from stage2_prior.fitting import FitReport, FitRun, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.moments import are_few, moments, shrinkage_of_few
from stage2_prior.prior import Exactness, Prior, check_real_vector
from stage2_prior.sampling import Sampling


class Gaussian(Prior):
    """N(mean, scale scale^T) over vectors of real numbers; log-densities are computed in float64.

    Samples follow `temperature`: it scales the deviations from the mean.
    """

    log_prob_is = Exactness.EXACT
    knobs = frozenset({"temperature"})
    mean: Tensor
    scale: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        self.register_buffer("mean", torch.zeros(spec.num_dims, dtype=torch.float64))  # [D]
        self.register_buffer("scale", torch.eye(spec.num_dims, dtype=torch.float64))  # [D, D] Cholesky factor

    @property
    def num_parameters(self) -> int:
        return self.spec.num_dims * (self.spec.num_dims + 3) // 2

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("gaussian", spec)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        white = torch.linalg.solve_triangular(self.scale, (z.double() - self.mean).T, upper=False).T  # [B, D]
        log_det = self.scale.diagonal().log().sum()
        return (-0.5 * (white.square() + math.log(2 * math.pi)).sum(1) - log_det).to(z.dtype)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        noise = torch.randn(n, self.spec.num_dims, dtype=self.mean.dtype, device=self.mean.device)
        return (self.mean + how.temperature * noise @ self.scale.T).to(self.anchor.dtype)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Match the moments of `train`; `val` is only measured.

        Raises:
            PriorError: for latents that are not finite.
        """
        watch = Stopwatch()
        check_finite(train, "training")
        aggregate = moments(train, run.device, full=True)
        covariance, notes = aggregate.total, []
        if are_few(train):
            share = shrinkage_of_few(train, aggregate)
            covariance = covariance.lerp(torch.diag(covariance.diagonal()), share)
            notes.append(
                f"{len(train):,} points tell little of the correlations of {self.spec.num_dims:,} dimensions: they are "
                f"shrunk by {100 * share:.0f} %"
            )
        scale = cholesky(covariance)
        ridge = (scale @ scale.T - covariance).diagonal().mean().item()
        singular = ridge > 1e-14 * covariance.diagonal().mean().item()
        self.mean.copy_(aggregate.mean)
        self.scale.copy_(scale)
        if singular:
            notes.append(f"the covariance was singular: {ridge:.1e} was added to its diagonal")
        return report(self, train, val, run, watch.seconds, notes=notes)
