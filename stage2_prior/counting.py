"""Priors that are fitted by counting: of discrete latents, in closed form, with nothing to train.

Counts are expectations over q(z|x), in closed form: 1 for the code of a deterministic encoder, the probability of each
value for a bit. The strength of the smoothing is the one under which held-out latents are likeliest.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun, Stopwatch
from stage2_prior.held_out import check_finite, report
from stage2_prior.prior import Exactness, Prior, check_support
from stage2_prior.sampling import CODE_KNOBS, Sampling, code_sizes

ROWS = 4096
STRENGTHS = tuple(4.0**power for power in range(-6, 7))
"""Smoothing that is tried, in counts."""


class CountingPrior(Prior, ABC):
    """A density of codes or bits whose fit is `_count`."""

    log_prob_is = Exactness.EXACT
    knobs = CODE_KNOBS
    log_probs: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        cells = torch.zeros(spec.num_dims, max(code_sizes(spec)), dtype=torch.float64)
        self.register_buffer("log_probs", log_probs_of(cells, 1.0, spec))  # [T, K] of each place by itself

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support(f"{cls.__name__.lower()} counts codes and bits", spec, Support.CODES, Support.BITS)

    @property
    def num_place_parameters(self) -> int:
        """Free numbers of the places by themselves."""
        return sum((where.stop - where.start) * (size - 1) for where, size in places(self.spec))

    @abstractmethod
    def _count(self, train: LatentDataset, val: LatentDataset, seed: int) -> str:
        """Set the buffers by what is in `train`, smoothed as suits `val`; what was chosen, in words for the user."""

    @abstractmethod
    def _draw(self, n: int, how: Sampling) -> list[Tensor]:
        """The codes of each place, int64 [n] each."""

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        z = torch.stack(self._draw(n, how), dim=1)  # [n, T]
        return z.to(self.anchor.dtype) if self.spec.support is Support.BITS else z

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Count `train`; `val` chooses the smoothing.

        Raises:
            PriorError: for latents that are not finite.
        """
        watch = Stopwatch()
        check_finite(train, "training")
        note = self._count(train, val, run.seed)
        return report(self, train, val, run, watch.seconds, notes=[note])


def places(spec: LatentSpec) -> list[tuple[slice, int]]:
    """The places of each map in the sequence, and the size of its codebook; bits are one map."""
    sizes = code_sizes(spec)
    lengths = [h * w for h, w in spec.grids] or [spec.num_dims]
    ends = accumulate(lengths)
    return [(slice(end - length, end), size) for end, length, size in zip(ends, lengths, sizes, strict=True)]


def blocks(latents: LatentDataset) -> Iterator[Tensor]:
    """All latents in order and in blocks: codes, int64 [b, T], or the probabilities of bits being 1, [b, D]."""
    for start in range(0, len(latents), ROWS):
        posterior = latents.posterior(slice(start, min(start + ROWS, len(latents))))
        yield posterior.sample() if latents.spec.support is Support.CODES else posterior.mean


def place_counts(latents: LatentDataset) -> Tensor:
    """Expected number of latents with each code at each place, [T, K] float64; K: of the largest codebook."""
    spec = latents.spec
    num, size = spec.num_dims, max(code_sizes(spec))
    counts = torch.zeros(num, size, dtype=torch.float64)
    for block in blocks(latents):
        if spec.support is Support.BITS:
            ones = block.double().sum(0)  # [D]
            counts += torch.stack([len(block) - ones, ones], dim=1)
        else:
            cells = block + size * torch.arange(num)
            counts += torch.bincount(cells.flatten(), minlength=num * size).view(num, size)
    return counts


def pair_counts(latents: LatentDataset) -> Iterator[Tensor]:
    """Expected number of each pair of neighbours for each map, [1, K, K] float64; of bits for each place, [T, 2, 2]."""
    for where, size in places(latents.spec):
        length = where.stop - where.start
        are_bits = latents.spec.support is Support.BITS
        counts = torch.zeros(length if are_bits else 1, size, size, dtype=torch.float64)
        for block in blocks(latents):
            if are_bits:
                both = torch.stack([1 - block, block], dim=2).double()  # [b, T, 2]
                counts[1:] += torch.einsum("btj,btk->tjk", both[:, :-1], both[:, 1:])
            else:
                cells = size * block[:, where][:, :-1] + block[:, where][:, 1:]
                counts += torch.bincount(cells.flatten(), minlength=size * size).view(1, size, size)
        yield counts


def smoothed_log_probs(counts: Tensor, held_out: Tensor, spec: LatentSpec) -> tuple[Tensor, float]:
    """Counts of training and of held-out latents [T, K] -> `log_probs_of` them, and the count that was added to each
    cell."""
    exists = cells_that_exist(counts, spec)

    def cost(alpha: float) -> float:
        return -torch.where(exists, held_out * log_probs_of(counts, alpha, spec), 0.0).sum().item()

    alpha = min(STRENGTHS, key=cost)
    return log_probs_of(counts, alpha, spec), alpha


def log_probs_of(counts: Tensor, alpha: float, spec: LatentSpec) -> Tensor:
    """Log-probabilities of the codes at each place, [T, K] float64, minus infinity beyond the codebook; each count has
    `alpha` added to it."""
    added = torch.where(cells_that_exist(counts, spec), counts + alpha, 0.0)
    return (added / added.sum(1, keepdim=True)).log()


def cells_that_exist(counts: Tensor, spec: LatentSpec) -> Tensor:
    """Which of [T, K] lie within the codebook of their place."""
    exists = torch.zeros_like(counts, dtype=torch.bool)
    for where, size in places(spec):
        exists[where, :size] = True
    return exists
