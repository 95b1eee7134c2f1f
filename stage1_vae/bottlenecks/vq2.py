"""Two levels of codes, coarse shapes and fine detail (Razavi, van den Oord & Vinyals, "Generating Diverse
High-Fidelity Images with VQ-VAE-2", 2019, section 3.1 and algorithm 1).

The net's features are the fine level; here they are halved once more for the coarse one. The coarse codes are decoded
back to the fine grid and condition the fine codes; the decoder sees both. The sequence of codes is coarse first, so
that one autoregressive prior models p(top) p(bottom | top).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.base_priors import UniformCodes
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.codebook import Codebook, check_weight, squared_distance
from stage1_vae.codes.maps import Projection, code_spec, map_shape, to_map
from stage1_vae.nets.products import Convolution
from stage1_vae.posteriors import Codes


class VQ2(Bottleneck):
    """Args:
    features_shape: (C, h, w) of the encoder's features: the bottom grid; the top one is half of it, rounded up.
    num_codes: of each of the two codebooks.
    code_dim, commitment, decay, revive_below, rotation: of each, as in `VQ`.

    Raises:
        ValueError: for features that are no map, or a number out of range.
    """

    version = 2
    family = "codes"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        num_codes: int = 512,
        code_dim: int = 64,
        commitment: float = 0.25,
        decay: float = 0.95,
        revive_below: float = 0.1,
        rotation: bool = False,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.commitment = check_weight(commitment)
        channels, self.bottom = map_shape(features_shape)
        self.top = (-(-self.bottom[0] // 2), -(-self.bottom[1] // 2))
        self.spec = code_spec((self.top, self.bottom), (num_codes, num_codes), num_classes)
        self.decoder_shape = (2 * code_dim, *self.bottom)
        self.base_prior = UniformCodes(self.spec)
        self.halve = nn.Sequential(
            Convolution(channels, channels, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            Projection(channels, code_dim, kernel_size=3),
        )
        self.refine = nn.Conv2d(code_dim, code_dim, kernel_size=3, padding=1)
        self.project = Projection(channels + code_dim, code_dim)
        self.top_book, self.bottom_book = (
            Codebook(num_codes, code_dim, decay, revive_below, rotation, name) for name in ("top", "bottom")
        )

    def forward(self, features: Tensor) -> Encoding:
        h_top = self.halve(features)  # [B h' w', D]
        top, chosen_top = self.top_book(h_top)
        up = self._up(to_map(chosen_top, self.top))  # [B, D, h, w]
        h_bottom = self.project(torch.cat([features, up.to(features.dtype)], 1))  # [B h w, D]
        bottom, chosen_bottom = self.bottom_book(h_bottom)
        num = len(features)
        distance = squared_distance(h_top, chosen_top, num) + squared_distance(h_bottom, chosen_bottom, num)  # [B]
        codes = torch.cat([top.view(num, -1), bottom.view(num, -1)], 1)
        embedded = torch.cat([up, to_map(chosen_bottom, self.bottom)], 1)
        return Encoding(Codes(codes), self.commitment * distance, embedded)

    def _up(self, top: Tensor) -> Tensor:
        """The coarse level on the fine grid: [B, D, h', w'] -> [B, D, h, w]."""
        return self.refine(F.interpolate(top, self.bottom, mode="nearest"))

    def embed(self, z: Tensor) -> Tensor:
        num_top = self.top[0] * self.top[1]
        top = to_map(self.top_book.vectors[z[:, :num_top].flatten()], self.top)
        bottom = to_map(self.bottom_book.vectors[z[:, num_top:].flatten()], self.bottom)
        return torch.cat([self._up(top), bottom], 1)
