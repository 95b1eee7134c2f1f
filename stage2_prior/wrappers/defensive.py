"""The Gaussian of all points behind a prior of points, by wrapping:

    p(z) = w_0 p_0(z) + w_1 N(z; m, S) + sum_j w_j N(z; m, f_j diag(S))

Points end somewhere, and beyond it kernels and networks say what no data have told them: one latent in a hundred that
lies a thousand deviations out costs a kernel estimate 13,000 nats a latent, where one Gaussian of all of them would
have lost 50. A mixture with a little of a density that is never far from the data loses no more than the logarithm of
that little, wherever a latent lies; of proposals for importance sampling it is known as a defensive one (Hesterberg,
"Weighted Average Importance Sampling and Defensive Mixture Distributions", 1995).

m and S are the moments of the points. Weights are where held-out points are likeliest, of which a part of a point is
given to the Gaussian beforehand; wider ones are there for tails, where held-out points ask for them. It is for vectors
that are points: what has a width is nowhere far from what its own encoder makes. A prior of classes stays what it is,
since a Gaussian of all of them would be drawn as every one.
"""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import FitReport, FitRun, Stopwatch
from stage2_prior.held_out import TRAIN_ROWS, affordable
from stage2_prior.moments import ROUNDING, moments
from stage2_prior.prior import Exactness, Prior, Wrapper, check_real_vector
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.sampling import Sampling

MOST_DIMS = 512
"""Beyond it the covariance costs more than it is worth."""
FACTORS = (16.0, 256.0)
"""Variances of wider Gaussians, in those of the points; they have no correlations, which are those of a few far out."""
UNSEEN = 0.5
"""Training points that the Gaussian is worth beforehand (the prior of Jeffreys)."""
LEAST_POINTS = 0.5
"""Held-out points that a wider one has to explain."""
HELD_OUT, ROWS_AT_ONCE = 2000, 500
"""Held-out points that weights are fitted to, at most."""
FIRST_WEIGHT, STEPS = 0.01, 500
"""Of each Gaussian at the start of EM, where it stays if nothing tells it from the prior; and steps."""
LEAST_NATS = 0.01
"""What held-out points have to gain to be told."""


class Defensive(Wrapper):
    """`prior` of points with the Gaussian of all of them behind it; see the module.

    Before the fit, and where it does not apply, it is `prior` itself. Samples follow the knobs of that; of them the
    temperature holds for the Gaussian too.
    """

    of_points: ClassVar[bool] = True
    log_weights: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.prior, self.gaussian = prior, Gaussian(prior.spec)
        self.num_clusters = 0  # those of the prior are not all of it
        alone = torch.full((2 + len(FACTORS),), -math.inf, dtype=torch.float64)
        alone[0] = 0.0
        self.register_buffer("log_weights", alone)  # [2 + FACTORS] of the prior, the Gaussian, the wider ones

    @property
    def inner(self) -> Prior:
        return self.prior

    @property
    def is_alone(self) -> bool:
        """Whether it is the prior itself."""
        return self.log_weights.is_meta or not bool(self.log_weights[1:].isfinite().any())

    @property
    def share_behind(self) -> float:
        """Weight of all that stands behind the prior."""
        return 0.0 if self.is_alone else min(1.0, float(self.log_weights[1:].exp().sum()))

    @property
    def num_parameters(self) -> int:
        if self.is_alone:
            return self.prior.num_parameters
        return self.prior.num_parameters + self.gaussian.num_parameters + int(self.log_weights[1:].isfinite().sum())

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        few = None if spec.num_dims <= MOST_DIMS else f"defensive has a covariance of at most {MOST_DIMS} dimensions"
        return check_real_vector("defensive", spec) or few

    @property
    def deviations(self) -> Tensor:
        """Of each dimension of the points, [D] float64."""
        return self.gaussian.scale.square().sum(1).sqrt()

    def _log_probs(self, z: Tensor) -> Tensor:
        """Of each Gaussian: [B, D] -> [B, 1 + FACTORS] float64."""
        deviations, factors = self.deviations, self.log_weights.new_tensor(FACTORS)
        distance = ((z.double() - self.gaussian.mean) / deviations).square().sum(1)
        volume = deviations.log().sum() + 0.5 * z.shape[1] * (2 * math.pi * factors).log()
        return torch.cat([self.gaussian.log_prob(z).double()[:, None], -0.5 * distance[:, None] / factors - volume], 1)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        own = self.prior.log_prob(z, context)
        if self.is_alone:
            return own
        both = torch.cat([as_nats(own)[:, None], self._log_probs(z)], 1)
        return (both + self.log_weights).logsumexp(1).to(own.dtype)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.prior.loss(z, context) if self.is_alone else -self._log_prob(z, context)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        z = self.prior.sample(n, context, how)
        if self.is_alone or n == 0:
            return z
        chosen = torch.multinomial(self.log_weights.exp(), n, replacement=True)
        behind = (chosen == 1).nonzero().squeeze(1)
        z[behind] = self.gaussian.sample(len(behind), how=Sampling(temperature=how.temperature))
        for place, factor in enumerate(FACTORS, 2):
            rows = (chosen == place).nonzero().squeeze(1)
            widths = how.temperature * math.sqrt(factor) * self.deviations
            z[rows] = (self.gaussian.mean + widths * torch.randn_like(z[rows], dtype=widths.dtype)).to(z.dtype)
        return z

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the prior, and then what stands behind it.

        Raises:
            PriorError: whatever the prior raises.
        """
        self.log_weights.copy_(torch.full_like(self.log_weights, -math.inf))
        self.log_weights[0] = 0.0
        stays_alone = train.family != "delta" or self.num_classes > 0 or self.log_prob_is is Exactness.NONE
        if stays_alone or not self._match(train, val, run):
            return self.prior.fit(train, val, run)
        alone = self.prior.fit(train, val, replace(run, measures=False))
        watch = Stopwatch()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            most = run.settings.get("max_tokens")
            of_train, of_val = self._parts_of(train, TRAIN_ROWS, most), self._parts_of(val, len(val), most)
            words = self._weigh(of_val[spread_rows(len(of_val), HELD_OUT)], len(train), run)
            costs = [-(nats + self.log_weights).logsumexp(1).mean().item() for nats in (of_train, of_val)]
        own = replace(alone, seconds=alone.seconds + watch.seconds, notes=[*alone.notes, words])
        return replace(own, train_nll_nats=costs[0], val_nll_nats=costs[1]) if run.measures else own

    def _match(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> bool:
        """Whether the Gaussian has the moments of `train`; it has not where a dimension does not move. Where a few far
        out leave their covariance no rank, it has no correlations."""
        pooled = moments(train, run.device)
        variance = pooled.total
        if not (variance > (ROUNDING * pooled.mean).square()).all():
            return False
        matched = self.gaussian.fit(train, val, replace(run, measures=False))
        if any("singular" in note for note in matched.notes):
            self.gaussian.scale.copy_(torch.diag(variance.sqrt()))
        return True

    def _parts_of(self, latents: LatentDataset, most: int, max_tokens: int | None) -> Tensor:
        """Log-densities of latents under the prior and all that stands behind it, float64 [n, 2 + FACTORS]; `most`:
        how many, at most, and of `max_tokens` numbers."""
        num = affordable(min(most, len(latents)), self.prior, max_tokens)
        blocks = []
        for index in spread_rows(len(latents), num).split(ROWS_AT_ONCE):
            z = latents.draw(index).to(self.anchor.device)
            blocks.append(torch.cat([as_nats(self.prior.log_prob(z))[:, None], self._log_probs(z)], 1))
        return torch.cat(blocks)

    def _weigh(self, nats: Tensor, num: int, run: FitRun) -> str:
        """Set the weights by `nats` of held-out points, those of the first rank; what they are, in words. `num`: points
        of training."""
        weights = run.ranks.broadcast(fit_weights_behind(nats, num))
        self.log_weights.copy_(weights.log())
        wider = ", and wider ones," * bool(weights[2:].any())
        percent = 100 * self.share_behind
        weight = f"{percent:.{3 if percent > 99 else 2}g} % of the weight"  # no 1e+02
        said = f"the Gaussian of all latents{wider} stands behind it, with {weight}"
        gained = (nats + self.log_weights).logsumexp(1) - nats[:, 0]
        has_one = gained.isfinite()
        if num_none := int((~has_one).sum()):
            said += f"; alone it gives {num_none:,} of {len(nats):,} held-out latents no probability"
        gained = gained[has_one]
        if len(gained) > 1 and (amount := gained.mean().item()) >= LEAST_NATS:
            error = gained.std().item() / math.sqrt(len(gained))
            said += f"; {len(gained):,} held-out latents gain {amount:,.2f} ± {error:,.2f} nats"
        return f"{said}; leave defensive out of prior.wrap to do without"


def as_nats(log_prob: Tensor) -> Tensor:
    """Nats [B] in float64; what is no number is no probability."""
    return log_prob.double().nan_to_num(nan=-math.inf, neginf=-math.inf)


def fit_weights_behind(nats: Tensor, num: int) -> Tensor:
    """Weights [2 + FACTORS] of a prior and of what stands behind it, by EM.

    Args:
        nats: log-densities of held-out points under each, [N, 2 + FACTORS] float64.
        num: points that were trained on.
    """
    floor = torch.zeros_like(nats[0])
    floor[:2] = UNSEEN * len(nats) / num
    weights = torch.full_like(floor, FIRST_WEIGHT)
    weights[0] = 1 - FIRST_WEIGHT * (len(floor) - 1)
    for _ in range(STEPS):
        shares = torch.softmax(nats + weights.log(), dim=1).sum(0) + floor
        weights = shares / shares.sum()
    weights[2:][weights[2:] * len(nats) < LEAST_POINTS] = 0.0
    return weights / weights.sum()
