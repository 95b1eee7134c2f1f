"""Priors that stage 1 trains against: what a bottleneck declares as its `base_prior`."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vae.latents.spec import LatentSpec
from stage1_vae.posteriors import LOG_2PI
from stage1_vae.spaces.box import WALL
from stage1_vae.spaces.sphere import log_area


class BasePrior(nn.Module, ABC):
    """A density without parameters to learn; `context` is ignored throughout."""

    anchor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device and the dtype

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[..., *shape] -> [...] nats."""

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.log_prob(z, context)


class StandardNormal(BasePrior):
    """N(0, I): the base prior of every Gaussian bottleneck. `shape` is that of one latent event."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -0.5 * (z.square() + LOG_2PI).flatten(-len(self.shape)).sum(-1)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, *shape]."""
        return torch.randn(n, *self.shape, dtype=self.anchor.dtype, device=self.anchor.device)


class UniformCodes(BasePrior):
    """Every code of `spec` equally likely at every position. `sizes` [T] holds the codebook of each."""

    sizes: Tensor

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        lengths = torch.tensor([math.prod(grid) for grid in spec.grids])
        num = spec.num_dims  # as `meta` must know
        sizes = torch.repeat_interleave(torch.tensor(spec.num_codes), lengths, output_size=num)
        self.register_buffer("sizes", sizes, persistent=False)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.sizes.double().log().sum().float().expand(z.shape[:-1])

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """int64 [n, T]."""
        uniform = torch.rand(n, len(self.sizes), device=self.sizes.device)
        return (uniform * self.sizes).long().minimum(self.sizes - 1)


class FairBits(BasePrior):
    """Independent fair bits, z in {0.0, 1.0}^D: the base prior of a Bernoulli bottleneck."""

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        self.num_bits = num_bits

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.new_full(z.shape[:-1], -self.num_bits * math.log(2))

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, D]."""
        return torch.randint(2, (n, self.num_bits), device=self.anchor.device).to(self.anchor.dtype)


class UniformSphere(BasePrior):
    """Uniform on the unit sphere of R^D, a density by surface: the base prior of a hyperspherical bottleneck."""

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.num_dims = num_dims

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.new_full(z.shape[:-1], -log_area(self.num_dims))

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, D]."""
        return F.normalize(torch.randn(n, self.num_dims, dtype=self.anchor.dtype, device=self.anchor.device), dim=1)


class UniformBox(BasePrior):
    """Uniform on [-1, 1]^D: the base prior of a box bottleneck."""

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.num_dims = num_dims

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        inside = z.new_full(z.shape[:-1], -self.num_dims * math.log(2))
        return torch.where((z.abs() <= 1).all(-1), inside, -torch.inf)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, D]."""
        uniform = torch.rand(n, self.num_dims, dtype=self.anchor.dtype, device=self.anchor.device)
        return (2 * uniform - 1).clamp(-WALL, WALL)
