"""Points of the plane from a known density, as images of shape (1, 1, 2): what priors are tried on by eye.

A ring with centre c, radius r and width s has the density exp(-(|x - c| - r)^2 / 2 s^2) / Z: a normal law of the
distance from the circle, with

    Z = 2 pi int_0^inf rho exp(-(rho - r)^2 / 2 s^2) d rho
      = 2 pi [s^2 exp(-r^2 / 2 s^2) + r s sqrt(2 pi) Phi(r / s)],

by the substitution rho = r + s t, so log p(x) of a mixture of rings is exact. The integral up to a distance, over the
whole, is the distribution function of the distance from the centre; draws invert it by bisection, to the last bits of
float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stage1_vae.data.images import DataError, Domain, ImageData, InMemory, Source, fingerprint

REACH = 12.0
"""Widths beyond the radius where the distribution function of the distance is 1 in float64."""


@dataclass(frozen=True)
class RingsDensity:
    """A mixture of rings; computed in float64.

    Attributes:
        centres: [K, 2].
        radii, widths: [K].
        log_weights: [K], of a distribution.
    """

    centres: Tensor
    radii: Tensor
    widths: Tensor
    log_weights: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """x [B, 1, 1, 2] -> log p(x), exact, [B] nats."""
        points = x.double().flatten(1)[:, None]  # [B, 1, 2]
        distance = torch.linalg.vector_norm(points - self.centres.to(x.device), dim=-1)  # [B, K]
        scaled = (distance - self.radii.to(x.device)) / self.widths.to(x.device)
        log_ring = self.log_weights.to(x.device) - self.log_normaliser().to(x.device)
        return torch.logsumexp(log_ring - 0.5 * scaled.square(), dim=1)

    def log_normaliser(self) -> Tensor:
        """log Z of each ring, [K]."""
        return torch.log(2 * math.pi * self._mass_within(torch.full_like(self.radii, math.inf)))

    def _mass_within(self, distance: Tensor) -> Tensor:
        """int_0^distance rho exp(-(rho - r)^2 / 2 s^2) d rho of each ring: [..., K] -> [..., K]."""
        r, s = self.radii, self.widths
        at_centre, at_distance = -r / s, (distance - r) / s
        bell = torch.exp(-0.5 * at_centre.square()) - torch.exp(-0.5 * at_distance.square())
        share = torch.special.ndtr(at_distance) - torch.special.ndtr(at_centre)
        return s.square() * bell + r * s * math.sqrt(2 * math.pi) * share

    def points(self, num: int, random: np.random.RandomState) -> Tensor:
        """`num` draws, [num, 2] float64."""
        which, distance, turn = torch.from_numpy(random.random_sample((3, num)))  # [num] each, uniform
        ring = torch.searchsorted(self.log_weights.exp().cumsum(0), which).clamp(max=len(self.radii) - 1)  # [num]
        rings = RingsDensity(self.centres[ring], self.radii[ring], self.widths[ring], self.log_weights[ring])
        mass = distance * rings._mass_within(torch.full_like(rings.radii, math.inf))
        low = torch.zeros_like(mass)
        high = rings.radii + REACH * rings.widths
        for _ in range(60):
            middle = 0.5 * (low + high)
            is_below = rings._mass_within(middle) < mass
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        angle = 2 * math.pi * turn
        return rings.centres + high[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


@dataclass(frozen=True)
class MixtureRings(Source):
    """Points from a mixture of rings, in three splits drawn independently.

    Args:
        centres: [x,y] of each ring.
        radii: of each ring.
        widths: standard deviation across each ring.
        weights: share of each ring, in any unit.
        num_train, num_val, num_test: points a split.
        seed: of the points; the seeds of a run do not change the data.

    Raises:
        DataError: lists that describe no density.
    """

    centres: Sequence[Sequence[float]] = ((-1.4, -0.3), (0.0, 0.3), (1.4, -0.3))
    radii: Sequence[float] = (1.0, 1.0, 1.0)
    widths: Sequence[float] = (0.1, 0.1, 0.1)
    weights: Sequence[float] = (1.0, 1.0, 1.0)
    num_train: int = 20000
    num_val: int = 2000
    num_test: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.radii or len({len(self.centres), len(self.radii), len(self.widths), len(self.weights)}) != 1:
            raise DataError("data.centres, data.radii, data.widths and data.weights must be lists of one length")
        if any(len(centre) != 2 for centre in self.centres):
            raise DataError("data.centres: give two numbers a ring, such as [[-1,0],[1,0]]")
        if min(self.radii) < 0 or min(self.widths) <= 0 or min(self.weights) <= 0:
            raise DataError("data.radii must not be negative, and data.widths and data.weights must be positive")
        if min(self.num_train, self.num_val, self.num_test) < 2:
            raise DataError("data.num_train, data.num_val and data.num_test must be at least 2")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"data.seed={self.seed}: give a whole number from 0 to 2^32 - 1")

    def density(self) -> RingsDensity:
        centres, radii, widths, weights = (
            torch.tensor(numbers, dtype=torch.float64)
            for numbers in (self.centres, self.radii, self.widths, self.weights)
        )
        return RingsDensity(centres, radii, widths, torch.log(weights / weights.sum()))

    def images(self, num: int, stream: int) -> Tensor:
        """`num` points, float32 [num, 1, 1, 2]; another `stream` gives others."""
        random = np.random.RandomState([self.seed, stream])  # its stream is frozen, unlike those of newer generators
        return self.density().points(num, random).float().view(num, 1, 1, 2)

    def load(self) -> ImageData:
        counts = (self.num_train, self.num_val, self.num_test)
        splits = (InMemory(self.images(num, stream)) for stream, num in enumerate(counts, start=1))
        return ImageData(
            "mixture_rings",
            *splits,
            shape=(1, 1, 2),
            domain=Domain.REAL,
            # The recipe and not the points: two machines may differ in the last bit of a logarithm.
            fingerprint=fingerprint(("mixture_rings", str(self.version), repr(self))),
            density=self.density(),
        )
