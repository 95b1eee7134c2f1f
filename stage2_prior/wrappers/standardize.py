"""Standardisation by wrapping: u = (z - shift) / unit for each dimension, fitted to the moments of q(z).

The density of z is that of u times the Jacobian: log p(z) = log p_u((z - shift) / unit) - sum_d log unit_d. Shift and
unit are the mean and standard deviation of the aggregate posterior by the law of total variance, in closed form, or of
its middle where a few latents make the deviation (`location_and_spread`). The map is diagonal because then q(u|x) =
N((m - shift) / unit, (s / unit)^2) is again a diagonal Gaussian, exactly, and the inner prior draws fresh u ~ q(u|x) as
if nobody had wrapped it; a rotation (full whitening) would lose that.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.latents import Column, DerivedColumn, DiagonalNormal, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.held_out import check_finite
from stage2_prior.moments import location_and_spread, moments
from stage2_prior.prior import Encoder, Prior, check_support
from stage2_prior.wrappers.mapped import Mapped


class Standardized(Mapped):
    """`prior` fitted to standardised latents; its own densities and samples are in the units of z."""

    shift: Tensor
    unit: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.register_buffer("shift", torch.zeros(prior.spec.shape))  # [*shape]
        self.register_buffer("unit", torch.ones(prior.spec.shape))  # [*shape] standard deviations

    @property
    def num_parameters(self) -> int:
        return self.prior.num_parameters + 2 * self.spec.num_dims

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("standardize rescales real numbers", spec, Support.REAL)

    @property
    def log_volume(self) -> Tensor:
        """Logarithm of the volume in z of one in these units, nats."""
        return self.unit.log().sum()

    def _to_y(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z - self.shift) / self.unit, -self.log_volume.expand(len(z))

    def _to_z(self, y: Tensor) -> Tensor:
        return self.shift + self.unit * y

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit shift and unit in closed form, then the wrapped prior; all figures are in the units of z.

        Raises:
            PriorError: for latents that are not finite, or whatever the wrapped prior raises.
        """
        check_finite(train, "training")
        notes = self._match(train)
        encoder = None if run.encoder is None else partial(self._encode, run.encoder)
        log_dets = dict.fromkeys(("train", "val"), -self.log_volume.item())
        sets = self._standardise(train), self._standardise(val)
        return self._fit_to_y(*sets, replace(run, encoder=encoder), log_dets, notes)

    def _match(self, train: LatentDataset) -> list[str]:
        """Take shift and unit from the latents; what people should know of them."""
        aggregate = moments(train)
        shift, unit, few = location_and_spread(train, aggregate.mean, aggregate.total)
        self.shift.copy_(shift.view_as(self.shift))
        self.unit.copy_(unit.view_as(self.unit))
        return [said(few)] if few.any() else []

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        self.prior.join(partial(self._encode, encoder), images)

    def _encode(self, encoder: Encoder, x: Tensor) -> Distribution:
        """q(u|x) of images; of a family without a mean and widths, as it is."""
        posterior = encoder(x)
        if not isinstance(posterior, DiagonalNormal):
            return posterior
        return DiagonalNormal((posterior.loc - self.shift) / self.unit, posterior.log_std - self.unit.log())

    def _standardise(self, latents: LatentDataset) -> LatentDataset:
        """The same posteriors over u; exact, and rescaled when they are read: there is no second copy of the set."""
        shift, unit = self.shift.cpu().numpy(), self.unit.cpu().numpy()

        def column(name: str, values: Column) -> DerivedColumn:
            if name == "log_std":
                return DerivedColumn(values.shape, lambda rows: np.asarray(values[rows]) - np.log(unit))
            return DerivedColumn(values.shape, lambda rows: (np.asarray(values[rows]) - shift) / unit)  # places

        params = {name: column(name, values) for name, values in latents.params.items()}
        return latents.with_params(params)


def said(few: Tensor) -> str:
    """That units are not those of all latents, where that is so [D]."""
    return (
        f"standardised without the outermost latents in {int(few.sum()):,} of {len(few):,} dimensions, where a few lie "
        "so far out that the deviation of all is theirs; they stay in the set"
    )
