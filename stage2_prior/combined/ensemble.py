"""A mixture of fitted priors, p(z) = sum_k w_k p_k(z): each is fitted alone, and then only the weights are learned.

The weights maximise the mean of log p(z) over draws z ~ q(z|x) of held-out latents, which no member was trained on, by
EM (Dempster, Laird & Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977; for weights alone the
steps of Jordan & Jacobs, "Hierarchical Mixtures of Experts and the EM Algorithm", 1994, whose gate sees nothing):

    r_nk = w_k p_k(z_n) / sum_j w_j p_j(z_n),    w_k = mean_n r_nk

The mean is concave in w, so that there is one maximum, and it is no lower than the best member. It is that of linear
stacking of densities (Smyth & Wolpert, "Linearly Combining Density Estimators via Stacking", 1999). A mixture of lower
bounds of densities is a lower bound of their mixture.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.rows import spread_rows
from stage2_prior.combined.members import Combined, fit_alone
from stage2_prior.fitting import FitReport, FitRun, PriorError, Stopwatch
from stage2_prior.held_out import affordable, report
from stage2_prior.in_turn import FitsInTurn
from stage2_prior.prior import Prior

ROWS_AT_ONCE = 4096
MOST_REPEATS = 4
"""Draws of one latent: more tell of its own width alone."""
MOST_STEPS, TOLERANCE = 10_000, 1e-10
"""Of EM: an end, and the gain in nats below which it has converged."""


class Ensemble(Combined):
    """A weight of each member.

    Args:
        members: priors of the same latents.
        num_draws: held-out draws that the weights are fitted to; of fewer latents each is drawn up to four times. Where
            a density takes many passes they are fewer, but a thousand, which cost the K weights K / 2,000 nat.
        conditional: whether labels are given, to every member.

    Raises:
        PriorError: as for `Combined`, or no draws.
    """

    version: ClassVar[int] = 2
    has_stored_parts: ClassVar[bool] = True

    def __init__(
        self, spec: LatentSpec, members: Sequence[Prior] = (), num_draws: int = 20_000, conditional: bool = False
    ) -> None:
        super().__init__(spec, members, conditional)
        if num_draws < 1:
            raise PriorError(f"prior.num_draws={num_draws}: give at least 1")
        self.num_draws = num_draws
        self.knobs = frozenset.intersection(*(member.knobs for member in members))
        self.passes = sum(member.passes for member in members)
        self.memorises = any(member.memorises for member in members)
        self.min_images = max(member.min_images for member in members)
        self.min_images_a_class = max(member.min_images_a_class for member in members)
        self.needs_widths = any(member.needs_widths for member in members)

    @property
    def caveats(self) -> list[str]:
        return [f"{self._words}.", *dict.fromkeys(caveat for member in self.parts for caveat in member.caveats)]

    @property
    def _words(self) -> str:
        shares = zip(self.titles, self.log_weights.exp().tolist(), strict=True)
        return f"weights of the members: {', '.join(f'{title} {weight:.3f}' for title, weight in shares)}"

    def check_family(self, family: str) -> None:
        """As for any prior: its members are asked."""
        for member in self.parts:
            member.check_family(family)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the members, or take them as they are found, then the weights to draws of `val`; `seconds` are of both.

        Raises:
            PriorError: what a member raises, or draws none of which has a density above 0.
        """
        reports = self._fit_members(train, val, run)
        watch = Stopwatch()
        self.log_weights.fill_(-math.log(len(self.parts)))  # none is left out
        self.eval()
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(run.seed)
            log_probs = self._draws_of(val)  # [N, members]
        weights, means = fit_weights(log_probs)
        self.log_weights.copy_(weights.log())
        last = len(means) - 1
        shown = [step for step in range(last + 1) if step & (step - 1) == 0 or step == last]  # thousands say no more
        curve = [{"step": float(step), "val_nll_nats": -means[step]} for step in shown]
        for row in curve:
            run.log({"val_nll_nats": row["val_nll_nats"]}, int(row["step"]))
        best = int(log_probs.mean(0).argmax())
        alone = ", ".join(f"{-log_probs[:, k].mean():.3f}" for k in range(len(self.parts)))
        notes = [
            self._words,
            f"held out, on {len(log_probs):,} draws: {-means[-1]:.3f} nats, {-means[0]:.3f} with equal weights; "
            f"the members alone {alone}, so that the best of them ({self.titles[best]}) is "
            f"{means[-1] - log_probs[:, best].mean().item():.3f} nats behind",
            "seconds are of the weights and of every member's fit, whether it was found in the store or not",
            *(f"{title}: {note}" for title, one in zip(self.titles, reports, strict=True) for note in one.notes),
        ]
        own = report(self, train, val, run, watch.seconds, curve, notes)
        return replace(own, seconds=watch.seconds + math.fsum(one.seconds for one in reports))

    def _fit_members(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> list[FitReport]:
        """Every member fitted, or found fitted, and what its fit reported."""
        if run.fitted_member is not None:
            return [run.fitted_member(member, place) for place, member in enumerate(self.parts)]
        states = FitsInTurn(run, len(self.parts))
        for place, member in enumerate(self.parts):
            if not states.restore(place, member):
                states.finish(place, member, fit_alone(member, train, val, states.fit_of(place)))
        return states.reports

    @torch.no_grad()
    def _draws_of(self, latents: LatentDataset) -> Tensor:
        """Log-densities [N, members] of held-out draws, on the CPU.

        Raises:
            PriorError: no member gives any of them a density above 0.
        """
        most = 1 if latents.is_certain else MOST_REPEATS
        num = affordable(self.num_draws, self)
        repeats = min(most, math.ceil(num / len(latents)))
        rows, device = spread_rows(len(latents), num).repeat(repeats), self.anchor.device
        blocks = [self._log_probs(latents.draw(block).to(device), None).cpu() for block in rows.split(ROWS_AT_ONCE)]
        log_probs = torch.cat(blocks)
        possible = log_probs.amax(1) > -math.inf
        if not possible.any():
            raise PriorError("no held-out latent has a density above 0 under any member; leave some of them out")
        return log_probs[possible]


def fit_weights(log_probs: Tensor) -> tuple[Tensor, list[float]]:
    """Weights [K] with the largest mean of log sum_k w_k p_k over rows of `log_probs` [N, K], float64; and that mean at
    every step of EM, that of equal weights first."""
    num, weights = log_probs.shape[1], torch.full_like(log_probs[0], 1 / log_probs.shape[1])
    means: list[float] = []
    for _ in range(MOST_STEPS):
        joint = weights.log() + log_probs
        means.append(joint.logsumexp(1).mean().item())
        if num == 1 or (len(means) > 1 and means[-1] - means[-2] < TOLERANCE):
            break
        weights = joint.softmax(1).mean(0)
    return weights, means
