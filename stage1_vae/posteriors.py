"""Families of q(z|x).

A posterior is a `torch.distributions.Distribution` over one latent event, with one batch dimension, that can be
rebuilt from its named parameters: `family(**params)`. That is all the door to stage 2 needs to store it.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

LOG_2PI = math.log(2 * math.pi)
Shape = torch.Size | list[int] | tuple[int, ...]
"""What torch takes as a sample shape."""


class DiagonalNormal(Distribution):
    """N(loc, diag(exp(log_std))^2) over events of any shape.

    Args:
        loc: [B, *event] means.
        log_std: [B, *event] logarithms of the standard deviations.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "log_std": constraints.real,
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, log_std: Tensor) -> None:
        self.loc, self.log_std = loc, log_std
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.exp(2 * self.log_std)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        noise = torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.exp(self.log_std) * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats, summed over the event: [..., B, *event] -> [..., B]."""
        scaled = (value - self.loc) * torch.exp(-self.log_std)
        per_dim = -0.5 * (scaled.square() + LOG_2PI) - self.log_std
        return per_dim.flatten(-len(self.event_shape)).sum(-1) if self.event_shape else per_dim


class Delta(Distribution):
    """A point mass at `loc` [B, *event]: the posterior of a deterministic autoencoder. It has no density."""

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.loc)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.loc.expand(*sample_shape, *self.loc.shape)
