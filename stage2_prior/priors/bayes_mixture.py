"""A mixture of full Gaussians by variational Bayes: how many components do the latents want?

`num_components` is only the most that there may be: under a Dirichlet process each component has to be worth its keep,
and what no latent needs keeps no weight. The theory is in `stage2_prior.em.bayes`. What is kept of the variational
posterior is the mixture at its expected weights, means and precisions, an exact density that can be sampled; the
predictive density of all mixtures together (of Student's t, Bishop 2006, equation 10.81) is another one, from which it
differs where a component has hardly more points than dimensions.

Posteriors come in by their moments, as in `mixture`, and are widened by `min_std`. The guess of a covariance is that of
the whole, as much smaller as the parts of `num_components` equal ones would be. In the place of the lightest component,
which mostly holds no latent, the Gaussian of all of them may stand, as in `mixture`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.rows import spread_rows
from stage2_prior.em.bayes import FULL, BayesSettings, BayesState, Belief, Factors, variational_bayes
from stage2_prior.em.finite_mixture import FiniteMixture, check_numbers
from stage2_prior.em.points import covariance_of_most, in_memory, on_disk
from stage2_prior.em.restarts import Search
from stage2_prior.em.shrinkage import HELD_OUT, HeldOut, can_weigh, covariance_behind, put_behind
from stage2_prior.em.starts import start_statistics
from stage2_prior.fitting import FitReport, FitRun, PriorError, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.prior import check_real_vector

HOLDS_POINTS = 1.0
"""A component with fewer points, counted by responsibility, holds no weight but that of the prior."""


class BayesMixture(FiniteMixture):
    """Mixture of Gaussians with full covariances, fitted by variational Bayes.

    Args:
        num_components: at most; where all of them hold weight, more might.
        concentration: alpha of the Dirichlet process: the higher, the more components hold weight.
        mean_counts: points that the guess of a component's mean, that of the whole, is worth.
        pseudo_counts: points that the guess of a component's covariance is worth, beyond one a dimension.
        num_restarts: independent starts, of which the one with the highest bound on the evidence is kept.
        max_iter: iterations a restart, at most.
        tol: stop when an iteration gains less, in nats a point.
        min_std: smallest width of a posterior, in pooled standard deviations of each dimension.
        lloyd_iterations: of k-means, before the first.

    Raises:
        PriorError: for a number out of range.
    """

    num_held: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        num_components: int = 200,
        concentration: float = 1.0,
        mean_counts: float = 1.0,
        pseudo_counts: float = 0.0,
        num_restarts: int = 1,
        max_iter: int = 200,
        tol: float = 1e-3,
        min_std: float = 1e-3,
        lloyd_iterations: int = 5,
    ) -> None:
        super().__init__(spec, num_components, "full")
        check_numbers(
            {"num_restarts": num_restarts, "max_iter": max_iter},
            {"tol": tol, "pseudo_counts": pseudo_counts, "min_std": min_std},
        )
        for name, value in {"concentration": concentration, "mean_counts": mean_counts}.items():
            if value <= 0:
                raise PriorError(f"prior.{name}={value}: give a number above 0")
        self.concentration, self.mean_counts, self.pseudo_counts = concentration, mean_counts, pseudo_counts
        self.num_restarts, self.max_iter, self.tol = num_restarts, max_iter, tol
        self.min_std, self.lloyd_iterations = min_std, lloyd_iterations
        self.register_buffer("num_held", torch.tensor(num_components))  # components that hold weight

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        return 4

    @property
    def caveats(self) -> list[str]:
        num_held = int(self.num_held)
        if num_held < self.num_components:
            return [f"{num_held} of its {self.num_components} components hold weight."]
        return [f"all of its {num_held} components hold weight: the latents may want more (prior.num_components)."]

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("bayes_mixture", spec)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit by variational Bayes on `run.device`; `val` gives the Gaussian of all latents its weight.

        Raises:
            PriorError: for more components than images, or latents that are not finite.
        """
        watch = Stopwatch()
        self.check_number(train.num_images)
        check_finite(train, "training")
        prepare = in_memory if train.fits_memory(run.sizes.in_memory_bytes) else on_disk
        points, scaling, total = prepare(train, run.device, False, self.min_std)
        guess = FULL.guess(covariance_of_most(points, total, scaling), self.num_components)
        belief = Belief(self.concentration, self.mean_counts, self.spec.num_dims + self.pseudo_counts, guess)
        settings = BayesSettings(belief, self.max_iter, self.tol, run.ranks, run.sizes.cache_bytes)
        log_unit = scaling.unit.log().sum().item()
        generator = torch.Generator().manual_seed(run.seed)

        def start() -> BayesState:
            stats, num = start_statistics(points, FULL, self.num_components, self.lloyd_iterations, run, generator)
            return BayesState(stats * (len(points) / num))

        best = Search(
            kind=BayesState,
            num=self.num_restarts,
            iterations=self.max_iter,
            start=start,
            climb=lambda state, on_step: variational_bayes(points, state, settings, on_step),
            score=lambda state: state.curve[-1],
            done=lambda state: len(state.curve),
            figures=lambda state: [({"train_bound_nats": log_unit - y}, i) for i, y in enumerate(state.curve)],
            run=run,
            generator=generator,
            watch=watch,
        ).find_best()
        notes = list[str]()
        found = Factors.of(best.stats, belief).mixture()
        if val is not train and can_weigh(len(val), train.family == "delta"):
            points_held_out = scaling.points(val.posterior(spread_rows(len(val), HELD_OUT)))
            held_out = HeldOut(points_held_out, FULL, self.num_components, run.ranks)
            whole = covariance_behind(total, train, run.device)
            found, behind = put_behind(found, whole, held_out, FULL, scaling.has_tails, train.family == "delta")
            notes.extend(behind)
        self.set_components(found, scaling)
        self.num_held.fill_(int((best.stats[:, 0] >= HOLDS_POINTS).sum()))
        notes[:0] = self.caveats
        if not best.converged:
            notes.append(f"it stopped at prior.max_iter={self.max_iter} iterations before it converged")
        curve = [{"iteration": i, "train_bound_nats": log_unit - bound} for i, bound in enumerate(best.curve)]
        return report(self, train, val, run, watch.seconds, curve, notes)
