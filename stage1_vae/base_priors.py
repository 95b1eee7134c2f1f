"""Priors that stage 1 trains against: what a bottleneck declares as its `base_prior`."""

import math

import torch
from torch import Tensor, nn

from stage1_vae.posteriors import LOG_2PI


class StandardNormal(nn.Module):
    """N(0, I): the base prior of every Gaussian bottleneck. `shape` is that of one latent event."""

    anchor: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device and the dtype

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[..., *shape] -> [...] nats; `context` is ignored."""
        return -0.5 * (z.square() + LOG_2PI).flatten(-len(self.shape)).sum(-1)

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, *shape]; `context` is ignored."""
        return torch.randn(n, *self.shape, dtype=self.anchor.dtype, device=self.anchor.device)

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.log_prob(z, context)


class UniformCodes(nn.Module):
    """Every code equally likely at every position: the base prior of codes. `sizes` [T] holds the codebook of each."""

    sizes: Tensor

    def __init__(self, sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("sizes", sizes, persistent=False)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[..., T] -> [...] nats; `context` is ignored."""
        return -self.sizes.double().log().sum().float().expand(z.shape[:-1])

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """int64 [n, T]; `context` is ignored."""
        uniform = torch.rand(n, len(self.sizes), device=self.sizes.device)
        return (uniform * self.sizes).long().minimum(self.sizes - 1)

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.log_prob(z, context)


class FairBits(nn.Module):
    """Independent fair bits, z in {0.0, 1.0}^D: the base prior of a Bernoulli bottleneck."""

    anchor: Tensor

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device and the dtype

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """[..., D] -> [...] nats; `context` is ignored."""
        return z.new_full(z.shape[:-1], -self.num_bits * math.log(2))

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """[n, D]; `context` is ignored."""
        return torch.randint(2, (n, self.num_bits), device=self.anchor.device).to(self.anchor.dtype)

    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -self.log_prob(z, context)
