"""Families of q(z|x).

A posterior is a `torch.distributions.Distribution` over one latent event, with one batch dimension, that can be
rebuilt from its named parameters: `family(**params)`. That is all the door to stage 2 needs to store it.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

LOG_2PI = math.log(2 * math.pi)
Shape = torch.Size | list[int] | tuple[int, ...]
"""What torch takes as a sample shape."""


class Unchecked(Distribution):
    """A distribution of one event for each of a batch, [B, *event], that does not validate what it is given."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, shape: torch.Size) -> None:
        super().__init__(shape[:1], shape[1:], validate_args=False)

    def sample_alike(self, num: int) -> Tensor:
        """Draws [num, B, *event] without a gradient, of all of the batch from the same noise.

        What is computed of one of them then depends neither on its place in the batch nor on the others. A family that
        does not say how draws as usual.
        """
        return self.sample([num])


class DiagonalNormal(Unchecked):
    """N(loc, diag(exp(log_std))^2) over events of any shape.

    Args:
        loc: [B, *event] means.
        log_std: [B, *event] logarithms of the standard deviations.
    """

    def __init__(self, loc: Tensor, log_std: Tensor) -> None:
        self.loc, self.log_std = loc, log_std
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.exp(2 * self.log_std)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        noise = torch.randn(*sample_shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.exp(self.log_std) * noise

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        noise = torch.randn(num, 1, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + torch.exp(self.log_std) * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats, summed over the event: [..., B, *event] -> [..., B]."""
        scaled = (value - self.loc) * torch.exp(-self.log_std)
        per_dim = -0.5 * (scaled.square() + LOG_2PI) - self.log_std
        return per_dim.flatten(-len(self.event_shape)).sum(-1) if self.event_shape else per_dim


class Delta(Unchecked):
    """A point mass at `loc` [B, *event]: the posterior of a deterministic autoencoder. It has no density."""

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.loc)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.loc.expand(*sample_shape, *self.loc.shape)

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        return self.rsample([num])


class Draws(Unchecked):
    """Equally likely points [B, *event], a keyword each: draws of a posterior that no few numbers describe.

    What is drawn of it is one of them. It has no density: that of what they were drawn from is not kept.
    """

    def __init__(self, **draws: Tensor) -> None:
        vars(self).update(draws)
        self.points = torch.stack(list(draws.values()))  # [S, B, *event]
        super().__init__(self.points.shape[1:])

    @property
    def mean(self) -> Tensor:
        return self.points.mean(0)

    @property
    def variance(self) -> Tensor:
        """Of what they were drawn from, without bias."""
        return self.points.var(0)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        rows = torch.arange(self.points.shape[1], device=self.points.device)
        which = torch.randint(len(self.points), (*sample_shape, len(rows)), device=rows.device)
        return self.points[which, rows]

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        return self.points[torch.randint(len(self.points), (num,), device=self.points.device)]


class Codes(Unchecked):
    """A point mass at `codes` [B, T], int64: the posterior of a deterministic encoder into codes. It has a mass: 1.

    Its draws carry no gradient: what carries it is `Encoding.embedded`.
    """

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes.long()
        super().__init__(codes.shape)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        return self.codes.expand(*sample_shape, *self.codes.shape)

    def sample_alike(self, num: int) -> Tensor:
        return self.rsample([num])

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), [..., B, T] -> [..., B] nats: 0 at the codes, minus infinity elsewhere."""
        same = (value == self.codes).all(-1)
        return torch.where(same, 0.0, -torch.inf)


class CategoricalCodes(Unchecked):
    """Independent codes: logits [B, T, K]; z is int64 [B, T]. Its draws carry no gradient."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1])

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        log_probs = self.log_probs.detach().expand(*sample_shape, *self.log_probs.shape)
        return (log_probs - torch.empty_like(log_probs).exponential_().log()).argmax(-1)

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        noise = self.log_probs.new_empty(num, 1, *self.log_probs.shape[1:]).exponential_().log()
        return (self.log_probs - noise).argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x), [..., B, T] -> [..., B] nats."""
        chosen = self.log_probs.expand(*value.shape, -1).gather(-1, value.long()[..., None])
        return chosen.squeeze(-1).sum(-1)


class Bits(Unchecked):
    """Independent Bernoulli bits: logits [B, D]; z is 0.0 or 1.0.

    `rsample` is straight through: a hard bit whose gradient is that of its probability (Bengio, Leonard & Courville,
    "Estimating or Propagating Gradients Through Stochastic Neurons", 2013).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        probability = self.logits.sigmoid().expand(*sample_shape, *self.logits.shape)
        bit = (torch.rand_like(probability) < probability).to(probability.dtype)
        return bit + (probability - probability.detach())

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        noise = torch.rand(num, 1, *self.event_shape, dtype=self.logits.dtype, device=self.logits.device)
        return (noise < self.logits.sigmoid()).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats, summed over the bits: [..., B, D] -> [..., B]."""
        return (value * self.logits - F.softplus(self.logits)).sum(-1)
