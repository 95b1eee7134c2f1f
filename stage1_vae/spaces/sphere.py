"""The power spherical distribution on the unit sphere S^{D-1} of R^D (De Cao & Aziz, "The Power Spherical
distribution", 2020): q(z) is proportional to (1 + m . z)^k, with the mean direction m and the concentration k >= 0.

With a = (D - 1) / 2 + k and b = (D - 1) / 2 (their equations 5 to 9),

    log q(z) = k log((1 + m . z) / 2) - 2 b log 2 - b log pi - log G(a) + log G(a + b),
    E[log((1 + m . z) / 2)] = digamma(a) - digamma(a + b).

They draw the cosine m . z from a beta distribution, and turn the pole to m by a reflection, which is undefined where m
is that pole. Here nothing is turned. The stereographic image of z from the point opposite of m is a Student's t: with a
normal n in the plane tangent at m and w = 2 g, g ~ Gamma(a, 1),

    z = ((w - |n|^2) m + 2 sqrt(w) n) / (w + |n|^2),

because then (1 - m . z) / 2 = |n|^2 / (w + |n|^2) is Beta(b, a), in whatever dimension, and exact near 0 where float32
would have no digits of 1 - t left. What depends on k is g alone, whose gradient is the implicit one of torch (Figurnov,
Mohamed & Mnih, "Implicit Reparameterization Gradients", 2018); what depends on m is how the sphere turns with it.

Densities, entropies and rates are computed in float64: in float32 the terms of the normaliser cancel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Gamma

from stage1_vae.posteriors import Shape, Unchecked

LARGEST_CONCENTRATION = 1e7
"""Where the rounding of m and z to float32 moves log q(z|x) by 8e-5 nats (root mean square, D = 2 to 40); it grows with
the root of k."""
LOG_2, LOG_PI = math.log(2), math.log(math.pi)
NEAREST = 1e-30
"""1 + m . z of a z opposite of m, where the density of k > 0 is zero."""
PROPOSALS = 8
"""Of which one in twenty is refused at most: all of them once in 10^10 draws."""


def log_area(num_dims: int) -> float:
    """Logarithm of the surface of the unit sphere of R^D, 2 pi^(D/2) / G(D/2)."""
    return LOG_2 + num_dims / 2 * LOG_PI - math.lgamma(num_dims / 2)


def log_normaliser(concentration: Tensor, num_dims: int) -> Tensor:
    """log q(m), float64, of the shape of `concentration` k: what log q(z) is beside k log((1 + m . z) / 2)."""
    b = (num_dims - 1) / 2
    a = concentration.double() + b
    return torch.lgamma(a + b) - torch.lgamma(a) - 2 * b * LOG_2 - b * LOG_PI


class PowerSpherical(Unchecked):
    """Over unit vectors.

    Args:
        loc: [B, D] mean directions; their length does not count.
        log_concentration: [B] logarithms of k.
    """

    def __init__(self, loc: Tensor, log_concentration: Tensor) -> None:
        self.loc, self.log_concentration = loc, log_concentration
        self.direction = F.normalize(loc.double(), dim=-1)  # [B, D]
        self.concentration = log_concentration.double().exp()  # [B]
        super().__init__(loc.shape)

    @property
    def num_dims(self) -> int:
        return self.loc.shape[-1]

    @property
    def shapes(self) -> tuple[Tensor, float]:
        """a [B] and b of the beta distribution of (1 + m . z) / 2."""
        b = (self.num_dims - 1) / 2
        return self.concentration + b, b

    @property
    def mean(self) -> Tensor:
        """E[z], [B, D]: inside of the sphere."""
        a, b = self.shapes
        return (self.direction * ((a - b) / (a + b))[:, None]).to(self.loc.dtype)

    @property
    def variance(self) -> Tensor:
        """Of each coordinate, [B, D]."""
        a, b = self.shapes
        along = 4 * a * b / ((a + b).square() * (a + b + 1))  # Var(m . z)
        across = 4 * a * b / ((a + b) * (a + b + 1)) / (self.num_dims - 1)  # of each direction tangent at m
        share = self.direction.square()
        return (along[:, None] * share + across[:, None] * (1 - share)).to(self.loc.dtype)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        noise = torch.randn(*shape, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        gamma = Gamma(self.shapes[0], torch.ones_like(self.concentration), validate_args=False).rsample(shape)
        return self._place(noise.double(), 2 * gamma)

    @torch.no_grad()
    def sample_alike(self, num: int) -> Tensor:
        noise = torch.randn(num, 1, self.num_dims, dtype=torch.float64, device=self.loc.device)
        return self._place(noise, 2 * gamma_alike(self.shapes[0], num))

    def _place(self, noise: Tensor, w: Tensor) -> Tensor:
        """z [..., B, D] of normal noise [..., B, D] and w [..., B]."""
        m = self.direction
        n = (noise - (noise * m).sum(-1, keepdim=True) * m).detach()
        n = n - (n * m).sum(-1, keepdim=True) * m.detach()  # the same; its gradient is that of the turn that moves m
        w, squared = w[..., None], n.square().sum(-1, keepdim=True)
        return (((w - squared) * m + 2 * w.sqrt() * n) / (w + squared)).to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z|x) in nats by surface, [..., B, D] -> [..., B]; the length of z does not count."""
        z = F.normalize(value.double(), dim=-1)
        # From the chord |z - m|, which is short where the density is high: a cosine near 1 has lost its digits there.
        half = (1 - (z - self.direction).square().sum(-1) / 4).clamp_min(NEAREST)  # (1 + m . z) / 2
        nats = self.concentration * half.log() + log_normaliser(self.concentration, self.num_dims)
        return nats.to(value.dtype)

    def entropy(self) -> Tensor:
        """[B] nats, float64."""
        a, b = self.shapes
        mean_log = torch.digamma(a) - torch.digamma(a + b)
        return -(log_normaliser(self.concentration, self.num_dims) + self.concentration * mean_log)


def gamma_alike(shape: Tensor, num: int) -> Tensor:
    """Draws [num, B] of Gamma(shape, 1) for shape [B], all of them from the same noise.

    By Marsaglia & Tsang, "A Simple Method for Generating Gamma Variables", 2000: of a fixed number of proposals, the
    first that is accepted. Their step for shapes below 1 is taken of all, so that one rule holds.
    """
    x = torch.randn(num, 1, PROPOSALS, dtype=shape.dtype, device=shape.device)
    u, boost = torch.rand_like(x), torch.rand_like(x[..., 0])
    d = (shape + 2 / 3)[:, None]  # [B, 1]
    v = (1 + x / (9 * d).sqrt()).clamp_min(0).pow(3)  # [num, B, K]
    accepted = u.log() < 0.5 * x.square() + d - d * v + d * v.log()
    order = torch.arange(PROPOSALS, 0, -1, device=shape.device)
    first = (accepted * order).argmax(-1, keepdim=True)
    return (d * v).gather(-1, first).squeeze(-1) * boost.pow(1 / shape)
