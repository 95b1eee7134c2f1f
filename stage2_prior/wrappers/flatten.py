"""Maps laid out as vectors, channel after channel, for the priors that model vectors alone.

A prior of vectors knows nothing of which numbers are neighbours. It is what a prior of maps must better.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.latents import Column, DerivedColumn, DiagonalNormal, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.prior import Encoder, Prior, Wrapper, check_support
from stage2_prior.sampling import Sampling


class Flattened(Wrapper):
    """`prior` of vectors [D] for latents of another shape with D numbers.

    Args:
        prior: of vectors.
        shape: of the latents.

    Raises:
        ValueError: they have not as many numbers.
    """

    def __init__(self, prior: Prior, shape: Sequence[int]) -> None:
        super().__init__(prior)
        self.prior, self.spec = prior, replace(prior.spec, shape=tuple(shape))
        if self.spec.num_dims != prior.spec.num_dims:
            raise ValueError(f"prior.wrap: shape={list(shape)} are not {prior.spec.num_dims} numbers")

    @property
    def inner(self) -> Prior:
        return self.prior

    @property
    def num_parameters(self) -> int:
        return self.prior.num_parameters

    @classmethod
    def keywords_of(cls, spec: LatentSpec) -> dict[str, Any]:
        return {"shape": list(spec.shape)}

    @classmethod
    def inner_spec(cls, spec: LatentSpec, **keywords: Any) -> LatentSpec:
        return replace(spec, shape=(spec.num_dims,))

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if len(spec.shape) == 1:
            return "flatten lays out maps, and these latents are vectors"
        return check_support("flatten lays out real numbers", spec, Support.REAL)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.prior.log_prob(z.flatten(1), context)

    def _log_joint(self, z: Tensor) -> Tensor:
        return self.prior.log_joint(z.flatten(1))

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.prior.loss(z.flatten(1), context)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        return self.prior.sample(n, context, how).view(n, *self.spec.shape)

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit the wrapped prior to the same posteriors as vectors.

        Raises:
            PriorError: whatever the wrapped prior raises.
        """
        encoder = None if run.encoder is None else partial(encode_flat, run.encoder)
        return self.prior.fit(self._flatten(train), self._flatten(val), replace(run, encoder=encoder))

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        self.prior.join(partial(encode_flat, encoder), images)

    def _flatten(self, latents: LatentDataset) -> LatentDataset:
        """The same posteriors, laid out when they are read."""

        def column(values: Column) -> DerivedColumn:
            num_dims = self.prior.spec.num_dims
            return DerivedColumn((len(values), num_dims), lambda rows: np.asarray(values[rows]).reshape(-1, num_dims))

        params = {name: column(values) for name, values in latents.params.items()}
        return latents.with_params(params, self.prior.spec)


def encode_flat(encoder: Encoder, x: Tensor) -> Distribution:
    """q(z|x) of images over vectors; of a family without a mean and widths, as it is."""
    posterior = encoder(x)
    if not isinstance(posterior, DiagonalNormal):
        return posterior
    return DiagonalNormal(posterior.loc.flatten(1), posterior.log_std.flatten(1))
