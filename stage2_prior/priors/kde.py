"""A normal around every training latent, q(z|x_i) = N(m_i, diag(s_i^2)), drawn together as they are widened:

    p(z) = 1/N sum_i N(z; m + a (m_i - m), diag(a^2 s_i^2 + h^2 u^2)),    a^2 = 1 - h^2

where m and u are means and standard deviations of q(z), or of its middle where a few latents make them. With h = 0 it
is the aggregate posterior of the training set, q(z) = 1/N sum_i q(z|x_i), to the last digit: what every prior is fitted
to. Held-out latents need more than that, for their images are none of these: h, in units of the pooled standard
deviation u of each dimension, is where held-out latents are likeliest. Kernels alone would widen the whole by 1 + h^2
(for point masses, s = 0, this is the estimate of Parzen, "On Estimation of a Probability Density Function and Mode",
1962); shrunk by a, the mean and the variances of q(z) stay (Jones, "On Correcting for Variance Inflation in Kernel
Density Estimation", 1991; West, "Approximating Posterior Distributions by Mixtures", 1993). At h = 1 all of them are
one Gaussian. Rules of thumb for h (Silverman, "Density Estimation for Statistics and Data Analysis", 1986, section 4.3)
minimise a squared error and not nats.

Nothing is learned but one number: what is sampled are training latents, blurred: to be compared with, not to be chosen.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec, Support, log_mean_normal
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import FitReport, FitRun, PriorError, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.moments import location_and_spread, moments
from stage2_prior.prior import Exactness, Prior, check_support
from stage2_prior.sampling import Sampling

MAX_NUMBERS = 2**25
"""Points times dimensions: 128 MiB of means, and as many of widths."""
NUMBERS_AT_ONCE = 2**22
"""Points times dimensions of which moved means and widths are there at once, 32 MiB each."""
NUMBERS_A_PASS = 20_000
"""Points times dimensions that a density looks at in the time of a pass of a network."""
HELD_OUT = 1000
"""Held-out latents that decide on the bandwidth, at most."""
LEAST, MOST = 1e-3, 1.0
"""Bandwidths that are tried, in pooled standard deviations."""
COARSE, FINE = 9, 10
"""Bandwidths on a grid between them, and of a golden section about the best of the grid, which leaves 2 % of it."""
GOLDEN = (math.sqrt(5) - 1) / 2


class Kernels(Prior):
    """Normals around training latents of real numbers of any shape; densities are computed in float64.

    Samples follow `temperature`: it scales all widths, and at 0 they are training latents, drawn together by a.

    Args:
        num_points: training latents that it has room for.
        bandwidth: in pooled standard deviations of each dimension; held_out: where held-out latents are likeliest.
        max_points: of more training latents, or of more than `MAX_NUMBERS` numbers, a random subset.

    Raises:
        PriorError: for a number out of range.
    """

    version: ClassVar[int] = 2
    log_prob_is = Exactness.EXACT
    memorises = True
    knobs = frozenset({"temperature"})
    loc: Tensor
    log_std: Tensor
    centre: Tensor
    unit: Tensor
    bandwidth: Tensor
    num_stored: Tensor
    num_given: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        num_points: int,
        bandwidth: float | Literal["held_out"] = "held_out",
        max_points: int = 100_000,
    ) -> None:
        super().__init__(spec)
        for name, count in {"num_points": num_points, "max_points": max_points}.items():
            if count < 1:
                raise PriorError(f"prior.{name}={count}: give at least 1")
        if bandwidth != "held_out" and not (isinstance(bandwidth, int | float) and 0 <= bandwidth <= MOST):
            raise PriorError(f"prior.bandwidth={bandwidth}: give held_out, or a number from 0 to 1")
        self.asked = bandwidth
        self.needs_widths = bandwidth == 0
        room = min(num_points, max_points, max(1, MAX_NUMBERS // spec.num_dims))
        self.passes = max(1, round(room * spec.num_dims / NUMBERS_A_PASS))
        self.register_buffer("loc", torch.zeros(room, spec.num_dims))  # [N, D]
        self.register_buffer("log_std", torch.zeros(room, spec.num_dims))  # [N, D], of posteriors; of points -inf
        self.register_buffer("centre", torch.zeros(spec.num_dims, dtype=torch.float64))  # [D] of q(z)
        self.register_buffer("unit", torch.ones(spec.num_dims, dtype=torch.float64))  # [D] deviations
        self.register_buffer("bandwidth", torch.zeros((), dtype=torch.float64))
        self.register_buffer("num_stored", torch.tensor(room))  # of the room; the rest is of no latent
        self.register_buffer("num_given", torch.tensor(room))  # training latents

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        return 2

    @property
    def num_parameters(self) -> int:
        return 2 * int(self.num_stored) * self.spec.num_dims + (self.asked == "held_out")

    @property
    def caveats(self) -> list[str]:
        stored, given = int(self.num_stored), int(self.num_given)
        return [f"it stands on {stored:,} of {given:,} training latents, drawn at random."] if stored < given else []

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("kernels stand around real numbers", spec, Support.REAL)

    def _normals(self, rows: slice | Tensor, bandwidth: Tensor | float) -> tuple[Tensor, Tensor]:
        """Means and variances [n, D] float64 of the normals of `rows`."""
        shrinkage = math.sqrt(1 - bandwidth**2)
        mean = self.centre.lerp(self.loc[rows].double(), shrinkage)  # lerp: at 1 it is the latent, to the last digit
        variance = torch.exp(2 * self.log_std[rows].double()) * (1 - bandwidth**2) + (bandwidth * self.unit).square()
        return mean, variance

    def _log_mean(self, z: Tensor, bandwidth: Tensor | float) -> Tensor:
        """log p(z) [B] float64 of latents z [B, D] at a bandwidth."""
        num, at_once = int(self.num_stored), max(1, NUMBERS_AT_ONCE // self.spec.num_dims)
        means, log_shares = [], []
        for start in range(0, num, at_once):
            mean, variance = self._normals(slice(start, min(start + at_once, num)), bandwidth)
            means.append(log_mean_normal(z, mean, 0.5 * variance.log()))
            log_shares.append(math.log(len(mean) / num))
        if len(means) == 1:
            return means[0]
        weights = torch.tensor(log_shares, dtype=torch.float64, device=z.device)
        return (torch.stack(means) + weights[:, None]).logsumexp(0)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._log_mean(z.flatten(1), self.bandwidth).to(z.dtype)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        which = torch.randint(int(self.num_stored), (n,), device=self.loc.device)
        mean, variance = self._normals(which, self.bandwidth)
        noise = torch.randn(n, self.spec.num_dims, device=self.loc.device)
        z = mean.float() + how.temperature * variance.sqrt().float() * noise
        return z.view(n, *self.spec.shape).to(self.anchor.dtype)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Take the posteriors of `train`, and the bandwidth at which draws of `val` are likeliest.

        Raises:
            PriorError: for latents that are not finite, or point masses without a bandwidth.
        """
        watch = Stopwatch()
        self.check_family(train.family)
        for split, latents in (("training", train), ("validation", val)):
            check_finite(latents, split)
        self._store(train, run)
        curve, notes = [], []
        if self.asked == "held_out":
            curve = self._choose_bandwidth(val, run)
            if self.bandwidth < 2 * LEAST:
                notes.append("held-out latents ask for no bandwidth: they are among the training latents")
        else:
            self.bandwidth.fill_(self.asked)
        return report(self, train, val, run, watch.seconds, curve, notes)

    def _store(self, train: LatentDataset, run: FitRun) -> None:
        """Take the posteriors, or a random subset of as many as there is room for."""
        stored = min(train.num_images, len(self.loc))
        rows = (
            torch.randperm(train.num_images, generator=torch.Generator().manual_seed(run.seed))[:stored].sort().values
        )
        at = 0
        for block in rows.split(max(1, MAX_NUMBERS // 8 // self.spec.num_dims)):
            posterior = train.posterior(block)
            is_normal = isinstance(posterior, DiagonalNormal)
            self.loc[at : at + len(block)] = (posterior.mean if is_normal else posterior.sample()).flatten(1)
            log_std = posterior.log_std.flatten(1) if isinstance(posterior, DiagonalNormal) else -math.inf
            self.log_std[at : at + len(block)] = log_std
            at += len(block)
        pooled = moments(train, run.device)
        centre, unit, _ = location_and_spread(train, pooled.mean, pooled.total)
        self.centre.copy_(centre)
        self.unit.copy_(unit)
        self.num_stored.fill_(stored)
        self.num_given.fill_(train.num_images)

    @torch.no_grad()
    def _choose_bandwidth(self, val: LatentDataset, run: FitRun) -> list[dict[str, float]]:
        """Set it to the best of a grid, refined by golden section; what was tried, as a curve."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            z = val.draw(spread_rows(len(val), HELD_OUT)).flatten(1).to(run.device)
        curve: list[dict[str, float]] = []

        def cost(log_bandwidth: float) -> float:
            bandwidth = math.exp(log_bandwidth)
            nats = -self._log_mean(z, bandwidth).mean().item()
            run.log({"bandwidth": bandwidth, "val_nll_nats": nats}, len(curve))
            curve.append({"iteration": len(curve), "bandwidth": bandwidth, "val_nll_nats": nats})
            return nats

        grid = torch.linspace(math.log(LEAST), math.log(MOST), COARSE).tolist()
        costs = [cost(x) for x in grid]
        best = min(range(COARSE), key=costs.__getitem__)
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, COARSE - 1)]
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        of_left, of_right = cost(left), cost(right)
        for _ in range(FINE - 2):
            if of_left < of_right:
                high, right, of_right = right, left, of_left
                of_left = cost(left := high - GOLDEN * (high - low))
            else:
                low, left, of_left = left, right, of_right
                of_right = cost(right := low + GOLDEN * (high - low))
        self.bandwidth.fill_(min(curve, key=lambda row: row["val_nll_nats"])["bandwidth"])
        return curve
