"""What annealing found out about images, and how far it is to be trusted; theory: `expost.evaluation.annealing.path`.

Every `*_nats` is a cost, a bound on -log p(x) in nats an image, lower is better, as in `expost.evaluation.bounds`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_DIVERGED_CHAINS = 0.1
MIN_TRUSTED = 0.5
"""With fewer trusted images there is no mean: it would be ranked like any other."""
MIN_ACCEPTANCE, MAX_ACCEPTANCE = 0.3, 0.97
"""An image outside these is not trusted: its chains hardly moved, or hardly went anywhere."""


@dataclass(frozen=True)
class Annealed:
    """What annealing says of N images; float64 [N] on the CPU.

    Attributes:
        num_chains: K.
        nll_nats: upper bound on -log p(x), in expectation; infinite where no chain has a weight.
        ess_share: effective sample size of the weights, (sum w)^2 / sum w^2, over K, in [1/K, 1]; 0 without weights.
        diverged: share of the chains of which more than 5 % of the transitions diverged, or that have no weight.
        acceptance: mean over transitions and chains; None with num_steps=1, which has no transition.
        acceptance_lowest, acceptance_highest: of the tenths of the path.
    """

    num_chains: int
    nll_nats: Tensor
    ess_share: Tensor
    diverged: Tensor
    acceptance: Tensor | None
    acceptance_lowest: Tensor | None
    acceptance_highest: Tensor | None

    @property
    def trusted(self) -> Tensor:
        """Bool [N]: there is a weight, few chains diverged, and mean acceptance is within its bounds."""
        moves = torch.ones_like(self.diverged, dtype=torch.bool)
        if self.acceptance is not None:
            moves = (self.acceptance >= MIN_ACCEPTANCE) & (self.acceptance <= MAX_ACCEPTANCE)
        return torch.isfinite(self.nll_nats) & (self.diverged <= MAX_DIVERGED_CHAINS) & moves

    @property
    def acceptance_range(self) -> tuple[float, float] | None:
        """Lowest and highest over all images and tenths of the path; None without a transition."""
        if self.acceptance_lowest is None or self.acceptance_highest is None:
            return None
        return self.acceptance_lowest.min().item(), self.acceptance_highest.max().item()

    def mean_nats(self) -> float | None:
        """Mean of `nll_nats` over ALL images; None where one has no weight or fewer than half are trusted."""
        usable = bool(torch.isfinite(self.nll_nats).all()) and self.trusted.double().mean().item() >= MIN_TRUSTED
        return self.nll_nats.mean().item() if usable else None

    def notes(self) -> list[str]:
        """What a reader must know, in words; empty where there is nothing."""
        num = len(self.nll_nats)
        weightless = int((~torch.isfinite(self.nll_nats)).sum())
        untrusted = int((~self.trusted).sum())
        diverged = int((self.diverged > 0).sum())
        few = int((self.ess_share * self.num_chains < 2).sum()) if self.num_chains > 1 else 0
        counts = {
            f"no chain of {weightless} of {num} images has a weight: no figure": weightless,
            f"{untrusted} of {num} images are not trusted (acceptance outside {MIN_ACCEPTANCE}-{MAX_ACCEPTANCE}, or "
            f"more than {MAX_DIVERGED_CHAINS:.0%} of the chains diverged); raise num_steps": untrusted,
            f"chains diverged on {diverged} of {num} images; their trajectories were rejected": diverged,
            f"{few} of {num} images rest on fewer than 2 effective chains: their bound may be loose": few,
        }
        return [words for words, count in counts.items() if count]


@dataclass(frozen=True)
class Bidirectional:
    """The two sides of -log p(x) on N images simulated from the model; float64 [N] on the CPU.

    Attributes:
        upper: from annealing forwards; `upper.nll_nats` is above -log p(x) in expectation.
        lower_nats: from annealing backwards, below -log p(x) in expectation; minus infinity where a chain had no
            weight.
    """

    upper: Annealed
    lower_nats: Tensor

    @property
    def gap_nats(self) -> Tensor:
        """upper - lower, [N]: above the error of either, in expectation; chance may make a single one negative."""
        return self.upper.nll_nats - self.lower_nats
