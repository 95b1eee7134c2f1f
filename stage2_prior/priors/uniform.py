"""The prior that discrete VAEs are trained against: uniform codes, or fair bits. Nothing is fitted."""

import math

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.held_out import report
from stage2_prior.prior import Exactness, Prior, check_support
from stage2_prior.sampling import Sampling


class Uniform(Prior):
    """Every code equally likely at every place; every bit fair."""

    log_prob_is = Exactness.EXACT
    num_parameters = 0
    sizes: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        places = torch.tensor([h * w for h, w in spec.grids] or [spec.num_dims])
        num_codes = torch.tensor(spec.num_codes or (2,))
        sizes = torch.repeat_interleave(num_codes, places, output_size=spec.num_dims)
        self.register_buffer("sizes", sizes, persistent=False)  # [T] codes at each place

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("uniform models codes and bits", spec, Support.CODES, Support.BITS)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        cost = math.fsum(math.log(size) for size in self.sizes.tolist())
        return torch.full((len(z),), -cost, device=z.device)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        draws = torch.rand(n, len(self.sizes), device=self.sizes.device)
        z = (draws * self.sizes).long().minimum(self.sizes - 1)
        return z if self.spec.support is Support.CODES else z.to(self.anchor.dtype)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Measure the held-out cost; there is nothing to fit."""
        return report(self, train, val, run, seconds=0.0)
