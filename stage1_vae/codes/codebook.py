"""A codebook that learns by moving averages, keeps all of its codes alive and counts how they are used.

Each vector h is replaced by the nearest of K code vectors e_k; the code vectors follow the averages of what is assigned
to them (van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning", 2017, appendix A.1, eq. 6-8):

    N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum_(i: code k) h_i,   e_k = m_k / N_k

Codebooks collapse because a code that nothing is assigned to never moves again. Two cures: a k-means start on the first
batch, and revival: a code whose N_k falls below a share of the average is set on a vector of the batch, *with its
averages*, or the next update would carry it back (Dhariwal et al., "Jukebox", 2020, section 3; Zeghidour et al.,
"SoundStream", 2021, section III-C).

The averages remember 1 / (1 - g) batches: 20 here and 100 in the paper, whose codes an encoder at the rates of today
leaves behind within its first hundred steps (5.9 % of 512 codes used after 12 epochs on the digits, against 97.7 %).

Gradients pass the replacement straight through (e treated as h) or by the rotation trick (Fifty et al., "Restructuring
Vector Quantization with the Rotation Trick", 2024, eq. 4): e = s R h with the scale s and the rotation R held fixed, so
that the gradient turns with the vector.

With several ranks, each sees a share of a batch: counts and sums are of all of them, and where codes start and are
revived is what the first rank says, so that all codebooks stay the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.codes.usage import CodeUsage, EpochFigures
from stage1_vae.ranks import ranks_here
from stage1_vae.statistics import BatchStatistics

LLOYD_ITERATIONS = 10
MOST_DISTANCES = 2**24
"""Held at a time, 64 MiB: those of 128 maps of 32x32 vectors to 8,192 codes are 4 GiB."""
FORGOTTEN = 1e-12
"""Counts up to here have decayed away: they say nothing about where the code belongs, and it stays."""


class Codebook(nn.Module, BatchStatistics, EpochFigures):
    """Args:
        num_codes: K.
        dim: length of a code vector, D.
        decay: g of the averages.
        revive_below: a code with less than this share of the average N_k is dead; 0: none ever is.
        rotation: gradients by the rotation trick instead of straight through.
        name: stands before the figures, where a model has several codebooks.

    Raises:
        ValueError: for a number out of range.
    """

    statistics = ("vectors", "counts", "sums")
    vectors: Tensor
    counts: Tensor
    sums: Tensor
    revived: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        decay: float = 0.95,
        revive_below: float = 0.1,
        rotation: bool = False,
        name: str = "",
    ) -> None:
        super().__init__()
        self.prefix = name and f"{name}_"
        if min(num_codes, dim) < 1:
            raise ValueError(f"vae.bottleneck: {num_codes} codes of {dim} dimensions; give at least 1 of each")
        if not 0 <= decay < 1 or not 0 <= revive_below < 1:
            raise ValueError(
                f"vae.bottleneck.decay={decay}, revive_below={revive_below}: give shares from 0 to below 1"
            )
        self.decay, self.revive_below, self.rotation = decay, revive_below, rotation
        self.register_buffer("vectors", torch.randn(num_codes, dim))  # [K, D]
        self.register_buffer("counts", torch.zeros(num_codes))  # [K] N; all zero before the first batch
        self.register_buffer("sums", torch.zeros(num_codes, dim))  # [K, D] m
        self.register_buffer("revived", torch.zeros(()), persistent=False)  # since it was read last
        self.usage = CodeUsage(num_codes, name)
        self.has_started = False  # in Python: a compiled step cannot ask a tensor which way to go
        self.register_load_state_dict_post_hook(_see_whether_started)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h [N, D] -> codes int64 [N] and what the decoder sees of them [N, D], with a gradient to h."""
        h = h.float()
        if self.training and not self.has_started:
            self._start(h.detach())
            self.has_started = True
        codes = self.nearest(h.detach())
        chosen = self.vectors[codes]
        self.usage.add(codes)
        if self.training:
            self._update(h.detach(), codes)
        return codes, rotate(h, chosen) if self.rotation else h + (chosen - h).detach()

    def nearest(self, h: Tensor) -> Tensor:
        """Codes of the vectors nearest to h [N, D], int64 [N]."""
        rows = max(1, MOST_DISTANCES // len(self.vectors))
        with torch.autocast(h.device.type, enabled=False):  # half precision confuses neighbours
            half_squares = 0.5 * self.vectors.square().sum(1)
            return torch.cat(
                [torch.addmm(half_squares, part, self.vectors.T, alpha=-1).argmin(1) for part in h.split(rows)]
            )

    @torch.no_grad()
    def _start(self, h: Tensor) -> None:
        """k-means on the first batch."""
        if self.counts.any():
            return
        order = torch.randperm(len(h), device=h.device)
        self.vectors.copy_(h[order[torch.arange(len(self.vectors), device=h.device) % len(h)]])
        for _ in range(LLOYD_ITERATIONS):
            count, total = self._assign(h, self.nearest(h))
            empty = count[:, None] == 0
            self.vectors.copy_(torch.where(empty, self._pick_vectors(h), total / count.clamp_min(1)[:, None]))
        ranks = ranks_here()
        self.vectors.copy_(ranks.broadcast(self.vectors))
        self.counts.fill_(ranks.sum(h.new_tensor(len(h))).item() / len(self.counts))
        self.sums.copy_(self.vectors * self.counts[:, None])

    def _assign(self, h: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors each code got, [K], and their sum, [K, D]."""
        count = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(h[:, 0]))
        return count, torch.zeros_like(self.sums).index_add_(0, codes, h)

    def _pick_vectors(self, h: Tensor) -> Tensor:
        """One vector of the batch for each code, at random: [K, D]."""
        return h[torch.randint(len(h), (len(self.vectors),), device=h.device)]

    @torch.no_grad()
    def _update(self, h: Tensor, codes: Tensor) -> None:
        ranks = ranks_here()
        count, total = (ranks.sum(of_this_rank) for of_this_rank in self._assign(h, codes))
        self.counts.lerp_(count, 1 - self.decay)
        self.sums.lerp_(total, 1 - self.decay)
        average = self.counts.mean()
        dead = self.counts < self.revive_below * average  # [K]
        fresh = ranks.broadcast(self._pick_vectors(h))  # [K, D]
        self.counts.copy_(torch.where(dead, average, self.counts))
        self.sums.copy_(torch.where(dead[:, None], fresh * average, self.sums))
        self.settle_statistics()
        self.revived += dead.sum()

    @torch.no_grad()
    def settle_statistics(self) -> None:
        """Code vectors are the means that counts and sums tell of: e_k = m_k / N_k."""
        means = self.sums / self.counts.clamp_min(FORGOTTEN)[:, None]
        self.vectors.copy_(torch.where(self.counts[:, None] > FORGOTTEN, means, self.vectors))

    def read(self) -> dict[str, float]:
        """How many codes were revived."""
        figures = {f"{self.prefix}codes_revived": self.revived.item()}
        self.revived.zero_()
        return figures


def _see_whether_started(codebook: Codebook, keys: object) -> None:
    """As its counts say: they are no longer zero behind the first batch."""
    codebook.has_started = bool(codebook.counts.any())


def rotate(h: Tensor, chosen: Tensor) -> Tensor:
    """`chosen` [N, D] as a scaled rotation of h [N, D], which alone carries the gradient."""
    with torch.no_grad():
        length = h.norm(dim=1, keepdim=True).clamp_min(1e-12)
        start, end = h / length, F.normalize(chosen, dim=1)
        middle = F.normalize(start + end, dim=1)
        scale = chosen.norm(dim=1, keepdim=True) / length
    reflected = h - 2 * (h * middle).sum(1, keepdim=True) * middle
    turned = reflected + 2 * (h * start).sum(1, keepdim=True) * end  # the Householder form of the rotation start -> end
    return scale * turned


def check_weight(commitment: float) -> float:
    """The weight of `squared_distance` in the loss.

    Raises:
        ValueError: it is below zero.
    """
    if commitment < 0:
        raise ValueError(f"vae.bottleneck.commitment must not be negative, got {commitment}")
    return commitment


def squared_distance(h: Tensor, chosen: Tensor, num_images: int) -> Tensor:
    """Of vectors [B h w, D] from their code vectors, summed over places, [B]; with a gradient to `h` alone: what an
    encoder pays for staying near its codes (van den Oord, Vinyals & Kavukcuoglu, 2017, eq. 3, third term)."""
    return (h - chosen.detach()).square().sum(1).view(num_images, -1).sum(1)
