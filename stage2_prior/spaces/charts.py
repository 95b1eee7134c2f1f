"""Charts: bounded spaces laid out as vectors of real numbers, one to one, with the logarithm of the exact Jacobian.

A density p(y) of real numbers is one of z by log p(z) = log p(y(z)) + log |det dy/dz|, by the surface of the sphere or
the volume of the box: the measure of the posteriors and of the base prior, so that all nats of such latents compare.

- Sphere of R^D: y in R^{D-1} points from a centre c to z; its length r belongs to the angle t = arccos(c . z) by
  tan(t / 2) = sinh(r / 2). Near c, r is the angle, and widths stay what they were. At the point opposite of c, which
  alone has no place, r is infinite; where the density of z is finite, that of y falls as exp(-(D - 1) r / 2). The
  stereographic projection, r = 2 tan(t / 2), leaves out one point too, but its tails have no variance for D <= 3.

      |det dz/dy| = (sin(t) / r)^{D-2} / cosh(r / 2)

  Of the uniform density it makes one that is 0.033, 0.036, 0.023 and 0.019 nats from the nearest isotropic normal for
  D = 2, 3, 10 and 40 (by numerical integration): little is left for a prior of real numbers to mend.
- Box [-1, 1]^D: y = sqrt(2) erfinv(z) in each dimension, the quantile of z in N(0, 1). Of the uniform density it makes
  N(0, I) exactly; of a logit it would be the logistic density, whose tails are not those of normals. The walls are
  infinitely far.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WALL = 1 - 2.0**-24
"""The largest float32 below 1, in place of a wall."""
LEAST_SINE = 1e-12
"""In place of that of the point opposite of the centre, and of the centre."""
LOG_2PI = math.log(2 * math.pi)


class Chart(nn.Module, ABC):
    """From latents z [B, D] to vectors y [B, `num_dims`] and back, in float64.

    Attributes:
        num_dims: of y.
        num_parameters: free numbers that are fitted to latents.
    """

    num_dims: int
    num_parameters: int

    @abstractmethod
    def lay_out(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """y [B, `num_dims`] and log |det dy/dz| [B]; minus infinity where z is out of the space."""

    @abstractmethod
    def place(self, y: Tensor) -> Tensor:
        """z [B, D]."""

    @abstractmethod
    def fit(self, mean: Tensor) -> None:
        """Choose where to look from, by the mean of the latents [D]."""


class SphereChart(Chart):
    """About a centre on the unit sphere of R^D, `num_latent_dims`."""

    frame: Tensor

    def __init__(self, num_latent_dims: int) -> None:
        super().__init__()
        self.num_dims = self.num_parameters = num_latent_dims - 1
        self.register_buffer("frame", torch.eye(num_latent_dims, dtype=torch.float64))  # [D, D]; the centre comes first

    def fit(self, mean: Tensor) -> None:
        """The centre is the mean direction, so that the opposite point is where few latents are."""
        centre = mean.to(self.frame)
        length = centre.norm()
        centre = centre / length if length > LEAST_SINE else torch.eye(len(centre)).to(centre)[0]
        turned = centre.clone()
        turned[0] += 1 if centre[0] >= 0 else -1  # of both reflections, the one that never divides by nothing
        frame = torch.eye(len(centre)).to(centre) - 2 * torch.outer(turned, turned) / turned.square().sum()
        frame[:, 0] = centre
        self.frame.copy_(frame)

    def lay_out(self, z: Tensor) -> tuple[Tensor, Tensor]:
        cosine, tangent = (F.normalize(z.double(), dim=1) @ self.frame).split([1, self.num_dims], dim=1)
        squared = tangent.square().sum(1, keepdim=True)
        is_opposite = (squared < LEAST_SINE**2) & (cosine < 0)
        nearby = LEAST_SINE * torch.eye(self.num_dims).to(tangent)[0]
        tangent = torch.where(is_opposite, nearby, tangent)
        sine = squared.clamp_min(LEAST_SINE**2).sqrt()
        # tan(t / 2), from what does not cancel on either side, nor divides by nothing for its gradient on the other
        half = torch.where(cosine >= 0, sine / (1 + cosine.clamp_min(0)), (1 - cosine) / sine)
        ratio = 2 * torch.asinh(half) / sine  # r / sin(t), 1 at the centre
        log_det = 0.5 * half.square().log1p() + (self.num_dims - 1) * ratio.log()
        return ratio * tangent, log_det.squeeze(1)

    def place(self, y: Tensor) -> Tensor:
        y = y.double()
        r = y.square().sum(1, keepdim=True).clamp_min(LEAST_SINE**2).sqrt()
        tanh = torch.tanh(r / 2)
        ratio = 2 * tanh / torch.cosh(r / 2) / r  # sin(t) / r
        return F.normalize(torch.cat([1 - 2 * tanh.square(), ratio * y], dim=1) @ self.frame.T, dim=1)


class BoxChart(Chart):
    """Of [-1, 1]^D, `num_latent_dims`."""

    num_parameters = 0

    def __init__(self, num_latent_dims: int) -> None:
        super().__init__()
        self.num_dims = num_latent_dims

    def fit(self, mean: Tensor) -> None:
        """There is nothing to choose."""

    def lay_out(self, z: Tensor) -> tuple[Tensor, Tensor]:
        inside = z.double().clamp(-WALL, WALL)
        y = math.sqrt(2) * torch.erfinv(inside)
        log_det = (0.5 * (y.square() + LOG_2PI) - math.log(2)).sum(1)
        return y, torch.where((z.abs() <= 1).all(1), log_det, -torch.inf)

    def place(self, y: Tensor) -> Tensor:
        return torch.erf(y.double() / math.sqrt(2)).clamp(-WALL, WALL)
