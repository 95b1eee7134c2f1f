"""Whitening by wrapping: point latents in the coordinates in which their Gaussian is N(0, I).

u = L^-1 (z - shift) / unit, with L the Cholesky factor of the correlations, so that log p(z) = log p_u(u) - log|L| -
sum_d log unit_d. A network that begins near N(0, I) then begins at the Gaussian of the latents, and has to learn only
what is not Gaussian. It is for points: of a posterior with widths, N(m, diag(s^2)), a rotation would leave no diagonal.
Those, and maps, are standardised alone, as `standardize` does; and so are points whose columns hardly go together,
since a rotation smears what each column has by itself (exact zeros, whole numbers).
"""

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import DerivedColumn, LatentDataset
from stage1_vae.rows import spread_rows
from stage2_prior.em.covariances import cholesky
from stage2_prior.moments import correlation_shrinkage
from stage2_prior.prior import Prior
from stage2_prior.wrappers.standardize import Standardized

MOST_DIMS = 512
"""Beyond it the factor and its products cost more than they are worth."""
ROWS, FEWEST = 20_000, 10
"""Points that correlations are of, at most and at least."""
LEAST_SHRINKAGE = 1e-6
"""Of correlations: a column that follows from others is not blown up to the noise of its rounding."""
TINY = 1e-6
"""Of a unit: a column that does not move is not stretched."""
FAR = 10.0
"""Units beyond which a point does not count: one of 10,000 would make every correlation 1."""
WORTH_NATS = 0.5
"""What a Gaussian has to gain by correlations, a latent."""


class Whitened(Standardized):
    """`prior` fitted to whitened points, or to standardised latents that are none; see the module.

    Standardisation and whitening are one wrapper, because both are decided by the latents.
    """

    factor: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        dims = prior.spec.num_dims
        self.can_whiten = len(prior.spec.shape) == 1 and dims <= MOST_DIMS
        self.register_buffer("factor", torch.eye(dims if self.can_whiten else 0))  # [D, D] L; [0, 0]: of none

    @property
    def num_parameters(self) -> int:
        below = int(self.factor.tril(-1).count_nonzero())
        return super().num_parameters + below

    @property
    def log_volume(self) -> Tensor:
        return super().log_volume + self.factor.diagonal().log().sum()

    def _to_y(self, z: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = super()._to_y(z)
        if self.can_whiten:
            u = torch.linalg.solve_triangular(self.factor.to(u.dtype), u.T, upper=False).T
        return u, log_det

    def _to_z(self, y: Tensor) -> Tensor:
        return super()._to_z(y @ self.factor.T.to(y.dtype) if self.can_whiten else y)

    def _match(self, train: LatentDataset) -> list[str]:
        notes = super()._match(train)
        if not self.can_whiten:
            return notes
        self.factor.copy_(torch.eye(len(self.factor)))
        if train.family != "delta":
            return notes
        u = super()._to_y(train.draw(spread_rows(len(train), ROWS)).to(self.unit.device))[0].double()
        u = u[(u.abs() < FAR).all(1)]
        if len(u) < FEWEST:
            return notes
        u = (u - u.mean(0)) / u.std(0, unbiased=False).clamp_min(TINY)
        gain, share = max((gain_of_half(u, share), share) for share in (LEAST_SHRINKAGE, correlation_shrinkage(u)))
        if gain < WORTH_NATS:
            return notes
        factor = correlation_factor(u, share)
        self.factor.copy_(factor)
        words = f"whitened: correlations are worth {gain:.1f} nats to a Gaussian; prior.wrap=[standardize,johnson,"
        return [*notes, f"{words}defensive] keeps them"]

    def _standardise(self, latents: LatentDataset) -> LatentDataset:
        scaled = super()._standardise(latents)
        if not self.can_whiten or latents.family != "delta":
            return scaled
        inverse = torch.linalg.inv(self.factor.double()).T.cpu().numpy()  # u = x L^-T
        values = scaled.params["loc"]
        column = DerivedColumn(values.shape, lambda rows: (np.asarray(values[rows]) @ inverse).astype(np.float32))
        return latents.with_params({"loc": column})


def correlation_factor(u: Tensor, share: float) -> Tensor:
    """Cholesky factor [D, D] of the correlations of standardised points u [N, D], shrunk by `share`; a column that does
    not move goes with none."""
    u = u / u.square().mean(0).sqrt().clamp_min(TINY)
    correlation = (u.T @ u / len(u)).fill_diagonal_(1.0)
    return cholesky(correlation.lerp(torch.eye(len(correlation)).to(correlation), share))


def gain_of_half(u: Tensor, share: float) -> float:
    """By how many nats the correlations of every other point make the points between likelier, a point."""
    factor = correlation_factor(u[::2], share)
    white = torch.linalg.solve_triangular(factor, u[1::2].T, upper=False).T
    return (0.5 * (u[1::2].square() - white.square()).sum(1).mean() - factor.diagonal().log().sum()).item()
