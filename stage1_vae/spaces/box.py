"""The normal distribution cut to the box [-1, 1]^D, independent in each dimension.

    q(z) = N(z; m, s^2) / Z on [-1, 1],  Z = (erf((1 - m) / s sqrt(2)) + erf((1 + m) / s sqrt(2))) / 2

Of all densities on the box with its mean and variance it has the most entropy; the uniform density is among its limits
(s to infinity), so a dimension that is not used costs nothing; entropy, and so the rate against the uniform density, is
exact; and log q is linear in (z^2, z, 1), so the aggregate posterior is one matrix product as that of normals is. Of a
beta distribution float32 would lose z near the walls, and a squashed normal or logistic has a rate by sampling alone.

The mode m stays inside of the box: then both terms of Z are positive and nothing cancels, however narrow q is.
Computed in float64, as is the inverse of the distribution function by which z is drawn.
"""

import math

import torch
from torch import Tensor

from stage1_vae.posteriors import LOG_2PI, Shape, Unchecked

ROOT_2 = math.sqrt(2)
WALL = 1 - 2.0**-24
"""The largest float32 below 1: draws stay strictly inside, where every chart is finite."""
LARGEST_ERF = 1 - 2.0**-53


def log_mass(loc: Tensor, log_std: Tensor) -> Tensor:
    """log Z of normals, of the shape of `loc`, float64."""
    root = ROOT_2 * log_std.double().exp()
    return ((torch.erf((1 - loc.double()) / root) + torch.erf((1 + loc.double()) / root)) / 2).log()


class TruncatedNormal(Unchecked):
    """N(loc, exp(log_std)^2) cut to [-1, 1], in each dimension.

    Args:
        loc: [B, *event] modes, in [-1, 1].
        log_std: [B, *event] logarithms of the standard deviations before the cut.
    """

    def __init__(self, loc: Tensor, log_std: Tensor) -> None:
        self.loc, self.log_std = loc, log_std
        super().__init__(loc.shape)

    def _edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mode, standard deviation, and the walls in standard deviations from the mode; [B, *event] float64."""
        loc, std = self.loc.double(), self.log_std.double().exp()
        return loc, std, (-1 - loc) / std, (1 - loc) / std

    @property
    def mean(self) -> Tensor:
        loc, std, low, high = self._edges()
        ratio = (_normal(low) - _normal(high)) / log_mass(self.loc, self.log_std).exp()
        return (loc + std * ratio).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        _, std, low, high = self._edges()
        mass = log_mass(self.loc, self.log_std).exp()
        shift = (_normal(low) - _normal(high)) / mass
        squared = 1 + (low * _normal(low) - high * _normal(high)) / mass - shift.square()
        return (std.square() * squared).to(self.loc.dtype)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = (*sample_shape, *self.loc.shape)
        return self._at(torch.rand(shape, dtype=torch.float64, device=self.loc.device))

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        return self._at(torch.rand(num, 1, *self.event_shape, dtype=torch.float64, device=self.loc.device))

    def _at(self, uniform: Tensor) -> Tensor:
        """z [..., B, *event] at quantiles, by the inverse of the distribution function."""
        loc, std, low, high = self._edges()
        at = torch.lerp(torch.erf(low / ROOT_2), torch.erf(high / ROOT_2), uniform)
        z = loc + ROOT_2 * std * torch.erfinv(at.clamp(-LARGEST_ERF, LARGEST_ERF))
        return z.to(self.loc.dtype).clamp(-WALL, WALL)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats, [..., B, *event] -> [..., B]; minus infinity outside of the box."""
        loc, std, _, _ = self._edges()
        scaled = (value.double() - loc) / std
        per_dim = -0.5 * (scaled.square() + LOG_2PI) - self.log_std.double() - log_mass(self.loc, self.log_std)
        nats = per_dim.flatten(-len(self.event_shape)).sum(-1)
        is_inside = (value.abs() <= 1).flatten(-len(self.event_shape)).all(-1)
        return torch.where(is_inside, nats, -torch.inf).to(value.dtype)

    def entropy_per_dim(self) -> Tensor:
        """[B, *event] nats, float64."""
        _, _, low, high = self._edges()
        log_z = log_mass(self.loc, self.log_std)
        bent = (low * _normal(low) - high * _normal(high)) / (2 * log_z.exp())
        return self.log_std.double() + 0.5 * (1 + LOG_2PI) + log_z + bent


def _normal(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * (x.square() + LOG_2PI))
