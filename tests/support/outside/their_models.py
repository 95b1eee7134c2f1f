"""Small autoencoders as other people write them, for tests: orthogonal maps, which decode what they encode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from stage1_vae.external.autoencoder import External
from stage1_vae.external.module import loaded
from stage1_vae.external.source import ExternalSource, Loaded
from stage1_vae.external.weights import freeze

SIDE = 4
DIM = SIDE * SIDE


def images(num: int = 2, channels: int = 1, side: int = SIDE, seed: int = 0) -> Tensor:
    """[num, channels, side, side] in [0, 1]."""
    return torch.rand(num, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Rotation(nn.Module):
    """One channel of 4x4 pixels, rotated into 16 numbers and back. Subclasses say what `encode` returns of them."""

    def __init__(self) -> None:
        super().__init__()
        matrix = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1))).Q
        self.matrix = nn.Parameter(matrix)

    def rotated(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix

    def encode(self, x: Tensor) -> Any:
        return self.rotated(x)

    def decode(self, z: Tensor) -> Any:
        return (z @ self.matrix.T).view(-1, 1, SIDE, SIDE)


class Codes(nn.Module):
    """Each pixel as one of eight levels, [B, h, w]."""

    num_codes = 8

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Buffer((torch.arange(8) + 0.5) / 8)

    def encode(self, x: Tensor) -> Any:
        return (x[:, 0] * 8).long().clamp(0, 7)

    def decode(self, z: Any) -> Any:
        return self.levels[z][:, None]


class Normals(Rotation):
    """q(z|x) with standard deviations that depend on x: `spread` returns their logarithms."""

    def spread(self, x: Tensor) -> Tensor:
        return self.rotated(x).sin() - 1.0

    def posterior(self, x: Tensor) -> Distribution:
        return Normal(self.rotated(x), self.spread(x).exp())


@dataclass(frozen=True, kw_only=True)
class Given(ExternalSource):
    """A source whose model is there already."""

    model: Any = None

    def load(self) -> Loaded:
        freeze(self.model)
        return loaded(self.model, type(self.model).__name__, [b"source"], ())


def external(model: Any, x: Tensor | None = None, num_classes: int = 0, **keys: Any) -> External:
    """`model` behind our interface, recognised and checked on `x`."""
    source = Given(model=model, **keys)
    return source.autoencoder(source.load(), images() if x is None else x, num_classes)
