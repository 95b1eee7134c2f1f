"""What VAEs of codes, bits and bounded spaces are trained against: every code, bit, direction or place alike.

Nothing is fitted.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support, log_area
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.held_out import report
from stage2_prior.prior import Exactness, Prior, check_support
from stage2_prior.sampling import Sampling


class Uniform(Prior):
    """Every code equally likely at every place; every bit fair; every direction, or place of [-1, 1]^D, alike."""

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
        models = "uniform models codes, bits, and latents on a sphere or in a box"
        return check_support(models, spec, Support.CODES, Support.BITS, Support.SPHERE, Support.BOX)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        if self.spec.support is Support.SPHERE:
            cost = log_area(self.spec.num_dims)
        else:  # a box is two wide, as bits are two
            cost = math.fsum(math.log(size) for size in self.sizes.tolist())
        log_prob = torch.full((len(z),), -cost, device=z.device)
        return (
            torch.where((z.abs() <= 1).all(1), log_prob, -torch.inf) if self.spec.support is Support.BOX else log_prob
        )

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        if self.spec.support is Support.SPHERE:
            return F.normalize(torch.randn(n, self.spec.num_dims, device=self.sizes.device), dim=1).to(
                self.anchor.dtype
            )
        draws = torch.rand(n, len(self.sizes), device=self.sizes.device)
        if self.spec.support is Support.BOX:
            return (2 * draws - 1).to(self.anchor.dtype)
        z = (draws * self.sizes).long().minimum(self.sizes - 1)
        return z if self.spec.support is Support.CODES else z.to(self.anchor.dtype)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Measure the held-out cost; there is nothing to fit."""
        return report(self, train, val, run, seconds=0.0)
