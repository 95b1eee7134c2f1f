"""Latents some of whose dimensions never vary: a density of the others, and the constants beside it.

On real space a point mass in one dimension has no density, and a floor under widths would put in its place a height
that says nothing but how low the floor is. So nats are of the dimensions that vary; a latent that is off the constants
has the density 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import Column, DerivedColumn, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.prior import Prior, Wrapper, check_support
from stage2_prior.sampling import Sampling

MOST_NAMED = 10


class Varying(Wrapper):
    """`prior` of the dimensions that vary; the latents are longer by those that do not.

    Args:
        prior: of what varies.
        fixed: places on the first axis of a latent (dimensions of a vector, channels of a map) that never vary.
    """

    constants: Tensor
    varying: Tensor

    def __init__(self, prior: Prior, fixed: Sequence[int]) -> None:
        super().__init__(prior)
        inner = prior.spec.shape
        first = inner[0] + len(fixed)
        self.spec = replace(prior.spec, shape=(first, *inner[1:]))
        self.prior = prior
        kept = [place for place in range(first) if place not in set(fixed)]
        if len(kept) != inner[0]:
            raise ValueError(f"prior.wrap: fixed={list(fixed)} are no {len(fixed)} different places of {first}")
        self.register_buffer("constants", torch.zeros(self.spec.shape))  # [*shape]; 0 where it varies
        self.register_buffer("varying", torch.tensor(kept), persistent=False)  # [first axis of what varies]

    @property
    def inner(self) -> Prior:
        return self.prior

    @property
    def num_parameters(self) -> int:
        return self.prior.num_parameters + self.spec.num_dims - self.prior.spec.num_dims

    @classmethod
    def inner_spec(cls, spec: LatentSpec, **keywords: Any) -> LatentSpec:
        return replace(spec, shape=(spec.shape[0] - len(keywords["fixed"]), *spec.shape[1:]))

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("varying leaves out real numbers that never vary", spec, Support.REAL)

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What varies of z [B, *shape], and whether the rest is as it always is, [B]."""
        off = z != self.constants
        off[:, self.varying] = False
        return z[:, self.varying], ~off.flatten(1).any(1)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        varying, is_constant = self._split(z)
        return torch.where(is_constant, self.prior.log_prob(varying, context), -torch.inf)

    def _log_joint(self, z: Tensor) -> Tensor:
        varying, is_constant = self._split(z)
        return torch.where(is_constant[:, None], self.prior.log_joint(varying), -torch.inf)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        varying, is_constant = self._split(z)
        return torch.where(is_constant, self.prior.loss(varying, context), torch.inf)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        z = self.constants.expand(n, *self.spec.shape).clone()
        z[:, self.varying] = self.prior.sample(n, context, how)
        return z

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Take the constants from the first latent, and fit the wrapped prior to what varies.

        Raises:
            PriorError: whatever the wrapped prior raises.
        """
        first = torch.from_numpy(np.array(train.params["loc"][:1], dtype=np.float32))[0]
        first[self.varying.cpu()] = 0.0
        self.constants.copy_(first)
        report = self.prior.fit(self._of_varying(train), self._of_varying(val), run)
        return replace(report, notes=[self.words, *report.notes])

    @property
    def words(self) -> str:
        """What is left out, for people."""
        varying = set(self.varying.tolist())
        fixed = [place for place in range(self.spec.shape[0]) if place not in varying]
        what = "dimensions" if len(self.spec.shape) == 1 else "channels"
        named = ", ".join(map(str, fixed[:MOST_NAMED])) + ", ..." * (len(fixed) > MOST_NAMED)
        return (
            f"{len(fixed):,} of {self.spec.shape[0]:,} {what} never vary ({named}, counted from 0): nats are of the "
            f"other {self.prior.spec.num_dims:,} numbers, and samples have these as they are"
        )

    def _of_varying(self, latents: LatentDataset) -> LatentDataset:
        kept = self.varying.cpu().numpy()

        def column(values: Column) -> DerivedColumn:
            return DerivedColumn((len(values), *self.prior.spec.shape), lambda rows: np.asarray(values[rows])[:, kept])

        params = {name: column(values) for name, values in latents.params.items()}
        return LatentDataset(self.prior.spec, latents.family, params, latents.labels, latents.provenance)
