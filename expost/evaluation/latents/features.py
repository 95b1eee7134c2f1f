"""Latents as feature vectors, so that what is measured between images can be measured between latents too.

Every dimension is taken in units of its standard deviation over the training set: a Frechet distance, or a nearest
neighbour, must not hang on whether a latent is kept in units of 1e-3 or of 1e3. A dimension that never varies has no
such unit; it is left out and counted.

A covariance needs at least twice as many vectors as dimensions, so latents of many dimensions are projected onto a few
orthonormal directions, drawn once and for all. A projection keeps what the density is like along those directions, and
distances between vectors in the mean (Johnson & Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space",
1984): it may overlook a difference, and invents none.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from expost.evaluation.errors import EvaluationError

MOST_DIMS = 256
SEED = 0


@dataclass(frozen=True)
class LatentFeatures:
    """Attributes:
    centre, scale: of the training latents, float64 [D].
    varies: dimensions that do, bool [D]; V of them.
    basis: orthonormal columns, float64 [V, F]; None where all V are looked at.
    """

    centre: Tensor
    scale: Tensor
    varies: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, blocks: Iterable[Tensor], most: int = MOST_DIMS) -> "LatentFeatures":
        """From training latents [n, *latent] in blocks; `most`: dimensions of the features.

        Raises:
            EvaluationError: there are fewer than two latents, one is not finite, or all are the same.
        """
        num, shift, total, squares, low, high = 0, *(torch.zeros(0),) * 5
        for block in blocks:
            z = block.flatten(1).double()  # [n, D]
            if num == 0:
                shift, low, high = z.mean(0), z.amin(0), z.amax(0)  # near the mean: nothing large cancels
                total, squares = torch.zeros_like(shift), torch.zeros_like(shift)
            num += len(z)
            low, high = torch.minimum(low, z.amin(0)), torch.maximum(high, z.amax(0))
            z -= shift
            total += z.sum(0)
            squares += z.square().sum(0)
        if num < 2:
            raise EvaluationError("distances between latents need at least two training latents")
        if not torch.isfinite(squares).all():
            raise EvaluationError("training latents hold NaN or infinity")
        mean = total / num
        scale = (squares / num - mean.square()).clamp(min=0).sqrt()
        # up to the rounding of float32, and of sums in float64
        varies = high - low > 8 * torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs())
        varies &= scale > 0
        if not varies.any():
            raise EvaluationError("the latents never vary: all training latents are the same")
        num_dims, basis = int(varies.sum()), None
        if num_dims > most:
            drawn = torch.randn(num_dims, most, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
            basis = torch.linalg.qr(drawn).Q.to(shift.device)
        return cls(shift + mean, scale, varies, basis)

    @torch.no_grad()
    def extract(self, z: Tensor) -> Tensor:
        """z [n, *latent] as float32 [n, F], on its own device."""
        where = (z.device, torch.float64)
        centred = z.flatten(1)[:, self.varies.to(z.device)].double() - self.centre[self.varies].to(*where)
        vectors = centred / self.scale[self.varies].to(*where)
        return (vectors if self.basis is None else vectors @ self.basis.to(*where)).float()

    @property
    def num_constant(self) -> int:
        """Dimensions that never vary."""
        return int((~self.varies).sum())

    @property
    def description(self) -> str:
        """What distances are measured on, in words."""
        num = int(self.varies.sum())
        words = f"latents in units of their training standard deviations, {num:,} dimension{'s' * (num > 1)}"
        if self.num_constant:
            verb = "never varies and is" if self.num_constant == 1 else "never vary and are"
            words += f" ({self.num_constant:,} more {verb} left out)"
        if self.basis is None:
            return words
        return (
            f"{words}, projected onto {self.basis.shape[1]} orthonormal directions that are random and always the same"
        )
