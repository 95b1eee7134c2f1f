"""Transformers that have learned nothing, and latents for them, for tests."""

import math
from typing import Any

import torch
from torch import Tensor

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.priors.transformer import Transformer
from stage2_prior.sampling import Sampling

GREEDY = Sampling(temperature=0.0)
SPECS = {
    "two maps": LatentSpec((13,), Support.CODES, ((2, 2), (3, 3)), (5, 7), num_classes=3),
    "long map": LatentSpec((12,), Support.CODES, ((3, 4),), (300,), num_classes=3),
    "map of reals": LatentSpec((3, 2, 4), num_classes=3),
    "vector": LatentSpec((6,), num_classes=3),
    "bits": LatentSpec((9,), Support.BITS, num_classes=3),
}


def make(spec: LatentSpec, positions: str = "learned", conditional: bool = False, **more: Any) -> Transformer:
    """A network that has learned nothing but has opinions: its weights are far larger than at the start."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 32, "depth": 2, "num_heads": 4, "num_components": 4, **more}
    prior = Transformer(spec, positions=positions, conditional=conditional, **sizes).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.shape[1]))
        tokens: Any = prior.tokens
        if hasattr(tokens, "head"):  # real numbers would run away
            tokens.head.weight.mul_(0.3)
        else:
            for head in tokens.heads:
                head.weight.mul_(2.0)
    return prior


def latents(spec: LatentSpec, num: int) -> Tensor:
    if spec.support is Support.CODES:
        sizes = torch.tensor(
            [size for (h, w), size in zip(spec.grids, spec.num_codes, strict=True) for _ in range(h * w)]
        )
        return (torch.rand(num, *spec.shape) * sizes).long()
    return (
        torch.randn(num, *spec.shape) if spec.support is Support.REAL else torch.randint(2, (num, *spec.shape)).float()
    )


SMALL = {
    "two maps": LatentSpec((4,), Support.CODES, ((1, 1), (1, 3)), (2, 3), num_classes=2),
    "one map": LatentSpec((4,), Support.CODES, ((2, 2),), (3,), num_classes=2),
    "bits": LatentSpec((6,), Support.BITS, num_classes=2),
}


def all_sequences(spec: LatentSpec) -> Tensor:
    """[G, T], in lexicographic order."""
    grids = spec.grids or ((1, spec.num_dims),)
    sizes = [size for (h, w), size in zip(grids, spec.num_codes or (2,), strict=True) for _ in range(h * w)]
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes))
