"""Codes by themselves: p(z) = prod_t p_t(z_t), each place with the frequencies of its own codes.

The floor under learned priors of codes: one that does not beat it has learned nothing of how codes go together.
Frequencies are counted in one pass and smoothed by adding a constant to each count (Laplace's rule, its constant by
held-out likelihood), so that no code has probability zero.
"""

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset
from stage2_prior.counting import CountingPrior, place_counts, smoothed_log_probs
from stage2_prior.sampling import Sampling, draw_categorical


class Unigram(CountingPrior):
    """Independent places, for codes and bits."""

    @property
    def num_parameters(self) -> int:
        return self.num_place_parameters

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        place = torch.arange(self.spec.num_dims, device=z.device)
        return self.log_probs[place, z.long()].sum(1).float()

    def _draw(self, n: int, how: Sampling) -> list[Tensor]:
        return [draw_categorical(log_probs.expand(n, -1), how) for log_probs in self.log_probs]

    def _count(self, train: LatentDataset, val: LatentDataset, seed: int) -> str:
        log_probs, alpha = smoothed_log_probs(place_counts(train), place_counts(val), self.spec)
        self.log_probs.copy_(log_probs)
        return f"every count was raised by {alpha:g}"
