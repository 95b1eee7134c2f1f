"""The plane on which latents are shown: their mean, and the two directions in which they vary most."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_EXACT_DIMS = 1024
"""All principal axes of more, of which two are drawn, would take many seconds."""
LEAST, MOST, MARGIN = 0.001, 0.999, 0.08
"""Quantiles of the points that are within the frame on each axis, and the room around them as a share of it."""


@dataclass(frozen=True)
class Plane:
    """The first two principal axes of some latents of D numbers.

    Attributes:
        origin: their mean, float64 [D].
        axes: unit vectors, float64 [2, D]; the second is zero where D is 1.
        shares: of their variance, that of each axis.
    """

    origin: Tensor
    axes: Tensor
    shares: tuple[float, float]

    @classmethod
    def of(cls, z: Tensor) -> "Plane":
        """That of z [N, *latent], all of them finite."""
        flat = z.flatten(1).cpu().double()
        origin = flat.mean(0)
        if flat.shape[1] > MOST_EXACT_DIMS:
            flat = flat if len(flat) > 1 else flat.repeat(2, 1)  # one point alone has no axes, and any will do
            _, scales, directions = torch.pca_lowrank(flat - origin, q=2, center=False, niter=8)
            both = (scales.square() / (flat - origin).square().sum().clamp(min=1e-12)).tolist()
            return cls(origin, directions.T, (both[0], both[1]))
        variances, vectors = torch.linalg.eigh(torch.atleast_2d(torch.cov((flat - origin).T)))
        order = variances.argsort(descending=True)[:2]
        axes = vectors.T[order]  # [2, D]
        shares = [float(v) for v in variances[order] / variances.sum().clamp(min=1e-12)]
        if len(axes) == 1:
            return cls(origin, torch.cat([axes, torch.zeros_like(axes)]), (shares[0], 0.0))
        return cls(origin, axes, (shares[0], shares[1]))

    def project(self, z: Tensor) -> Tensor:
        """Where z [N, *latent] are on the plane: float64 [N, 2]."""
        return (z.flatten(1).cpu().double() - self.origin) @ self.axes.T

    @property
    def titles(self) -> tuple[str, str]:
        """Of both axes; that of one without variance is empty."""
        first, second = self.shares
        return f"principal axis 1 ({first:.0%} of variance)", f"principal axis 2 ({second:.0%})" if second > 0 else ""


def frame_of(points: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest place [2] that a picture of `points` [N, 2] shows: a few strays are left outside."""
    low, high = points.quantile(torch.tensor([LEAST, MOST], dtype=points.dtype), dim=0)
    margin = MARGIN * (high - low) + 1e-6
    return low - margin, high + margin


def finite_rows(z: Tensor) -> Tensor:
    """The rows that can be drawn: a prior that diverged gets an empty picture, and its note, not an exception."""
    return z[torch.isfinite(z.flatten(1)).all(1)]
