"""A mixture of Gaussians, p(z) = sum_k pi_k N(z; m_k, S_k), fitted to the aggregate posterior by EM.

The fit ascends an exact lower bound of E_q(z)[log p(z)] that knows each q(z|x_i) by its mean and variances, not by a
draw; the theory, and what it buys, is in `stage2_prior.em.gaussian`. Starts come from k-means++ and a few Lloyd
iterations; of several restarts the best is kept. Latents are standardised per dimension inside the fit, so thresholds
are relative, and the answer is given back in their own units.

A set whose parameters take more than 256 MiB is read block by block: by default through mini-batch EM (see
`stage2_prior.em.stepwise`). On 5 million x 64 latents and 20 components its first pass left a bound of 68.57 nats and
the second was the last; exact EM from the same start (`batch_size=all`) stood at 68.63 after its first.

`min_std` widens every q(z|x_i) by that part of the pooled standard deviation of each dimension: point masses (a plain
autoencoder) so have a floor under every variance, and the likelihood cannot diverge. Beside posteriors of a VAE it is
invisible. `pseudo_counts` shrinks covariances towards a common guess as that many more points a component would. Four
cost a VAE of 55,000 images 0.003 nats, and save the fit where a component has fewer points than a covariance needs
(point masses of 1,250 digits in 16 dimensions, 50 components: held-out 26 nats without, 10.3 with them); where
components are much narrower than the whole and nothing widens them, they are a bias. So the fit begins with four, and
held-out latents then choose the guess, what it is worth, whether another start ended better, and what stands behind all
components (`em/shrinkage.py`). A number is taken as it is, and nothing is changed after EM.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.rows import spread_rows
from stage2_prior.em.finite_mixture import FiniteMixture, check_numbers
from stage2_prior.em.gaussian import (
    Components,
    EMSettings,
    EMState,
    Statistics,
    e_step,
    expectation_maximisation,
    m_step,
)
from stage2_prior.em.number import NUMBERS, choose_number
from stage2_prior.em.points import Points, PointSet, Scaling, covariance_of_most, in_memory, on_disk
from stage2_prior.em.restarts import Search
from stage2_prior.em.shrinkage import (
    FEWEST,
    HELD_OUT,
    HeldOut,
    Shrunk,
    begin_elsewhere,
    can_weigh,
    covariance_behind,
    is_likelier,
    put_behind,
    shrink_by_held_out,
)
from stage2_prior.em.starts import random_statistics, start_statistics
from stage2_prior.em.stepwise import StepwiseSettings, StepwiseState, stepwise_em
from stage2_prior.fitting import FitReport, FitRun, Logged, PriorError, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.moments import are_few, moments, shrinkage_of_few
from stage2_prior.prior import check_real_vector

BATCH_SIZE = 2**14
"""Posteriors a batch of mini-batch EM: enough that an M-step costs little beside its E-step."""
FIRST_COUNTS = 4.0
"""Points that the guess is worth, a component, before held-out latents choose."""
FEW_A_COMPONENT, MOST_AGAIN = 500, 100_000
"""Points for a second start: beyond so many shrinkage hardly matters, or another EM would take its time."""


@dataclass(frozen=True)
class Fit:
    """How EM ended.

    Attributes:
        end: where.
        curve: on the way there.
        scaling: in which units.
        total: [D, D], covariance of all points.
        settings: under which.
        stats: components -> the expected statistics [K, F] of all points.
        ascend: EM from components under other settings, to its end; None: it would take too long.
        start: mean statistics [K, F] of another start; None: a second EM would take too long.
    """

    end: EMState | StepwiseState
    curve: list[dict[str, float]]
    scaling: Scaling
    total: Tensor
    settings: EMSettings
    stats: Callable[[Components], Tensor]
    ascend: Callable[[Components, EMSettings], EMState] | None = None
    start: Callable[[], Tensor] | None = None


class Mixture(FiniteMixture):
    """Mixture of Gaussians, fitted by EM.

    Samples follow `temperature`: it scales the widths of the components, whose weights stay; at 0 they are the means.

    Args:
        num_components: K; auto: as many as held-out latents gain by beyond noise, up to 200 (`em/number.py`).
        covariance: full, diagonal, spherical (one variance a component) or tied (one full covariance for all).
        num_restarts: independent starts, of which the best is kept.
        max_iter: EM iterations a restart, at most.
        tol: stop when an iteration gains less, in nats a point.
        pseudo_counts: points that the common guess of the covariances is worth, a component; 0: maximum likelihood;
            held_out: what held-out latents are likeliest by, which also decide on a second start and on the Gaussian
            of all latents as one of the components.
        min_std: smallest width of a posterior, in pooled standard deviations of each dimension.
        lloyd_iterations: of k-means, before EM.
        batch_size: posteriors an M-step. all: exact EM, which reads a set beyond 256 MiB from the disk each
            iteration; a number: mini-batch EM with so many; auto: all where the set takes up to 256 MiB, else 16,384.

    Raises:
        PriorError: for a number out of range or an unknown covariance.
    """

    def __init__(
        self,
        spec: LatentSpec,
        num_components: int | Literal["auto"] = 50,
        covariance: str = "full",
        num_restarts: int = 1,
        max_iter: int = 200,
        tol: float = 1e-3,
        pseudo_counts: float | Literal["held_out"] = "held_out",
        min_std: float = 1e-3,
        lloyd_iterations: int = 5,
        batch_size: int | Literal["auto", "all"] = "auto",
    ) -> None:
        if num_components != "auto" and not isinstance(num_components, int):
            raise PriorError(f"prior.num_components={num_components}: give auto, or a number of at least 1")
        self.chooses_number = num_components == "auto"
        super().__init__(spec, NUMBERS[-1] if num_components == "auto" else num_components, covariance)
        self.min_images = 1 if self.chooses_number else self.num_components
        check_numbers(
            {"num_restarts": num_restarts, "max_iter": max_iter},
            {"tol": tol, "min_std": min_std},
        )
        if pseudo_counts != "held_out" and (not isinstance(pseudo_counts, int | float) or pseudo_counts < 0):
            raise PriorError(f"prior.pseudo_counts={pseudo_counts}: give held_out, or a number that is not negative")
        if batch_size not in ("auto", "all") and (not isinstance(batch_size, int) or batch_size < 1):
            raise PriorError(f"prior.batch_size={batch_size}: give auto, all or a number of at least 1")
        self.batch_size = batch_size
        self.num_restarts, self.max_iter, self.tol = num_restarts, max_iter, tol
        self.pseudo_counts, self.min_std, self.lloyd_iterations = pseudo_counts, min_std, lloyd_iterations

    @classmethod
    def fit_version(cls, section: Mapping[str, Any]) -> int:
        if section.get("pseudo_counts", "held_out") == "held_out":
            return 5
        return 3 if section.get("num_components") == "auto" else 2

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_real_vector("mixture", spec)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit by EM on `run.device`; `val` chooses as the class says, and tells mini-batch EM when to stop.

        Raises:
            PriorError: for more components than images, or latents that are not finite.
        """
        watch = Stopwatch()
        if self.chooses_number:
            chosen, found = choose_number(self._of, train, val, run)
            self.keep_few(Components(chosen.log_weights, chosen.means, chosen.scale))
            return replace(found, seconds=watch.seconds)
        self.check_number(train.num_images)
        check_finite(train, "training")
        points, held_out = train.in_points(), val.in_points()
        in_blocks = not points.fits_memory(run.sizes.in_memory_bytes)
        size = (BATCH_SIZE if in_blocks else "all") if self.batch_size == "auto" else self.batch_size
        fit = (
            self._by_all(points, run, in_blocks, watch)
            if size == "all"
            else self._by_batches(points, held_out, run, min(int(size), len(points)), watch)
        )
        current, end, choices = self._by_held_out(fit, points, None if val is train else held_out, run)
        self.set_components(current, fit.scaling)
        notes = []
        if not end.converged:
            notes.append(f"EM stopped at prior.max_iter={self.max_iter} iterations before it converged")
        if end.reseeded:
            notes.append(f"{end.reseeded} empty components were placed anew on the images explained worst")
        return report(self, train, val, run, watch.seconds, fit.curve, [*notes, *choices])

    def _of(self, number: int) -> "Mixture":
        """The same of a given number of components, unfitted."""
        return Mixture(
            self.spec,
            number,
            self.covariance_name,
            self.num_restarts,
            self.max_iter,
            self.tol,
            self.pseudo_counts,
            self.min_std,
            self.lloyd_iterations,
            self.batch_size,
        )

    def _by_all(self, train: LatentDataset, run: FitRun, in_blocks: bool, watch: Stopwatch) -> Fit:
        """Exact EM, every iteration over all posteriors."""
        prepare = on_disk if in_blocks else in_memory
        points, scaling, total = prepare(train, run.device, self.covariance.isotropic, self.min_std)
        settings, log_unit = self._settings(points, total, scaling, run, train.repeats), scaling.log_unit
        if self.pseudo_counts == "held_out" and are_few(train):
            settings = self._for_few(settings, train, run)
        generator = torch.Generator().manual_seed(run.seed)
        best = Search(
            kind=EMState,
            num=self.num_restarts,
            iterations=self.max_iter + 1,
            start=lambda: EMState.begin(self._start(points, settings, run, generator)[0]),
            climb=lambda state, on_step: expectation_maximisation(points, state, settings, on_step),
            score=lambda state: state.objective[-1],
            done=lambda state: state.iteration,
            figures=lambda state: [({"train_bound_nats": log_unit - y}, i) for i, y in enumerate(state.curve)],
            run=run,
            generator=generator,
            watch=watch,
        ).find_best()
        curve = [
            {"iteration": i, "train_bound_nats": log_unit - bound, "objective_nats": log_unit - objective}
            for i, (bound, objective) in enumerate(zip(best.curve, best.objective, strict=True))
        ]
        statistics = Statistics(points, self.covariance, self.num_components, best.double, ranks=run.ranks)

        def ascend(begin: Components, settings: EMSettings) -> EMState:
            return expectation_maximisation(points, EMState.begin(begin), settings, is_over=run.is_over)

        def start() -> Tensor:
            seeded = torch.Generator().manual_seed(run.seed)
            return random_statistics(points, self.covariance, self.num_components, run, seeded)

        again = None if in_blocks else start
        return Fit(best, curve, scaling, total, settings, lambda now: e_step(statistics, now).stats, ascend, again)

    def _by_batches(self, train: LatentDataset, val: LatentDataset, run: FitRun, size: int, watch: Stopwatch) -> Fit:
        """The same by mini-batch EM, after which one M-step has to do."""
        points, scaling, total = on_disk(train, run.device, self.covariance.isotropic, self.min_std)
        settings = StepwiseSettings(self._settings(points, total, scaling, run, train.repeats), len(train), size)
        log_unit = scaling.log_unit
        held_out = scaling.points(val.posterior(spread_rows(len(val), run.sizes.held_out_points)))
        generator = torch.Generator().manual_seed(run.seed)

        def epoch(number: int) -> Iterator[Points]:
            order = torch.Generator().manual_seed((run.seed << 32) + number)
            rows = train.epoch(size, order, None, run.sizes.in_memory_bytes, run.sizes.buffer_bytes)
            return (scaling.points(posterior) for _, posterior in rows)

        def figures(state: StepwiseState) -> list[Logged]:
            bounds = enumerate(zip(state.train_curve, state.curve, strict=True), 1)
            return [({"train_bound_nats": log_unit - y, "val_bound_nats": log_unit - x}, i) for i, (y, x) in bounds]

        best = Search(
            kind=StepwiseState,
            num=self.num_restarts,
            iterations=self.max_iter,
            start=lambda: StepwiseState.begin(*self._start(points, settings.em, run, generator)),
            climb=lambda state, on_step: stepwise_em(state, epoch, held_out, settings, on_step),
            score=lambda state: state.curve[-1],
            done=lambda state: state.epoch,
            figures=figures,
            run=run,
            generator=generator,
            watch=watch,
        ).find_best()
        curve = [{"iteration": i, **row} for i, (row, _) in enumerate(figures(best))]
        return Fit(best, curve, scaling, total, settings.em, lambda now: best.stats * len(train))

    def _by_held_out(
        self, fit: Fit, train: LatentDataset, val: LatentDataset | None, run: FitRun
    ) -> tuple[Components, EMState | StepwiseState, tuple[str, ...]]:
        """The components that held-out latents choose, the end of the EM that led there, and what was chosen; those of
        `fit` where a number was given, or where none or too few are held out."""
        current = fit.end.current
        are_points = train.family == "delta"
        if self.pseudo_counts != "held_out" or val is None or not can_weigh(len(val), are_points):
            return current, fit.end, ()
        points = fit.scaling.points(val.posterior(spread_rows(len(val), HELD_OUT)))
        held_out = HeldOut(points, self.covariance, self.num_components, run.ranks)
        rest = held_out, fit.settings, len(train), run.is_over
        can_tell, shrunk = len(val) >= FEWEST, Shrunk(current)
        if can_tell:
            shrunk = shrink_by_held_out(shrunk, fit.stats, fit.ascend, *rest)
        whole = covariance_behind(fit.total, train, run.device)
        behind_by = whole, held_out, self.covariance, fit.scaling.has_tails, are_points
        chosen, notes = put_behind(shrunk.current, *behind_by)
        again = can_tell and not run.is_over() and self._may_begin_again(train, shrunk)
        if again and fit.start is not None and fit.ascend is not None:
            other = begin_elsewhere(fit.start(), fit.stats, fit.ascend, *rest)
            found = put_behind(other.current, *behind_by)
            if is_likelier(held_out.nats(found[0]), held_out.nats(chosen)):
                shrunk, (chosen, notes) = other, found
        behind = [f"{note}; a number in prior.pseudo_counts leaves that out" for note in notes]
        behind += ["what held-out latents choose ended with the seconds of the fit"] * run.is_over()
        return chosen, shrunk.end or fit.end, (*shrunk.note(held_out, current), *behind)

    def _may_begin_again(self, train: LatentDataset, shrunk: Shrunk) -> bool:
        """Whether another start may end better: where shrinkage changed something, or points are few. Several draws of
        an image are neither points nor tell whose noise a fit has learned."""
        few = train.family == "delta" and len(train) < FEW_A_COMPONENT * self.num_components
        may = train.repeats == 1 and not self.covariance.shared
        return may and (few or (bool(shrunk.words) and len(train) <= MOST_AGAIN))

    def _settings(self, points: PointSet, total: Tensor, scaling: Scaling, run: FitRun, repeats: int) -> EMSettings:
        """`repeats`: points that are together one image, so that the guess is worth as many times more of them."""
        counts, shared = FIRST_COUNTS, total
        if self.pseudo_counts != "held_out":  # which mostly choose another guess; without them this one stays
            counts, shared = self.pseudo_counts, covariance_of_most(points, total, scaling)
        guess = self.covariance.guess(shared, self.num_components)
        numbers = counts * repeats, self.max_iter, self.tol
        return EMSettings(self.covariance, guess, *numbers, run.ranks, run.sizes.cache_bytes)

    def _for_few(self, settings: EMSettings, train: LatentDataset, run: FitRun) -> EMSettings:
        """`settings` of points that are fewer than twice their dimensions: correlations shrunk as in `Gaussian`."""
        share = shrinkage_of_few(train, moments(train, run.device, full=True))
        guess = torch.diag(settings.guess.diagonal()) if settings.guess.ndim == 2 else settings.guess
        worth = min(share, 1 - 1e-3)
        counts = worth / (1 - worth) * len(train) / self.num_components
        return replace(settings, guess=guess, pseudo_counts=counts)

    def _start(
        self, points: PointSet, settings: EMSettings, run: FitRun, generator: torch.Generator
    ) -> tuple[Components, Tensor]:
        """Components of k-means clusters of a sample, and the mean statistics [K, F] that they come from."""
        shape = self.covariance, self.num_components, self.lloyd_iterations
        stats, num = start_statistics(points, *shape, run, generator)
        start = m_step(stats, self.covariance, settings.guess, max(settings.pseudo_counts, 1.0), num)
        return start, stats / num
