"""How often each code comes at each place, and how much to distrust it: what priors by counting share.

Counts are expectations over q(z|x), in closed form: 1 for the code of a deterministic encoder, the probability of each
value for a bit. The strength of the smoothing is the one under which held-out latents are likeliest.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate

import torch
from torch import Tensor

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.sampling import code_sizes

ROWS = 4096
STRENGTHS = tuple(4.0**power for power in range(-6, 7))
"""Smoothing that is tried, in counts."""


def check_discrete(name: str, spec: LatentSpec) -> str | None:
    """The common answer of priors by counting."""
    if spec.support in (Support.CODES, Support.BITS):
        return None
    return f"{name} counts codes and bits; these latents are {spec.support.value}"


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
                each = torch.stack([1 - block, block], dim=2).double()  # [b, T, 2]
                counts[1:] += torch.einsum("btj,btk->tjk", each[:, :-1], each[:, 1:])
            else:
                cells = size * block[:, where][:, :-1] + block[:, where][:, 1:]
                counts += torch.bincount(cells.flatten(), minlength=size * size).view(1, size, size)
        yield counts


def existing(spec: LatentSpec) -> Tensor:
    """Which codes the codebook of each place has, bool [T, K]; K: of the largest."""
    exists = torch.zeros(spec.num_dims, max(code_sizes(spec)), dtype=torch.bool)
    for where, size in places(spec):
        exists[where, :size] = True
    return exists


def uniform_log_probs(spec: LatentSpec) -> Tensor:
    """What is known before anything is counted: all codes of a place equally likely, [T, K] float64."""
    exists = existing(spec).double()
    return (exists / exists.sum(1, keepdim=True)).log()


def smoothed_log_probs(counts: Tensor, held_out: Tensor, spec: LatentSpec) -> tuple[Tensor, float]:
    """Counts of training and of held-out latents [T, K] -> log-probabilities of the codes at each place, [T, K]
    float64 with minus infinity beyond the codebook; and the count that was added to each cell."""
    exists = existing(spec).to(counts.device)

    def log_probs(alpha: float) -> Tensor:
        added = torch.where(exists, counts + alpha, 0.0)
        return (added / added.sum(1, keepdim=True)).log()

    def cost(alpha: float) -> float:
        return -torch.where(exists, held_out * log_probs(alpha), 0.0).sum().item()

    alpha = best_strength(cost)
    return log_probs(alpha), alpha


def best_strength(cost: Callable[[float], float]) -> float:
    """The strength of smoothing that costs held-out latents least."""
    return min(STRENGTHS, key=cost)
