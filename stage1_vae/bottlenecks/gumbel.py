"""Relaxed categorical codes: the discrete VAE of DALL-E (Ramesh et al., "Zero-Shot Text-to-Image Generation", 2021,
section 2.1), by the Gumbel-softmax (Jang, Gu & Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017;
Maddison, Mnih & Teh, "The Concrete Distribution", 2017).

In training q(z|x) is a categorical at each place and the decoder sees a mixture of code vectors, sharper as the
temperature falls along a cosine; the rate is the closed-form KL to uniform codes. Afterwards an image is encoded by
its likeliest codes, as in DALL-E, and that is what stage 2 and the bounds are about: a point mass, whose bound is
valid and a little worse.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.base_priors import UniformCodes
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.codes.maps import code_spec, map_shape, to_map, to_vectors
from stage1_vae.codes.usage import CodeUsage
from stage1_vae.posteriors import CategoricalCodes, Codes


class Gumbel(Bottleneck):
    """Args:
    num_codes: K.
    code_dim: length of a code vector.
    start_temperature, end_temperature: of the relaxation, along a cosine.
    anneal_steps: optimiser steps from the first to the last.

    Raises:
        ValueError: for features that are no map, or a number out of range.
    """

    family = "codes"
    steps: Tensor

    def __init__(
        self,
        features_shape: tuple[int, ...],
        num_codes: int = 256,
        code_dim: int = 64,
        start_temperature: float = 1.0,
        end_temperature: float = 0.0625,
        anneal_steps: int = 5000,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < end_temperature <= start_temperature:
            raise ValueError(
                f"vae.bottleneck: temperatures fall from start_temperature={start_temperature} to "
                f"end_temperature={end_temperature}; give numbers above 0 in that order"
            )
        if min(num_codes, code_dim, anneal_steps) < 1:
            raise ValueError("vae.bottleneck: num_codes, code_dim and anneal_steps must be at least 1")
        channels, self.grid = map_shape(features_shape)
        self.temperatures, self.anneal_steps = (start_temperature, end_temperature), anneal_steps
        self.spec = code_spec((self.grid,), (num_codes,), num_classes)
        self.decoder_shape = (code_dim, *self.grid)
        self.base_prior = UniformCodes(self.spec)
        self.logits = nn.Conv2d(channels, num_codes, kernel_size=1)
        self.vectors = nn.Embedding(num_codes, code_dim)
        self.usage = CodeUsage(num_codes)
        self.register_buffer("steps", torch.zeros(()))  # optimiser steps so far

    def temperature(self) -> Tensor:
        """Of the next training step, []."""
        start, end = self.temperatures
        share = (self.steps / self.anneal_steps).clamp(max=1.0)
        return end + (start - end) * 0.5 * (1 + torch.cos(math.pi * share))

    def forward(self, features: Tensor) -> Encoding:
        logits = to_vectors(self.logits(features).float())  # [B h w, K]
        codes = logits.argmax(1)
        self.usage.add(codes)
        if not self.training:
            return Encoding(Codes(codes.view(len(features), -1)))
        noise = -torch.log(torch.empty_like(logits).exponential_())
        relaxed = F.softmax((logits + noise) / self.temperature(), dim=1)  # [B h w, K]
        self.steps += 1
        embedded = to_map(relaxed @ self.vectors.weight, self.grid)
        return Encoding(CategoricalCodes(logits.view(len(features), -1, logits.shape[1])), embedded=embedded)

    def embed(self, z: Tensor) -> Tensor:
        return to_map(self.vectors(z.flatten()), self.grid)
