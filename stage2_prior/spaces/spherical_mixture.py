"""A mixture of power spherical distributions, fitted to the aggregate posterior on a sphere by EM.

Its densities are by the surface of the sphere, as those of the posteriors and of the uniform base prior. EM
(`stage2_prior.spaces.spherical_em`) sees draws of the posteriors: the expected log-density of a power spherical under
another one has no closed form. Several draws of each posterior leave little of their noise to be over-fitted.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, PowerSpherical, Support
from stage1_vae.rows import spread_rows
from stage2_prior.em.starts import kmeans
from stage2_prior.fitting import FitReport, FitRun, PriorError, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.prior import Exactness, Prior, check_support
from stage2_prior.sampling import Sampling
from stage2_prior.spaces.spherical_em import LEAST_LOG, Caps, EMSettings, EMState, ascend, log_half, solve_concentration

MOST_DRAWS = 64
"""Of one posterior."""


class SphericalMixture(Prior):
    """p(z) = sum_k w_k PowerSpherical(z; m_k, c_k) on the unit sphere; densities are computed in float64.

    Samples follow `temperature`: concentrations are divided by its square, and at 0 they are mean directions.

    Args:
        num_components: K.
        max_iter: passes over the draws, at most.
        tol: stop when one gains less, in nats a latent.
        pseudo_counts: latents that the common guess of the concentrations is worth, a component; 0: maximum likelihood.
        num_draws: of all posteriors together, as many of each; at least one of each, or of a subset of so many.
        lloyd_iterations: of k-means, before EM.

    Raises:
        PriorError: for a number out of range.
    """

    log_prob_is = Exactness.EXACT
    knobs = frozenset({"temperature"})
    log_weights: Tensor
    means: Tensor
    log_concentrations: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        num_components: int = 50,
        max_iter: int = 200,
        tol: float = 1e-3,
        pseudo_counts: float = 4.0,
        num_draws: int = 200_000,
        lloyd_iterations: int = 5,
    ) -> None:
        super().__init__(spec)
        for name, count in {"num_components": num_components, "max_iter": max_iter, "num_draws": num_draws}.items():
            if count < 1:
                raise PriorError(f"prior.{name}={count}: give at least 1")
        for name, amount in {"tol": tol, "pseudo_counts": pseudo_counts, "lloyd_iterations": lloyd_iterations}.items():
            if amount < 0:
                raise PriorError(f"prior.{name}={amount}: give 0 or more")
        self.num_components, self.max_iter, self.tol = num_components, max_iter, tol
        self.pseudo_counts, self.num_draws, self.lloyd_iterations = pseudo_counts, num_draws, lloyd_iterations
        self.min_images = num_components
        uniform = torch.full((num_components,), -math.log(num_components))
        pole = torch.eye(spec.num_dims)[:1].expand(num_components, -1)
        self.register_buffer("log_weights", uniform.double())  # [K]
        self.register_buffer("means", pole.double().clone())  # [K, D] unit vectors
        self.register_buffer("log_concentrations", torch.zeros(num_components).double())  # [K]

    @property
    def num_parameters(self) -> int:
        return self.num_components * (self.spec.num_dims + 1) - 1  # D - 1 numbers of a direction, c, and the weights

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("spherical_mixture models directions", spec, Support.SPHERE)

    @property
    def caps(self) -> Caps:
        return Caps(self.log_weights, self.means, self.log_concentrations)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        directions = F.normalize(z.double(), dim=1)
        return self.caps.log_joint(directions).logsumexp(1).to(z.dtype)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        component = (
            torch.multinomial(self.log_weights.exp(), n, replacement=True) if n else self.means.new_zeros(0).long()
        )
        means, log_concentrations = self.means[component], self.log_concentrations[component]
        if how.temperature > 0:
            means = PowerSpherical(means, log_concentrations - 2 * math.log(how.temperature)).sample()
        return means.to(self.anchor.dtype)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit by EM on `run.device`; `val` is only measured.

        Raises:
            PriorError: for more components than images, or latents that are not finite.
        """
        watch = Stopwatch()
        if len(train) < self.num_components:
            raise PriorError(
                f"prior.num_components={self.num_components} is more than the {len(train)} training images; lower it"
            )
        check_finite(train, "training")
        z, repeats = self._draws(train, run)
        generator = torch.Generator().manual_seed(run.seed)
        cluster = kmeans(z.float(), self.num_components, self.lloyd_iterations, generator)
        start, guess = self._start(z, cluster)
        settings = EMSettings(guess, self.pseudo_counts, 1 / repeats, self.max_iter, self.tol)

        def log(state: EMState) -> None:
            if state.halvings == 0:
                run.log({"train_nll_nats": -state.curve[-1]}, len(state.curve) - 1)

        best = ascend(z, EMState(start), settings, log)
        found = best.kept or start
        self.log_weights.copy_(found.log_weights)
        self.means.copy_(found.means)
        self.log_concentrations.copy_(found.log_concentrations)
        notes = []
        if not best.converged:
            notes.append(f"EM stopped at prior.max_iter={self.max_iter} iterations before it converged")
        curve = [{"iteration": i, "train_nll_nats": -nats} for i, nats in enumerate(best.curve)]
        return report(self.to(run.device), train, val, run, watch.seconds, curve, notes)

    def _draws(self, train: LatentDataset, run: FitRun) -> tuple[Tensor, int]:
        """Unit vectors [N repeats, D] float64 on the device, and how many of each posterior."""
        rows = spread_rows(len(train), self.num_draws)
        repeats = max(1, min(MOST_DRAWS, self.num_draws // len(rows)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            drawn = torch.cat([train.draw(rows) for _ in range(repeats)])
        return F.normalize(drawn.to(run.device).double(), dim=1), repeats

    def _start(self, z: Tensor, cluster: Tensor) -> tuple[Caps, float]:
        """The components of clusters [N], all as concentrated as these are on the whole, and that common cost."""
        counts = torch.bincount(cluster, minlength=self.num_components)
        sums = z.new_zeros(self.num_components, z.shape[1]).index_add_(0, cluster, z)
        means = F.normalize(sums, dim=1)
        means = torch.where(sums.norm(dim=1, keepdim=True) > 1e-9, means, z[: self.num_components])
        blocks = zip(z.split(2**14), cluster.split(2**14), strict=True)
        own = torch.cat([log_half(block, means).gather(1, which[:, None]) for block, which in blocks])
        guess = -own.mean()
        concentration = solve_concentration(guess[None], z.shape[1]).clamp_min(LEAST_LOG)
        weights = counts.clamp_min(1).double() / counts.clamp_min(1).sum()
        return Caps(weights.log(), means, concentration.expand(self.num_components).clone()), guess.item()
