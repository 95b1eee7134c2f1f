"""Which prior do these latents need? A ladder of them, from cheap to rich, fitted within a budget of seconds.

Rungs that need no gradient are fitted whole, in their order, until two in a row do not pay. Networks race by successive
halving (Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016,
figure 1): each gets a slice of the seconds that are left, the worse half is dropped, and the others go on from where
they were, until one is left. It ends with its fit or with the budget.

Rungs are compared on the same held-out draws z ~ q(z|x), one a latent, by log p(z): the difference between two rungs
has the standard error of its mean over latents. Or by the Frechet distance of a rung's samples to those draws, both
decoded and in the features that the judge looks at (without a decoder, of the latents as they are); its error is that
of several sets of samples. A rung pays where it is better by more than two standard errors, or by more than a nat of
which a few latents are the most, since these are lost to the other; what is taken is the cheapest that none betters so.

What a clock has cut is not reproducible. A fit that is killed starts over, and takes its seconds at most.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage1_vae.rows import spread_rows
from stage2_prior.combined.members import Combined, fit_alone, title
from stage2_prior.combined.slices import SlicedFit
from stage2_prior.fitting import FitReport, FitRun, FitStates, PriorError, Stopwatch
from stage2_prior.held_out import affordable, is_large, report
from stage2_prior.prior import GradientPrior, Prior, innermost
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.wrappers.per_class import PerClass

ROWS_AT_ONCE = 4096
MOST_ROWS = 10_000
"""Held-out draws that rungs are compared on, at most."""
SETS, A_SET = 5, 2000
"""Of samples, for a distance, and how many are in each at most."""
NOISE = 2.0
"""Standard errors beyond which a rung pays."""
PATIENCE = 2
"""Rungs in a row that do not pay."""

Metric = Literal["latent_nll_nats", "frechet_distance"]


class OutOfTime(Exception):  # noqa: N818  # it is no mistake
    """Ends a fit at the end of its seconds."""


@dataclass
class Rung:
    """One member.

    Attributes:
        place, prior: of it.
        nats: -log p(z) of the held-out draws, float64 [B]; None: it was not fitted.
        distances: of its sets of samples, float64 [SETS]; None: not asked for.
        seconds: of its fit and of looking at it.
        words: what became of it.
        is_done: it may be taken.
    """

    place: int
    prior: Prior
    nats: Tensor | None = None
    distances: Tensor | None = None
    seconds: float = 0.0
    words: str = ""
    is_done: bool = False

    @property
    def is_sliced(self) -> bool:
        """Whether it is one network, fitted by gradient."""
        modules = list(self.prior.modules())
        return any(isinstance(m, GradientPrior) for m in modules) and not any(isinstance(m, PerClass) for m in modules)

    def mean(self, metric: Metric) -> float:
        """Its figure, of which less is better."""
        values = self.nats if metric == "latent_nll_nats" else self.distances
        return math.inf if values is None else values.mean().item()

    def gain(self, other: "Rung", metric: Metric) -> tuple[float, float]:
        """By how much it is better than `other`, and the standard error of that."""
        if metric == "latent_nll_nats":
            assert self.nats is not None and other.nats is not None
            num = min(len(self.nats), len(other.nats))
            difference = other.nats[:num] - self.nats[:num]
            difference[difference.isnan()] = 0.0  # to which neither gives any probability
            gain = difference.mean().item()
            has_noise = num > 1 and math.isfinite(gain)  # one that alone gives a latent none is behind for sure
            return gain, (difference.std() / math.sqrt(num)).item() if has_noise else 0.0
        assert self.distances is not None and other.distances is not None
        variance = self.distances.var() / len(self.distances) + other.distances.var() / len(other.distances)
        return (other.distances.mean() - self.distances.mean()).item(), variance.sqrt().item()

    def pays(self, other: "Rung", metric: Metric) -> bool:
        """Whether it is better than `other` beyond noise, or in nats by much of few latents."""
        gain, error = self.gain(other, metric)
        return gain > NOISE * error or (metric == "latent_nll_nats" and is_large(gain, error))


class Auto(Combined):
    """The rung that was taken; densities and samples are its own.

    Args:
        members: the ladder, from cheap to rich; those that cannot model the latents are left out.
        seconds: of the whole fit; it ends with the epoch that crosses them.
        metric: what rungs are compared by.
        conditional: whether labels are given, to every rung.

    Raises:
        PriorError: as for `Combined`, or no seconds.
    """

    skips_members: ClassVar[bool] = True
    comparison: Tensor

    def __init__(
        self,
        spec: LatentSpec,
        members: Sequence[Prior] = (),
        seconds: float = 240.0,
        metric: Metric = "latent_nll_nats",
        conditional: bool = False,
    ) -> None:
        super().__init__(spec, members, conditional)
        if seconds <= 0:
            raise PriorError(f"prior.seconds={seconds}: give a number above 0")
        self.seconds, self.metric = seconds, metric
        self.looks_at_images = metric == "frechet_distance"
        self.min_images = min(member.min_images for member in members)
        self.min_images_a_class = min(member.min_images_a_class for member in members)
        self.needs_widths = all(member.needs_widths for member in members)
        self.register_buffer("comparison", torch.full((3,), math.nan, dtype=torch.float64))
        # place of the rung that the one taken is compared with, its gain, and the standard error of that
        settle(self)
        self.register_load_state_dict_post_hook(settle)

    @property
    def caveats(self) -> list[str]:
        if len(self.weighed) > 1 or len(self.parts) == 1:
            return []
        return [f"{self.answer()}.", *self.weighed[0][1].caveats]

    def answer(self, beyond: float | None = None) -> str:
        """Which prior these latents need, and what another one would buy; `beyond`: seconds that it took more."""
        taken, (place, gain, error) = self.titles[self.weighed[0][0]], self.comparison.tolist()
        if math.isnan(place):
            return f"{taken} is taken: no other rung was fitted within {self.seconds:g} s"
        other, unit = self.titles[int(place)], "nats" if self.metric == "latent_nll_nats" else "of the Frechet distance"
        amount = f"{abs(gain):.2f} ± {error:.2f} {unit}"
        if gain >= 0:
            return f"{taken} is enough: {other} would buy {amount}{cost(beyond)}"
        if int(place) > self.weighed[0][0]:
            return f"{taken} is enough: {other} is {amount} behind{cost(beyond)}"
        return f"{taken} pays: it buys {amount} over {other}{cost(None if beyond is None else -beyond)}"

    def check_family(self, family: str) -> None:
        """As for any prior, where no rung is left otherwise.

        Raises:
            PriorError: what the first rung says.
        """
        if all(complaint(member, family) for member in self.parts):
            self.parts[0].check_family(family)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the ladder within the budget, and take the cheapest rung that no other one betters beyond noise.

        Raises:
            PriorError: whatever a rung raises, or not even the first is fitted within the budget.
        """
        watch = Stopwatch()
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            race = Race(self, train, val, run, watch)
            race.carry_out()
        self.log_weights.fill_(-math.inf)
        taken, other = race.taken, race.other
        self.log_weights[taken.place] = 0.0
        self.comparison.fill_(math.nan)
        if other is not None:
            gain, error = other.gain(taken, self.metric)
            self.comparison.copy_(torch.tensor([other.place, gain, error], dtype=torch.float64))
        self.eval()
        settle(self)
        beyond = None if other is None else other.seconds - taken.seconds
        notes = [self.answer(beyond), *(f"{title(rung.prior)}: {rung.words}" for rung in race.rungs)]
        own = report(self, train, val, run, watch.seconds, notes=notes)
        return replace(own, seconds=watch.seconds, ladder=race.rows())


def cost(seconds: float | None) -> str:
    """What so many seconds more, or less, are in a sentence."""
    if seconds is None:
        return ""
    return f" for {abs(seconds):.0f} s {'more' if seconds >= 0 else 'less'}"


def settle(auto: Auto, *_: object) -> None:
    """Let `auto` be what the rung is that was taken; before the fit, what all of them are."""
    members = [member for _, member in auto.weighed]
    auto.passes = max(member.passes for member in members)
    auto.knobs = frozenset.intersection(*(member.knobs for member in members))
    auto.memorises = all(member.memorises for member in members)


def complaint(member: Prior, family: str) -> str | None:
    """Why `member` cannot be fitted to posteriors of a `family`."""
    try:
        member.check_family(family)
    except PriorError as error:
        return str(error)
    return None


class Race:
    """One fit of a ladder.

    Args:
        auto: whose rungs.
        train, val: latents.
        run: what is lent.
        watch: of the whole fit.
    """

    def __init__(self, auto: Auto, train: LatentDataset, val: LatentDataset, run: FitRun, watch: Stopwatch) -> None:
        self.metric, self.budget, self.train, self.val, self.run, self.watch = (
            auto.metric,
            auto.seconds,
            train,
            val,
            run,
            watch,
        )
        self.end = time.perf_counter() + auto.seconds - watch.seconds
        self.rungs = [Rung(place, member) for place, member in enumerate(auto.parts)]
        torch.manual_seed(run.seed)
        rows = spread_rows(len(val), MOST_ROWS)
        self.draws = val.draw(rows[torch.randperm(len(rows))])  # whose first ones are spread too

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    @property
    def done(self) -> list[Rung]:
        return [rung for rung in self.rungs if rung.is_done]

    @property
    def eligible(self) -> list[Rung]:
        """Those that may be taken: by distance, none that loses to the Gaussian of the latents in nats."""
        gaussian = next((rung for rung in self.done if isinstance(innermost(rung.prior), Gaussian)), None)
        if gaussian is None or self.metric != "frechet_distance":
            return self.done
        return [rung for rung in self.done if rung is gaussian or not gaussian.pays(rung, "latent_nll_nats")]

    @property
    def best(self) -> Rung:
        return min(self.eligible, key=lambda rung: rung.mean(self.metric))

    @property
    def taken(self) -> Rung:
        """The first that the best one does not better beyond noise."""
        return next(rung for rung in self.eligible if rung is self.best or not self.best.pays(rung, self.metric))

    @property
    def other(self) -> Rung | None:
        """What it is compared with: the best rung, or of the others the best that is cheaper; None: there is none."""
        if self.taken is not self.best:
            return self.best
        others = [rung for rung in self.done if rung is not self.taken]
        return min(others, key=lambda rung: rung.mean(self.metric), default=None)

    def carry_out(self) -> None:
        """Fit what can be fitted.

        Raises:
            PriorError: not even the first rung, or whatever a rung raises.
        """
        if self.metric == "frechet_distance":
            self._features(self.draws[:1])  # refused before any fit
        able = [rung for rung in self.rungs if self._is_able(rung)]
        if not able:
            raise PriorError(f"prior.members: none can be fitted to these latents; {self.rungs[0].words}")
        sliced = [rung for rung in able if rung.is_sliced]
        self._fit_whole([rung for rung in able if not rung.is_sliced], self.left / 2 if sliced else self.left)
        if sliced:
            self._halve(sliced)
        if not self.done:
            self._refuse(able[0])

    def _is_able(self, rung: Rung) -> bool:
        """Whether there are enough latents for it, of the right kind."""
        member, labels = rung.prior, self.train.labels
        rung.words = complaint(member, self.train.family) or ""
        if member.min_images > len(self.train):
            rung.words = f"skipped: it needs {member.min_images:,} latents"
        counts = labels if labels is None else torch.bincount(labels, minlength=member.num_classes)
        if member.min_images_a_class and counts is not None and counts.min() < member.min_images_a_class:
            rung.words = f"skipped: it needs {member.min_images_a_class:,} latents of each class"
        return not rung.words

    def _refuse(self, rung: Rung) -> None:
        raise PriorError(
            f"prior.seconds={self.budget:g}: not even {title(rung.prior)}, the first rung, is fitted within: it took "
            f"{self.watch.seconds:.2f} s until here; raise it"
        )

    def _fit_whole(self, rungs: Sequence[Rung], seconds: float) -> None:
        """Fit `rungs` within `seconds`, until two in a row do not pay."""
        end, unpaid = time.perf_counter() + seconds, 0

        def is_over() -> bool:
            return time.perf_counter() > end

        def look_at_clock() -> None:
            if is_over():
                raise OutOfTime

        for rung in rungs:
            if unpaid == PATIENCE:
                rung.words = f"skipped: the {PATIENCE} rungs before it did not pay"
                continue
            if is_over() and rung is not rungs[0]:
                rung.words = "skipped: no seconds were left"
                continue
            before, started = (self.best if self.done else None), time.perf_counter()
            try:
                fit_alone(rung.prior, self.train, self.val, self._lent(rung, look_at_clock, is_over))
                self._look_at(rung)
                rung.words, rung.is_done = "fitted", True
            except OutOfTime:
                rung.words = "cut off at the end of its seconds"
            rung.seconds = time.perf_counter() - started
            if rung is rungs[0] and self.left < 0:
                self._refuse(rung)
            if before is not None and rung.is_done:
                unpaid = 0 if rung.pays(before, self.metric) else unpaid + 1

    def _halve(self, rungs: Sequence[Rung]) -> None:
        """Let networks race for the seconds that are left."""
        fits = {rung.place: self._sliced(rung) for rung in rungs}
        alive = list(rungs)
        try:
            while alive:
                rounds = 1 + math.floor(math.log2(len(alive)))
                seconds = max(0.0, self.left) / rounds / len(alive)
                for rung in list(alive):
                    if self.left <= 0 and self.done:
                        rung.words = f"dropped after {fits[rung.place].num_epochs} epochs: no seconds were left"
                        alive.remove(rung)
                    elif self._advance(rung, fits[rung.place], seconds, is_last=len(alive) == 1):
                        alive.remove(rung)
                alive = self._better_half(alive, fits)
        finally:
            for fit in fits.values():
                fit.drop()

    def _lent(
        self, rung: Rung, then: Callable[[], None] = lambda: None, is_over: Callable[[], bool] = lambda: False
    ) -> FitRun:
        """To the fit of a rung, whose figures are logged under its number; `then`: after each of them."""

        def log(figures: Mapping[str, float], step: int) -> None:
            self.run.log({f"{name}_of_{rung.place}": value for name, value in figures.items()}, step)
            then()

        return replace(self.run, log=log, states=FitStates(), is_over=is_over)

    def _sliced(self, rung: Rung) -> SlicedFit:
        return SlicedFit(lambda lent: fit_alone(rung.prior, self.train, self.val, lent), self._lent(rung))

    def _advance(self, rung: Rung, fit: SlicedFit, seconds: float, is_last: bool) -> bool:
        """One slice of a network's fit; whether it is finished."""
        started = time.perf_counter()
        ended = fit.advance(self.end if is_last else started + seconds, is_last)
        if not self.done and fit.num_epochs <= 1 and self.left < 0:
            self._refuse(rung)
        if ended:
            self._look_at(rung)
            cut = is_last and self.left < 0
            rung.words, rung.is_done = f"fitted, {fit.num_epochs} epochs{', cut off by the budget' * cut}", True
        else:
            with fit.averaged():
                self._look_at(rung)
        rung.seconds += time.perf_counter() - started
        return ended

    def _better_half(self, alive: list[Rung], fits: dict[int, SlicedFit]) -> list[Rung]:
        """Those that go on, in their order; of one, that one."""
        kept = sorted(alive, key=lambda rung: rung.mean(self.metric))[: math.ceil(len(alive) / 2)]
        for rung in alive:
            if rung not in kept:
                fits[rung.place].drop()
                rung.words = f"dropped after {fits[rung.place].num_epochs} epochs, behind {title(kept[0].prior)}"
        return [rung for rung in alive if rung in kept]

    @torch.no_grad()
    def _look_at(self, rung: Rung) -> None:
        """Its costs of the held-out draws, and where asked for the distances of its samples."""
        prior, seed = rung.prior, self.run.seed
        device = prior.anchor.device
        draws = self.draws[: affordable(len(self.draws), prior)]
        rung.nats = torch.cat([-prior.log_prob(z.to(device)).double().cpu() for z in draws.split(ROWS_AT_ONCE)])
        if self.metric == "frechet_distance":
            torch.manual_seed(seed)
            sets = [self._features(prior.sample(min(A_SET, len(self.draws)))) for _ in range(SETS)]
            distances = [frechet_distance(features, self.reference) for features in sets]
            rung.distances = torch.tensor(distances, dtype=torch.float64)

    @cached_property
    def reference(self) -> Tensor:
        """What samples are compared with: the held-out draws, seen as they are."""
        return self._features(self.draws)

    def _features(self, z: Tensor) -> Tensor:
        """[N, *shape] -> [N, F], on the CPU.

        Raises:
            PriorError: these latents have no distances, and there is no decoder.
        """
        if self.run.features is not None:
            return self.run.features(z).cpu()
        if self.val.spec.support is not Support.REAL:
            raise PriorError(
                f"prior.metric=frechet_distance: these latents are {self.val.spec.support.value} without a decoder, "
                "so that there is no distance between them; use prior.metric=latent_nll_nats"
            )
        return z.flatten(1).cpu()

    def rows(self) -> list[dict[str, Any]]:
        """The ladder, a mapping a rung: figures, by how much the best one is better and the standard error of that, and
        what became of it."""
        return [self._row(rung) for rung in self.rungs]

    def _row(self, rung: Rung) -> dict[str, Any]:
        row: dict[str, Any] = {"rung": title(rung.prior), "seconds": rung.seconds, "words": rung.words}
        if rung is self.taken:
            row["words"] += "; taken"
        if rung.nats is None:
            return row
        behind, error = self.best.gain(rung, self.metric)
        row |= {"val_nll_nats": rung.mean("latent_nll_nats"), "behind": behind, "error": error}
        if rung.distances is not None:
            row["frechet_distance"] = rung.mean("frechet_distance")
        return row


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the moments of two sets [N, ...] of real numbers (Dowson & Landau, "The Frechet Distance between
    Multivariate Normal Distributions", 1982, equation 16)."""
    (mean_a, cov_a), (mean_b, cov_b) = (
        (z.mean(0), torch.atleast_2d(torch.cov(z.T))) for z in (a.flatten(1).double(), b.flatten(1).double())
    )
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)
