"""Codes by the code before: p(z) = prod_t p_t(z_t | z_(t-1)), in the order of each map; a map's first code by itself.

One table of pairs a codebook serves all places of its map: a table a place would have more cells than there are codes
to count. Where a code was rarely seen it falls back on what is frequent at the place (MacKay & Peto, "A Hierarchical
Dirichlet Language Model", 1995, equation 22), with n counts of pairs and u_t the unigram of the place,

    p_t(c | b) = (n(b, c) + m u_t(c)) / (n(b) + m),

m by held-out likelihood. Bits, whose pairs have four cells and no common meaning, have a table a place.
"""

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.counting import (
    STRENGTHS,
    CountingPrior,
    pair_counts,
    place_counts,
    places,
    smoothed_log_probs,
)
from stage2_prior.held_out import mean_nll_nats
from stage2_prior.sampling import Sampling, code_sizes, draw_categorical

MOST_CODES = 4096
"""The table of pairs holds the square of it."""


class Bigram(CountingPrior):
    """Pairs of neighbours, for codes and bits."""

    strength: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__(spec)
        self.register_buffer("strength", torch.ones((), dtype=torch.float64))  # m
        for i, (where, size) in enumerate(places(spec)):
            tables = where.stop - where.start if spec.support is Support.BITS else 1
            self.register_buffer(f"pairs_{i}", torch.zeros(tables, size, size))  # [1 or T, K, K] before, after

    @property
    def num_parameters(self) -> int:
        return self.num_place_parameters + sum(table.numel() - table[..., 0].numel() for table in self._tables())

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if (most := max(code_sizes(spec), default=0)) > MOST_CODES:
            return f"bigram keeps a table of all pairs of codes, and {most} are too many (at most {MOST_CODES})"
        return super().check(spec)

    def _tables(self) -> list[Tensor]:
        return [self.get_buffer(f"pairs_{i}") for i in range(len(places(self.spec)))]

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        z = z.long()
        place = torch.arange(self.spec.num_dims, device=z.device)
        alone = self.log_probs[place, z]  # [B, T]
        total = alone.new_zeros(len(z))
        for (where, _), table in zip(places(self.spec), self._tables(), strict=True):
            together, before = pair_counts_at(table, z[:, where])
            unigram = alone[:, where]
            pairs = (together + self.strength * unigram[:, 1:].exp()) / (before + self.strength)
            total += unigram[:, 0] + pairs.log().sum(1)
        return total.float()

    def _draw(self, n: int, how: Sampling) -> list[Tensor]:
        drawn: list[Tensor] = []
        for (where, size), table in zip(places(self.spec), self._tables(), strict=True):
            for t in range(where.start, where.stop):
                alone = self.log_probs[t, :size].exp()
                if t == where.start:
                    weights = alone.expand(n, -1)
                else:
                    weights = table[(t - where.start) % len(table)][drawn[-1]] + self.strength * alone  # [n, K]
                drawn.append(draw_categorical(weights.log(), how))
        return drawn

    def _count(self, train: LatentDataset, val: LatentDataset, seed: int) -> str:
        self.log_probs.copy_(smoothed_log_probs(place_counts(train), place_counts(val), self.spec)[0])
        for table, counted in zip(self._tables(), pair_counts(train), strict=True):
            table.copy_(counted)
        self.strength.fill_(min(STRENGTHS, key=lambda strength: self._cost(val, strength, seed)))
        return f"pairs fall back on single codes as if {self.strength.item():g} had been seen"

    def _cost(self, latents: LatentDataset, strength: float, seed: int) -> float:
        """Mean -log p(z) in nats under that smoothing, of the same draws each time."""
        self.strength.fill_(strength)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return mean_nll_nats(self, latents)


def pair_counts_at(table: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of the pairs in z [B, t], and of the first of each pair: [B, t - 1] each, float64."""
    before, after = z[:, :-1], z[:, 1:]
    which = torch.arange(1, z.shape[1], device=z.device) % len(table)
    return table[which, before, after].double(), table.double().sum(-1)[which, before]
