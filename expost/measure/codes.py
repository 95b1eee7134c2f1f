"""What is counted of the codes themselves: how many are used, how often, and which sequences come again."""

import math
from typing import Any

import torch
from torch import Tensor

from expost.measure.subject import Trained
from stage1_vae.latents import LatentDataset
from stage1_vae.latents.spec import LatentSpec


def code_figures(trained: Trained) -> dict[str, Any]:
    """Plain JSON of codes: `books`, one a map of the sequence (`grid`, `num_codes`, `used_share` and `perplexity` over
    training images, and `counts`, occurrences of each code, most frequent first), and `seen_share`, the share of test
    images whose whole sequence of codes some training image has too."""
    counts = code_counts(trained.train)
    z = trained.test.draw(torch.arange(len(trained.test)))
    seen = torch.isfinite(trained.train.log_aggregate(z))
    books = [_book(each, grid) for each, grid in zip(counts, trained.train.spec.grids, strict=True)]
    return {"books": books, "seen_share": seen.double().mean().item()}


def code_counts(latents: LatentDataset) -> list[Tensor]:
    """How often each code occurs in each map, int64 [K] each."""
    counts = [torch.zeros(size, dtype=torch.int64) for size in latents.spec.num_codes]
    for posterior in latents.blocks():
        for total, codes in zip(counts, maps_of(latents.spec, posterior.sample()), strict=True):
            total += torch.bincount(codes.flatten(), minlength=len(total))
    return counts


def maps_of(spec: LatentSpec, codes: Tensor) -> tuple[Tensor, ...]:
    """The sequence [B, T] as its maps, each [B, h w]."""
    return codes.split([math.prod(grid) for grid in spec.grids], dim=1)


def _book(counts: Tensor, grid: tuple[int, int]) -> dict[str, Any]:
    share = counts.double() / counts.sum()
    return {
        "grid": list(grid),
        "num_codes": len(counts),
        "used_share": (counts > 0).double().mean().item(),
        "perplexity": (-torch.xlogy(share, share).sum()).exp().item(),
        "counts": counts.sort(descending=True).values.tolist(),
    }
