"""How many of its codes a discrete bottleneck really uses, counted over a whole epoch and not over one batch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stage1_vae.ranks import ranks_here

COLLAPSED = 0.1
"""Below this share of used codes the codebook has collapsed: the latents then carry a fraction of what was paid for."""


def collapse(figures: Mapping[str, float]) -> list[str]:
    """What the user should know of the last epoch's `figures`, in words: one line a codebook that has collapsed."""
    used = {name.removesuffix("codes_used"): value for name, value in figures.items() if name.endswith("codes_used")}
    return [
        f"the {name.replace('_', ' ')}codebook has collapsed: {share:.1%} of its codes are used; try vae=fsq, "
        "fewer codes, or a larger vae.bottleneck.revive_below"
        for name, share in used.items()
        if share < COLLAPSED
    ]


class EpochFigures(ABC):
    """A module inside the model that counts through an epoch, and has something to say at its end beside the loss."""

    @abstractmethod
    def read(self) -> dict[str, float]:
        """The figures since they were read last, by name; counting starts anew. Empty: nothing was counted."""


class CodeUsage(nn.Module, EpochFigures):
    """Counts codes while the module trains.

    Args:
        num_codes: K.
        name: stands before the figures, where a model has several codebooks.
    """

    counts: Tensor

    def __init__(self, num_codes: int, name: str = "") -> None:
        super().__init__()
        self.prefix = name and f"{name}_"
        nothing = torch.zeros(num_codes, dtype=torch.int64)  # [K] since they were read last
        self.register_buffer("counts", nothing, persistent=False)

    @torch.no_grad()
    def add(self, codes: Tensor) -> None:
        """Count `codes` of any shape, in training alone."""
        if self.training:
            flat = codes.flatten()
            self.counts.index_add_(0, flat, torch.ones_like(flat))

    def read(self) -> dict[str, float]:
        """Share of codes used, and perplexity exp(H) of their frequencies, in codes."""
        counts = ranks_here().sum(self.counts.clone())
        total = counts.sum()
        if total == 0:
            return {}
        share = counts.double() / total
        entropy = -torch.xlogy(share, share).sum()
        used = (counts > 0).double().mean()
        self.counts.zero_()
        return {f"{self.prefix}codes_used": used.item(), f"{self.prefix}code_perplexity": entropy.exp().item()}
