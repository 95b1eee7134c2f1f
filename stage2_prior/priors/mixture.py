"""A mixture of Gaussians, p(z) = sum_k pi_k N(z; m_k, S_k), fitted to the aggregate posterior by EM.

The fit ascends an exact lower bound of E_q(z)[log p(z)] that knows each q(z|x_i) by its mean and variances, not by a
draw; the theory, and what it buys, is in `stage2_prior.gaussian_em`. Starts come from k-means++ and a few Lloyd
iterations; of several restarts the best is kept. Latents are standardised per dimension inside the fit, so thresholds
are relative, and the answer is given back in their own units.

`min_std` widens every q(z|x_i) by that part of the pooled standard deviation of each dimension: point masses (a plain
autoencoder) so have a floor under every variance, and the likelihood cannot diverge. Beside posteriors of a VAE it is
invisible. `pseudo_counts` shrinks covariances towards a common guess as that many more points a component would; it
costs a VAE of 55,000 images 0.003 nats, and saves the fit where a component has fewer points than a covariance needs
(point masses of 1,250 digits in 16 dimensions, 50 components: held-out 26 nats without, 10.3 with 4). Where components
are much narrower than the whole and nothing widens them, it is a bias (0.03 nats in the test of recovery): set it to 0.
"""

import math
import time
from typing import ClassVar

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.covariances import COVARIANCES
from stage2_prior.gaussian_em import Components, EMResult, Points, Statistics, expectation_maximisation, m_step
from stage2_prior.kmeans import kmeans
from stage2_prior.prior import (
    Exactness,
    FitReport,
    FitRun,
    Prior,
    PriorError,
    check_finite,
    check_real_vector,
    mean_nll_nats,
)

START_POINTS = 20_000
"""k-means sees this many points at most: it only starts the fit."""

BLOCK_ELEMENTS = 2**23
"""Log-densities are computed in blocks of rows whose [rows, K, D] stays below this."""


class Mixture(Prior):
    """Mixture of Gaussians over vectors of real numbers; densities are computed in float64.

    Args:
        spec: what one latent is.
        num_components: K.
        covariance: full, diagonal, spherical (one variance a component) or tied (one full covariance for all).
        num_restarts: independent starts, of which the best is kept.
        max_iter: EM iterations a restart, at most.
        tol: stop when an iteration gains less, in nats a point.
        pseudo_counts: points that the common guess of the covariances is worth, a component; 0: maximum likelihood.
        min_std: smallest width of a posterior, in pooled standard deviations of each dimension.
        lloyd_iterations: of k-means, before EM.

    Raises:
        PriorError: for a number out of range or an unknown covariance.
    """

    version: ClassVar[int] = 1
    log_prob_is = Exactness.EXACT
    fits_in_ranks = True
    log_weights: Tensor
    means: Tensor
    scale: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        num_components: int = 50,
        covariance: str = "full",
        num_restarts: int = 1,
        max_iter: int = 200,
        tol: float = 1e-3,
        pseudo_counts: float = 4.0,
        min_std: float = 1e-3,
        lloyd_iterations: int = 5,
    ) -> None:
        super().__init__(spec)
        counts = {"num_components": num_components, "num_restarts": num_restarts, "max_iter": max_iter}
        for name, count in counts.items():
            if count < 1:
                raise PriorError(f"prior.{name}={count}: give at least 1")
        for name, value in {"tol": tol, "pseudo_counts": pseudo_counts, "min_std": min_std}.items():
            if value < 0:
                raise PriorError(f"prior.{name}={value}: give a number that is not negative")
        if covariance not in COVARIANCES:
            raise PriorError(f"prior.covariance={covariance} is unknown; choose one of {', '.join(COVARIANCES)}")
        self.num_components, self.num_restarts, self.max_iter = num_components, num_restarts, max_iter
        self.min_images = num_components
        self.covariance, self.tol = COVARIANCES[covariance], tol
        self.pseudo_counts, self.min_std, self.lloyd_iterations = pseudo_counts, min_std, lloyd_iterations
        shape = self.covariance.scale_shape(num_components, spec.num_dims)
        unit = torch.ones(shape) if len(shape) == 2 else torch.eye(spec.num_dims).expand(shape)
        uniform = torch.full((num_components,), -math.log(num_components))
        self.register_buffer("log_weights", uniform.double())  # [K]
        self.register_buffer("means", torch.zeros(num_components, spec.num_dims).double())  # [K, D]
        self.register_buffer("scale", unit.double().clone())  # Cholesky factors, shaped as the covariance has them

    @property
    def num_parameters(self) -> int:
        dims = self.spec.num_dims
        a_scale = dims * (dims + 1) // 2 if self.scale.ndim == 3 else self.scale.shape[1]  # a triangle, or a diagonal
        return self.num_components - 1 + self.means.numel() + len(self.scale) * a_scale

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("mixture", spec)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        rows = max(1, BLOCK_ELEMENTS // self.means.numel())
        blocks = [
            torch.logsumexp(self.log_weights + self.covariance.log_density(block, self.means, self.scale), dim=1)
            for block in z.double().split(rows)
        ]
        return torch.cat(blocks).to(z.dtype)

    def _sample(self, n: int, context: Tensor | None) -> Tensor:
        component = (
            torch.multinomial(self.log_weights.exp(), n, replacement=True) if n else self.means.new_zeros(0).long()
        )
        noise = torch.randn(n, self.spec.num_dims, dtype=self.means.dtype, device=self.means.device)
        z = self.means[component] + self.covariance.colour(noise, self.scale, component)  # [n, D]
        return z.to(self.anchor.dtype)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit by EM on `run.device`; `val` is only measured.

        Raises:
            PriorError: for more components than images, or latents that are not finite.
        """
        started = time.perf_counter()
        self._check_fit(train)
        points, shift, unit = self._standardised(train, run.device)
        generator = torch.Generator().manual_seed(run.seed)
        covariance_of_all = total_covariance(points)
        guess = self.covariance.guess(covariance_of_all, self.num_components)
        log_unit = unit.log().sum().item()
        best: EMResult | None = None
        for _ in range(self.num_restarts):
            result = expectation_maximisation(
                points,
                self._start(points, guess, generator),
                self.covariance,
                guess,
                self.pseudo_counts,
                self.max_iter,
                self.tol,
                on_iteration=lambda i, bound: run.log({"train_bound_nats": log_unit - bound}, i),
            )
            best = result if best is None or result.objective[-1] > best.objective[-1] else best
        assert best is not None
        self._adopt(best.components, shift, unit)
        seconds = time.perf_counter() - started
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            train_nll, val_nll = mean_nll_nats(self, train, max_rows=10_000), mean_nll_nats(self, val)
        curve = [
            {"iteration": i, "train_bound_nats": log_unit - bound, "objective_nats": log_unit - objective}
            for i, (bound, objective) in enumerate(zip(best.curve, best.objective, strict=True))
        ]
        return FitReport(seconds, train_nll, val_nll, curve, notes(best, self.max_iter))

    def _check_fit(self, train: LatentDataset) -> None:
        if self.num_components > len(train):
            raise PriorError(
                f"{self.num_components} components for {len(train)} training images: "
                f"set prior.num_components to {len(train)} or less"
            )
        check_finite(train, "training")

    def _standardised(self, train: LatentDataset, device: torch.device) -> tuple[Points, Tensor, Tensor]:
        """The posteriors in units of the pooled standard deviation, and the shift and unit [D] that undo it."""
        loc = train.means().to(device)
        log_std = train.log_stds()
        variance = torch.zeros_like(loc) if log_std is None else torch.exp(2 * log_std.to(device))
        shift = loc.mean(0, dtype=torch.float64)
        pooled = (loc.double() - shift).square().mean(0) + variance.mean(0, dtype=torch.float64)  # [D]
        pooled = torch.where(pooled > 0, pooled, 1.0)
        unit = (pooled.mean().expand_as(pooled) if self.covariance.isotropic else pooled).sqrt()
        scaled = (loc - shift.to(loc)) / unit.to(loc)
        return Points(scaled, variance / unit.square().to(loc) + self.min_std**2), shift, unit

    def _start(self, points: Points, guess: Tensor, generator: torch.Generator) -> Components:
        chosen = torch.randperm(len(points), generator=generator)[: max(START_POINTS, self.num_components)]
        some = points.rows(chosen.to(points.loc.device))
        noise = torch.randn(some.loc.shape, generator=generator).to(some.loc.device)
        cluster = kmeans(some.loc + some.variance.sqrt() * noise, self.num_components, self.lloyd_iterations, generator)
        stats = cluster_statistics(some, cluster, self)
        return m_step(stats, self.covariance, guess, max(self.pseudo_counts, 1.0), len(some))

    def _adopt(self, components: Components, shift: Tensor, unit: Tensor) -> None:
        self.log_weights.copy_(components.log_weights)
        self.means.copy_(shift + unit * components.means)
        self.scale.copy_(self.covariance.rescale(components.scale, unit))


def cluster_statistics(points: Points, cluster: Tensor, mixture: Mixture) -> Tensor:
    """Summed statistics of the points of each cluster, [K, F] float64."""
    statistics = Statistics(points, mixture.covariance, mixture.num_components)
    stats = torch.zeros(mixture.num_components, statistics.num_features, dtype=torch.float64, device=points.loc.device)
    for features, rows in zip(statistics, cluster.split(statistics.block), strict=True):
        stats.index_add_(0, rows, features.double())
    return stats


def total_covariance(points: Points) -> Tensor:
    """Covariance of the aggregate, [D, D] float64, of points whose mean is zero."""
    loc = points.loc.double()
    return loc.T @ loc / len(points) + torch.diag(points.variance.double().mean(0))


def notes(result: EMResult, max_iter: int) -> list[str]:
    """What the user should know of a fit."""
    said = []
    if not result.converged:
        said.append(f"EM stopped at prior.max_iter={max_iter} iterations before it converged")
    if result.reseeded:
        said.append(f"{result.reseeded} empty components were placed anew on the images explained worst")
    return said
