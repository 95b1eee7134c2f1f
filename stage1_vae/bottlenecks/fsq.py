"""Finite scalar quantisation: every place of a feature map becomes a few numbers, each rounded to one of a few levels;
the code is which combination it was (Mentzer, Minnen, Agustsson & Tschannen, "Finite Scalar Quantization: VQ-VAE
Made Simple", 2023). There is no codebook to learn, so none can collapse: the safe default.

Number d goes through the distribution function of the standard normal into L_d bins of equal width and is rounded with
a straight-through gradient. Combinations are counted in mixed radix, the first number fastest. The published bound is a
tanh whose outer levels are half as wide, shifted where L_d is even (ibid., appendix A.1): numbers near zero take
nothing but its middle levels, and large ones nothing but the outer two. Here numbers are standardised over the batch
(see `Projection`), and normal ones take all levels equally often, two of them or eight.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stage1_vae.base_priors import UniformCodes
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.maps import Projection, code_spec, map_shape, to_map
from stage1_vae.codes.usage import CodeUsage
from stage1_vae.posteriors import Codes


class FSQ(Bottleneck):
    """Args:
    levels: levels of each number; their product is the number of codes. [8, 6, 5] is near 2^8, [8, 5, 5, 5] near 2^10.

    Raises:
        ValueError: for features that are no map, or fewer than two levels.
    """

    family = "codes"
    radix: Tensor
    counts: Tensor

    def __init__(
        self, features_shape: tuple[int, ...], levels: Sequence[int] = (8, 6, 5), num_classes: int = 0
    ) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"vae.bottleneck.levels={list(levels)}: give at least one number, each at least 2")
        channels, self.grid = map_shape(features_shape)
        self.spec = code_spec((self.grid,), (math.prod(levels),), num_classes)
        self.decoder_shape = (len(levels), *self.grid)
        self.base_prior = UniformCodes(self.spec)
        self.project = Projection(channels, len(levels))
        self.usage = CodeUsage(math.prod(levels))
        self.register_buffer("counts", torch.tensor(levels), persistent=False)  # [d]
        self.register_buffer("radix", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)  # [d]

    def forward(self, features: Tensor) -> Encoding:
        bounded = self._bound(self.project(features))  # [B h w, d]
        level = bounded.round().clamp_min(0).minimum(self.counts - 1)
        codes = (level.long() * self.radix).sum(1)
        self.usage.add(codes)
        through = self._unit(bounded + (level - bounded).detach())
        return Encoding(Codes(codes.view(len(features), -1)), embedded=to_map(through, self.grid))

    def _bound(self, h: Tensor) -> Tensor:
        """Standardised numbers -> between half a level below the first, 0, and half a level above the last, L - 1."""
        return torch.special.ndtr(h) * self.counts - 0.5

    def _unit(self, level: Tensor) -> Tensor:
        """Levels on the scale from -1 to 1."""
        return 2 * level / (self.counts - 1) - 1

    def embed(self, z: Tensor) -> Tensor:
        return to_map(self._unit(z.flatten()[:, None] // self.radix % self.counts), self.grid)
