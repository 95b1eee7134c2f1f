"""Residual vector quantisation: one codebook after another, each for what the ones before have left over (Zeghidour et
al., "SoundStream", 2021, algorithm 1; Lee et al., "Autoregressive Image Generation using Residual Quantization",
2022). The maps of codes are laid end to end, coarse first, so that a prior models p(first) p(second | first) ...
"""

import torch
from torch import Tensor, nn

from stage1_vae.base_priors import UniformCodes
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.codebook import Codebook, check_weight, squared_distance
from stage1_vae.codes.maps import Projection, code_spec, map_shape, to_map
from stage1_vae.posteriors import Codes

MOST_QUANTIZERS = 256
"""Each adds a map to the sequence; no published model has more than 80, and a slip of the key is no memory."""


class ResidualVQ(Bottleneck):
    """Args:
    num_quantizers: codebooks, one after another.
    num_codes: of each.
    code_dim, commitment, decay, revive_below: of each, as in `VQ`.

    Raises:
        ValueError: for features that are no map, or a number out of range.
    """

    version = 2
    family = "codes"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        num_quantizers: int = 4,
        num_codes: int = 256,
        code_dim: int = 64,
        commitment: float = 0.25,
        decay: float = 0.95,
        revive_below: float = 0.1,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= num_quantizers <= MOST_QUANTIZERS:
            raise ValueError(
                f"vae.bottleneck.num_quantizers={num_quantizers}: each is a codebook of its own; give 1 to "
                f"{MOST_QUANTIZERS}"
            )
        self.commitment = check_weight(commitment)
        channels, self.grid = map_shape(features_shape)
        self.spec = code_spec((self.grid,) * num_quantizers, (num_codes,) * num_quantizers, num_classes)
        self.decoder_shape = (code_dim, *self.grid)
        self.base_prior = UniformCodes(self.spec)
        self.project = Projection(channels, code_dim)
        self.codebooks = nn.ModuleList(
            Codebook(num_codes, code_dim, decay, revive_below, name=f"level{n}") for n in range(num_quantizers)
        )

    def forward(self, features: Tensor) -> Encoding:
        h = self.project(features)  # [B h w, D]
        left, total = h, torch.zeros_like(h)
        distance = h.new_zeros(len(features))
        codes = []
        for codebook in self.books():
            code, chosen = codebook(left)
            codes.append(code.view(len(features), -1))
            distance = distance + squared_distance(left, chosen, len(features))
            left, total = left - chosen.detach(), total + chosen
        through = h + (total - h).detach()  # one gradient, however many codebooks
        return Encoding(Codes(torch.cat(codes, 1)), self.commitment * distance, to_map(through, self.grid))

    def books(self) -> list[Codebook]:
        return [book for book in self.codebooks if isinstance(book, Codebook)]

    def embed(self, z: Tensor) -> Tensor:
        levels = z.reshape(len(z), len(self.codebooks), -1).unbind(1)  # [B, h w] each
        vectors = [book.vectors[code.flatten()] for book, code in zip(self.books(), levels, strict=True)]
        return to_map(torch.stack(vectors).sum(0), self.grid)
