"""How much a mixture is to be shrunk, and what stands behind its components, by held-out likelihood.

EM shrinks covariances towards a guess, worth a number of points a component (`covariances.py`). Before the fit nothing
tells what a component will be like, so that the first guess is a part of the whole: right for the cloud that a VAE
leaves, far too wide for tight clusters (20 clusters 0.03 wide, 8 dimensions: 4.6 nats a latent lost). After it the
components tell: their mean covariance, or the inverse of their mean precision, which narrow ones decide (the guess that
is likeliest under inverse-Wishart covariances: empirical Bayes; Gelman et al., "Bayesian Data Analysis", 2013, section
5.1). Where some are much wider than others no one guess is right, but one shape at the size of each may be (a tenth of
all latents 30 times as wide as the rest, 8 dimensions: 1.1 nats a latent). Each guess, worth few points or many, gives
other components from the same statistics, one M-step each; where the best of them pays on held-out points, EM goes on
from there. Where none does, which is so on the latents of a VAE, nothing is changed. A start that is nothing like its
end has the narrow components in the wrong places too, and one M-step does not show what little shrinkage is worth where
many edges are fitted; so exact EM begins once more, at points at random and hardly shrunk, where a guess has paid or
points without widths are few, and the likelier of both is taken.

What no component explains costs a mixture without bound, and many components on latents of one Gaussian cost what they
have learned of noise. So the Gaussian of all points takes the place of the lightest component, with the weight that
held-out points give it (Smyth & Wolpert, "Linearly Combining Density Estimators via Stacking", 1999): where that pays,
and of points without widths and of heavy tails unless it loses. A latent of a cluster that no fit has seen then costs a
few nats, not thousands. Where tails are heavy, wider ones follow it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset
from stage1_vae.ranks import ALONE, Ranks
from stage2_prior.em.covariances import SMALLEST_VARIANCE, Covariance
from stage2_prior.em.gaussian import Components, EMSettings, EMState, Statistics, e_step, m_step
from stage2_prior.em.points import Points
from stage2_prior.moments import are_few, moments, shrinkage_of_few

SIZED = "their mean shape at the size of each"
FIRST_TRIED, OTHER_COUNTS = (1.0, 64.0), (1 / 256, 1 / 32, 0.25, 4.0, 16.0, 256.0)
"""Points that a guess is tried to be worth, a component: the others only where one of the first pays, which on the
latents of a VAE none does. The least are for components as flat as lines, in different directions."""
HARDLY = 0.25
"""Points that the guess of another start is worth."""
ROUNDS = 4
"""Of changing the shrinkage, at most; a ring in 8 dimensions takes them."""
LEAST_GAIN, NOISE = 0.01, 2.0
"""Nats a held-out point, and standard errors, beyond which a change pays."""
LARGE_GAIN = 1.0
"""Nats for which one standard error is enough: a few points far out are most of such a gain, and of its error."""
ENOUGH = 200
"""Held-out points by which one standard error decides between two fits of as many parameters."""
FEWEST, FEWEST_OF_POINTS = 20, 2
"""Held-out points below which nothing is decided by them, and, where they have no widths, not even what stands behind
components: of few points in many dimensions these lose without bound."""
TAILS = (1.0, 16.0, 256.0)
"""Variances of what stands behind components, in those of all points: all of them where tails are heavy, else one."""
HELD_OUT = 2048
"""Held-out points that decide, at most."""
UNSEEN = 0.5
"""Held-out points that each of these is worth beforehand (the prior of Jeffreys)."""
WEIGHING = 200
"""Iterations for the weights, of a few numbers each."""


@dataclass(frozen=True)
class Shrunk:
    """A mixture under the shrinkage that held-out points chose.

    Attributes:
        current: the components.
        words: towards what, and by how many points a component; empty: as EM had begun.
        end: of the EM that led there, where that is another than the first.
        is_anew: whether EM began at points at random.
    """

    current: Components
    words: str = ""
    end: EMState | None = None
    is_anew: bool = False

    def note(self, held_out: "HeldOut", before: Components) -> tuple[str, ...]:
        """What was chosen, and what it gained over the components `before`; nothing where nothing was."""
        if not self.words:
            return ()
        amount, error = gain(held_out.nats(self.current), held_out.nats(before))
        begun = "EM was begun once more, at latents at random, and " * self.is_anew
        return (
            f"{begun}covariances are shrunk towards {self.words} a component: held-out latents gain {amount:.2f} ± "
            f"{error:.2f} nats over the fit that they began with; prior.pseudo_counts sets it",
        )


class HeldOut:
    """Points that tell which of several mixtures is the likeliest; in nats of one, their bound where they have widths.

    Args:
        points: of the validation set, standardised.
        covariance: the kind.
        num_components: of the mixtures.
        ranks: whose first one's figures decide, since another kind of machine rounds otherwise.
    """

    def __init__(self, points: Points, covariance: Covariance, num_components: int, ranks: Ranks = ALONE) -> None:
        self.statistics = Statistics(points, covariance, num_components, cache_bytes=2**28)
        self.ranks = ranks

    def nats(self, current: Components) -> Tensor:
        """log p of each, [N] float64."""
        return self.ranks.broadcast(e_step(self.statistics, current).evidence.double())


def gain(better: Tensor, than: Tensor) -> tuple[float, float]:
    """Of nats [N] over others of the same points: the mean, and the standard error of that."""
    difference = better - than
    return difference.mean().item(), difference.std().item() / math.sqrt(len(difference))


def pays(better: Tensor, than: Tensor) -> bool:
    """Whether there is a gain beyond noise: of two standard errors, or of one and a nat."""
    amount, error = gain(better, than)
    return amount > min(max(LEAST_GAIN, NOISE * error), max(LARGE_GAIN, error))


def is_likelier(nats: Tensor, than: Tensor) -> bool:
    """Whether one of two fits of as many parameters is the likelier by their nats [N] of the same points."""
    amount, error = gain(nats, than)
    return amount > max(LEAST_GAIN, error if len(nats) >= ENOUGH else NOISE * error)


def guesses(covariance: Covariance, stats: Tensor, settings: EMSettings) -> Iterator[tuple[str, Tensor]]:
    """What the covariances of components may be shrunk towards, given their `stats` [K, F], and words for each; the
    last, which is as large as all covariances, is made when it is asked for."""
    if covariance.shared:
        return
    count, _, scatter = covariance.moments(stats)
    share = count / count.sum()
    pooled = covariance.mean_of(torch.ones_like(count) / count.sum(), scatter)
    num_dims = stats.new_tensor(scatter.shape[-1])
    weight = (count + num_dims).reshape(-1, *[1] * (scatter.ndim - 1))
    narrow = covariance.mean_of(share, covariance.inverse((scatter + num_dims * pooled) / weight))
    size, shape = sizes_and_shape(covariance, count, scatter)
    del scatter
    yield "a part of the whole", settings.guess
    yield "their mean", pooled
    yield "that of the narrow ones", covariance.inverse(narrow)
    yield SIZED, size.reshape(-1, *[1] * shape.ndim) * shape


def sizes_and_shape(covariance: Covariance, count: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor]:
    """Of components with `count` points [K] and n_k S_k in `scatter` [K, ...]: the mean variance of each, [K], in which
    the geometric mean of all stands for one point; and their mean covariance after each is divided by its own."""
    scattered = (scatter.diagonal(dim1=1, dim2=2) if scatter.ndim == 3 else scatter).mean(1)  # n_k times the variance
    total = count.sum()
    common = (count / total * (scattered / count).clamp_min(SMALLEST_VARIANCE).log()).sum().exp()
    size = ((scattered + common) / (count + 1)).clamp_min(SMALLEST_VARIANCE)
    return size, covariance.mean_of(1 / (total * size), scatter)


@dataclass(frozen=True)
class Trial:
    """One shrinkage: what it is in words, the components of an M-step under it, and held-out nats [N] under these."""

    words: str
    settings: EMSettings
    current: Components
    nats: Tensor


def best_trial(
    stats: Tensor, settings: EMSettings, num: int, counts: Sequence[float], held_out: HeldOut
) -> Trial | None:
    """The likeliest of every guess that `stats` [K, F] of `num` points allow, worth each of `counts`; one at a time is
    kept, for components may be large. None: there is no guess."""
    best: Trial | None = None
    for name, guess in guesses(settings.covariance, stats, settings):
        for count in counts:
            other = replace(settings, guess=guess, pseudo_counts=count)
            step = m_step(stats, other.covariance, guess, count, num)
            nats = held_out.nats(step)
            if best is None or nats.mean() > best.nats.mean():
                best = Trial(f"{name} by {Fraction(count)} points", other, step, nats)
    return best


def shrink_by_held_out(
    first: Shrunk,
    stats: Callable[[Components], Tensor],
    ascend: Callable[[Components, EMSettings], EMState] | None,
    held_out: HeldOut,
    settings: EMSettings,
    num: int,
    is_over: Callable[[], bool] = lambda: False,
) -> Shrunk:
    """The components `first`, where EM ended, under the shrinkage that held-out points choose.

    Args:
        first: as they are.
        stats: components -> the expected statistics [K, F] of all points.
        ascend: EM from components under other settings, to its end; None: a single M-step has to do.
        held_out: what chooses.
        settings: whose guess is one of those that are tried.
        num: N, the number of points.
        is_over: whether to end with what there is.
    """
    shrunk, best = first, held_out.nats(first.current)
    for _ in range(ROUNDS if ascend else 1):
        if is_over():
            break
        statistics = stats(shrunk.current)
        trial = best_trial(statistics, settings, num, FIRST_TRIED, held_out)
        if trial is None or not pays(trial.nats, best):
            break
        finer = best_trial(statistics, settings, num, OTHER_COUNTS, held_out)
        if finer is not None and finer.nats.mean() > trial.nats.mean():
            trial = finer
        found, nats, end = trial.current, trial.nats, shrunk.end
        if ascend is not None:
            further = ascend(found, trial.settings)
            further_nats = held_out.nats(further.current)
            if further_nats.mean() > nats.mean():
                found, nats, end = further.current, further_nats, further
        rose = gain(nats, best)[0] > LEAST_GAIN
        shrunk, best = replace(shrunk, current=found, words=trial.words, end=end), nats
        if not rose:
            break
    return shrunk


def begin_elsewhere(
    start: Tensor,
    stats: Callable[[Components], Tensor],
    ascend: Callable[[Components, EMSettings], EMState],
    held_out: HeldOut,
    settings: EMSettings,
    num: int,
    is_over: Callable[[], bool] = lambda: False,
) -> Shrunk:
    """The same of EM from the mean statistics `start` [K, F], whose components are hardly shrunk, at the size of each;
    the rest as in `shrink_by_held_out`."""
    count, _, scatter = settings.covariance.moments(start * num)
    size, shape = sizes_and_shape(settings.covariance, count, scatter)
    del count, scatter
    sizes = replace(settings, guess=size.reshape(-1, *[1] * shape.ndim) * shape, pseudo_counts=HARDLY)
    end = ascend(m_step(start * num, sizes.covariance, sizes.guess, HARDLY, num), sizes)
    first = Shrunk(end.current, f"{SIZED} by {Fraction(HARDLY)} points", end, is_anew=True)
    return shrink_by_held_out(first, stats, ascend, held_out, settings, num, is_over)


def can_weigh(num: int, are_points: bool) -> bool:
    """Whether `num` held-out points are enough to tell what stands behind components."""
    return num >= (FEWEST_OF_POINTS if are_points else FEWEST)


def covariance_behind(total: Tensor, train: LatentDataset, device: torch.device) -> Tensor:
    """What stands behind components of `train` whose covariance is `total` [D, D], standardised: of points that are
    fewer than twice their dimensions, with correlations shrunk like those of one Gaussian."""
    if not are_few(train):
        return total
    share = shrinkage_of_few(train, moments(train, device, full=True))
    return total.lerp(torch.diag(total.diagonal()), share)


def put_behind(
    current: Components, total: Tensor, held_out: HeldOut, covariance: Covariance, tails: bool, are_points: bool
) -> tuple[Components, tuple[str, ...]]:
    """`current` with the Gaussian of all points, of covariance `total` [D, D] about 0, in the place of its lightest
    component where that pays on held-out points, with `tails` wider ones too; and what that gained, in words. With
    `tails`, or of points without widths (`are_points`), it has a little weight wherever held-out points do not lose.
    """
    factors = TAILS[: len(current.means) - 1] if tails else TAILS[:1]
    if len(current.means) == 1 or covariance.shared:
        return current, ()
    whole = covariance.guess(total, 1)  # a part of one is the whole
    behind = [covariance.factor(factor * whole) for factor in factors]
    centre = current.log_weights.exp() @ current.means
    alone = [Components(current.log_weights.new_zeros(1), centre[None], scale[None]) for scale in behind]
    ours = held_out.nats(current)
    nats = torch.stack([ours, *(held_out.nats(one) for one in alone)], dim=1)  # [N, 1 + behind]
    weights = nats.new_full((nats.shape[1],), 1 / nats.shape[1])
    for_unseen = tails or are_points
    floor = nats.new_tensor([0.0] + [UNSEEN if for_unseen else 0.0] * len(behind))
    for _ in range(WEIGHING):
        shares = torch.softmax(nats + weights.clamp_min(1e-300).log(), dim=1).sum(0) + floor
        weights = shares / shares.sum()
    order = current.log_weights.argsort()
    place, kept = order[: len(behind)], order[len(behind) :]
    log_weights, means, scale = current.log_weights.clone(), current.means.clone(), current.scale.clone()
    log_weights[place] = weights[1:].clamp_min(1e-300).log()
    log_weights[kept] += weights[0].clamp_min(1e-300).log() - torch.logsumexp(current.log_weights[kept], 0)
    means[place], scale[place] = centre, torch.stack(behind)
    found = Components(log_weights, means, scale)
    better = held_out.nats(found)
    amount, error = gain(better, ours)
    does_pay = pays(better, ours)
    least = LEAST_GAIN + math.log1p(UNSEEN * len(behind) / len(ours))  # what the floor itself costs
    if not does_pay and not (for_unseen and amount > -least):
        return current, ()
    unseen = "" if does_pay else ", for what no fit has seen"
    note = (
        f"as wide as all latents{', or wider' * (len(behind) > 1)}{unseen}: {len(behind)} of "
        f"{len(means)} components, with {100 * weights[1:].sum().item():.3g} % of the weight; held-out latents gain "
        f"{amount:.2f} ± {error:.2f} nats"
    )
    return found, (note,)
