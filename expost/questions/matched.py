"""What N images can say of KL(q(z) || N(0, I)): its estimate, beside the same estimate of an exact match.

The surgery of the rate takes q(z) as the aggregate of the very N posteriors that z is drawn from, so it credits the
code with log N nats of information at most, and what a rate has beyond that it counts as marginal KL, also of a q(z)
that is N(0, I): of 359 posteriors at a rate of 18 nats, 12. So each figure stands beside what the same function says of
as many posteriors, as wide and at the same rate, whose aggregate is N(0, I). The widths are those of each image: an
estimate is concave in an image's rate, so that a match of one width for all would be credited with more information.
Its excess over that is 0 in the mean where q(z) is N(0, I), and otherwise less than the KL itself: the nearer a code's
information is to log N, the more of it is cut. At rates far above log N an excess of 0 says next to nothing.

Noise is of three kinds: that of training, from seed to seed; that of the exact match, a mean over a few draws; and that
of the images, which all seeds share, so that no spread over seeds shows it. The scatter of the exact match from draw to
draw is the last.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import stats
from torch import Tensor

from expost.base.errors import UserError
from expost.evaluation.sections import Estimate
from expost.measure.latents import decompose_split
from expost.questions.inquiry import SIGNIFICANT, Column, Finished, Inquiry, Outcomes, figure_of
from stage1_vae.base_priors import StandardNormal
from stage1_vae.latents import LatentDataset
from stage1_vae.rate import rate_per_dim_nats

NUM_MATCHES = 8
"""Draws of an exact match for each run."""
BESIDE = ("matched_sd", "num_images", "accuracy_error")
"""Figures of a run that stand in no column: scatter of the exact match in nats, N, and the standard error over images
of a classifier's right answers in per cent, which `quilt` has."""


@dataclass(frozen=True)
class Excess:
    """By how much a figure is beyond that of an exact match.

    Attributes:
        amount: mean and standard error, of seeds and images together.
        p_value: how often noise alone would be as far from 0; None: of one seed nobody knows.
    """

    amount: Estimate
    p_value: float | None

    @property
    def is_beyond(self) -> bool | None:
        """Whether it is more than noise, of this one figure."""
        return self.is_beyond_of(1)

    def is_beyond_of(self, num: int) -> bool | None:
        """The same of one that was picked from `num` comparisons (Bonferroni)."""
        return None if self.p_value is None else num * self.p_value < SIGNIFICANT


class AgainstMatch(Inquiry):
    """A question about KL(q(z) || N(0, I)), to be told beside an exact match."""

    kl_columns: ClassVar[Mapping[str, Column]] = {
        "rate": Column("rate on test images, nats", 2),
        "marginal_kl": Column("KL(q(z) || N(0, I)), nats, estimate", 2),
        "matched_kl": Column("the same of an exact match (± from one set of images to another)", 2),
        "beyond": Column("beyond it (± of seeds and images)", 2),
    }

    def estimate(self, outcomes: Outcomes, variant: str, name: str) -> Estimate:
        if name == "matched_kl":
            return Estimate(outcomes.estimate(variant, name).value, math.sqrt(_variance(outcomes, variant)))
        return excess(outcomes, variant).amount if name == "beyond" else super().estimate(outcomes, variant, name)


def exact_match(std: Tensor) -> LatentDataset:
    """Posteriors of widths `std` [N, *shape] up to 1, whose aggregate is N(0, I).

    N(m, s^2) with m ~ N(0, 1 - s^2) is N(0, 1) in the mean over m, and costs (m^2 + s^2 - 1) / 2 - log s nats, in the
    mean -log s.
    """
    loc = torch.randn(std.shape, dtype=torch.float64) * (1 - std.double().square()).sqrt()
    return LatentDataset.of(loc, std=std.double())


def matching_widths(latents: LatentDataset, rates: Tensor) -> Tensor:
    """The widths of `latents`, [N, *shape] float64, scaled in each dimension until an exact match of them costs the
    `rates` [*shape], nats; where a width of more than 1 is needed for that, about."""
    costs = torch.cat([-0.5 * posterior.variance.double().log() for posterior in latents.blocks()])
    return torch.exp(-(costs - costs.mean(0) + rates.double()).clamp_min(0))


def mean_rates(latents: LatentDataset) -> Tensor:
    """KL(q(z|x) || N(0, I)) a dimension, [*shape] nats, the mean over images.

    Raises:
        UserError: posteriors that are no normals.
    """
    base, total = StandardNormal(latents.spec.shape), torch.zeros(latents.spec.shape, dtype=torch.float64)
    for posterior in latents.blocks():
        rates = rate_per_dim_nats(posterior, base)
        if rates is None:
            raise UserError("this question is about posteriors that are normal; leave out vae=")
        total += rates.double().sum(0)
    return total / len(latents)


def estimated(latents: LatentDataset, num_draws: int, device: torch.device) -> float:
    """The estimate of KL(q(z) || N(0, I)) in nats, from `num_draws` draws, as a report has it."""
    base = StandardNormal(latents.spec.shape).to(device)
    *_, rate = decompose_split(latents, {"base": base.log_prob}, num_draws, device)
    under = rate.priors["base"]
    if under is None or under.marginal_kl_nats is None:
        raise UserError("the density of these latents under N(0, I) is not finite; train with a lower rate")
    return under.marginal_kl_nats.value


def of_matches(std: Tensor, num_draws: int, device: torch.device) -> list[float]:
    """The same of `NUM_MATCHES` exact matches of widths `std` [N, *shape]."""
    return [estimated(exact_match(std), num_draws, device) for _ in range(NUM_MATCHES)]


def kl_figures(run: Finished) -> dict[str, float]:
    """Of test images, those of `AgainstMatch.kl_columns` and those `BESIDE` them; draws by the seed `seeds.sample`."""
    kl = figure_of(run.report.row(run.report.baseline), "marginal_kl_nats")
    latents, split = run.latents("test"), run.report.surgery.test
    num_draws = len(latents) if split is None else split.num_draws
    rates = mean_rates(latents)
    with run.job.seeded(run.job.config.seeds.sample):
        matches = of_matches(matching_widths(latents, rates), num_draws, run.job.device)
    matched = statistics.fmean(matches)
    return {
        "rate": rates.sum().item(),
        "marginal_kl": kl,
        "matched_kl": matched,
        "beyond": kl - matched,
        "matched_sd": statistics.stdev(matches),
        "num_images": len(latents),
    }


def excess(outcomes: Outcomes, variant: str, other: str | None = None) -> Excess:
    """Nats that `variant` has beyond an exact match; with `other`, how much more than that one has.

    A t-test on the sum of two variances, that of the mean over seeds and that of the images, with the degrees of
    freedom of such a sum (Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", 1946).
    """
    compared = [variant] if other is None else [variant, other]
    found = outcomes.estimate(variant, "beyond") if other is None else outcomes.difference(variant, other, "beyond")
    of_images = [_variance(outcomes, name) for name in compared]
    num = len(outcomes.of(variant))
    return with_noise_of_images(found, of_images, num, num * (NUM_MATCHES - 1))


def with_noise_of_images(found: Estimate, of_images: Sequence[float], num: int, freedom: float) -> Excess:
    """`found`, a mean over `num` seeds or a difference of two, once the images that all of them share count as well.

    Args:
        of_images: the variances of what is compared from one set of images to another.
        freedom: degrees of freedom that each of these is known with.
    """
    if found.standard_error is None:
        return Excess(found, None)
    of_seeds = found.standard_error**2
    error = math.sqrt(of_seeds + sum(of_images))
    squares = of_seeds**2 / (num - 1) + sum(variance**2 for variance in of_images) / freedom
    together = error**4 / squares if squares > 0 else 1.0
    p_value = 2 * float(stats.t.sf(abs(found.value) / error, together)) if error > 0 else 1.0
    return Excess(Estimate(found.value, error), p_value)


def beyond_together(several: Sequence[Excess]) -> list[bool | None]:
    """Which of `several` are more than noise, where noise may make a single one of them seem so in 5 % of cases (Holm,
    "A Simple Sequentially Rejective Multiple Test Procedure", 1979)."""
    found: list[bool | None] = [None if over.p_value is None else False for over in several]
    known = sorted((over.p_value, place) for place, over in enumerate(several) if over.p_value is not None)
    for before, (p_value, place) in enumerate(known):
        if p_value * (len(known) - before) >= SIGNIFICANT:
            break
        found[place] = True
    return found


def num_above(several: Sequence[Excess]) -> int:
    """How many of `several` are that, and above 0."""
    flags = beyond_together(several)
    return sum(flag is True and over.amount.value > 0 for flag, over in zip(flags, several, strict=True))


def _variance(outcomes: Outcomes, variant: str) -> float:
    """Of the estimate from one set of images to another, were q(z) N(0, I), nats^2."""
    return statistics.fmean(value**2 for value in outcomes.values(variant, "matched_sd"))


def num_images(outcomes: Outcomes) -> int:
    """N, the same in all runs."""
    return round(outcomes.all[0].figures["num_images"])


def has_room(outcomes: Outcomes, variant: str) -> bool:
    """Whether the rate is below log N, so that N images could show all information that an exact match has."""
    return outcomes.estimate(variant, "rate").value < math.log(num_images(outcomes))


def hidden(outcomes: Outcomes, variants: Sequence[str]) -> list[str]:
    """A sentence on what N images cannot show of `variants`; none where all of them have room."""
    names = [name for name in variants if not has_room(outcomes, name)]
    if not names:
        return []
    num = num_images(outcomes)
    most = "; ".join(f"{outcomes.estimate(name, 'matched_kl').value:.2f} nats in {name}" for name in names)
    return [
        f"{num:,} images show log {num:,} = {math.log(num):.2f} nats of information at most. At rates above it a "
        f"mismatch may be hidden in what an exact match has as well: up to {most}."
    ]
