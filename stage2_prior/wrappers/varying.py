"""Latents some of whose dimensions never vary, or are functions of others: a density of the rest, and these beside it.

On real space a point mass in one dimension has no density, nor have points on a plane in all of them, and a floor under
widths would put in its place a height that says nothing but how low the floor is. So nats are of the dimensions that
vary by themselves. The others are stated: constants, and affine functions without noise, by which samples have them. A
latent that is off these has the density 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import (
    FLOAT32_ROUNDING,
    MOST_COLUMNS,
    Column,
    DerivedColumn,
    LatentDataset,
    LatentSpec,
    Support,
    affine_map,
)
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.prior import Prior, Wrapper, check_support
from stage2_prior.sampling import Sampling

MOST_NAMED = 10
MULTIPLE = 4.0
"""Of the largest distance from its function that a dimension has in training: held-out latents may be as far."""


class Varying(Wrapper):
    """`prior` of the dimensions that vary by themselves; the latents are longer by those that do not.

    Args:
        prior: of what varies.
        fixed: places on the first axis of a latent (dimensions of a vector, channels of a map) that never vary.
        dependent: dimensions of a vector that are affine functions of those that are neither.

    Raises:
        ValueError: they are not different places of such latents.
    """

    constants: Tensor
    varying: Tensor
    computed: Tensor
    centre: Tensor
    weight: Tensor
    offset: Tensor
    tolerance: Tensor

    def __init__(self, prior: Prior, fixed: Sequence[int], dependent: Sequence[int] = ()) -> None:
        super().__init__(prior)
        inner = prior.spec.shape
        first = inner[0] + len(fixed) + len(dependent)
        self.spec = replace(prior.spec, shape=(first, *inner[1:]))
        self.prior, self.dependent = prior, tuple(place for place in range(first) if place in set(dependent))
        kept = [place for place in range(first) if place not in {*fixed, *dependent}]
        if len(kept) != inner[0]:
            asked, num = f"fixed={list(fixed)}", len(fixed) + len(dependent)
            asked += f" and dependent={list(dependent)}" * bool(dependent)
            raise ValueError(f"prior.wrap: {asked} are no {num} different places of {first}")
        if dependent and (len(inner) > 1 or first > MOST_COLUMNS):
            raise ValueError(f"prior.wrap: dependent={list(dependent)} are of vectors of {MOST_COLUMNS:,} at most")
        self.register_buffer("constants", torch.zeros(self.spec.shape))  # [*shape]; 0 where it varies
        self.register_buffer("varying", torch.tensor(kept), persistent=False)  # [first axis of what varies]
        if dependent:  # exports from before there were such have no tensors of them
            self.register_buffer("computed", torch.tensor(self.dependent), persistent=False)  # [J] places
            self.register_buffer("centre", torch.zeros(inner))  # [K] of what varies
            self.register_buffer("weight", torch.zeros(len(dependent), *inner))  # [J, K]
            self.register_buffer("offset", torch.zeros(len(dependent)))  # [J] at the centre
            self.register_buffer("tolerance", torch.zeros(len(dependent)))  # [J] beyond the rounding of float32

    @property
    def inner(self) -> Prior:
        return self.prior

    @property
    def num_parameters(self) -> int:
        functions = self.weight.numel() if self.dependent else 0
        return self.prior.num_parameters + self.spec.num_dims - self.prior.spec.num_dims + functions

    @classmethod
    def inner_spec(cls, spec: LatentSpec, **keywords: Any) -> LatentSpec:
        left_out = len(keywords["fixed"]) + len(keywords.get("dependent", ()))
        return replace(spec, shape=(spec.shape[0] - left_out, *spec.shape[1:]))

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("varying leaves out real numbers that others or nothing vary with", spec, Support.REAL)

    def is_off(self, z: Tensor) -> Tensor:
        """Which of z [B, *shape] are not as constants and functions say, bool [B]."""
        off = z != self.constants
        off[:, self.varying] = False
        if self.dependent:
            off[:, self.computed] = ~(self._beyond_rounding(z) <= self.tolerance)  # NaN is off
        return off.flatten(1).any(1)

    def _functions(self, varying: Tensor) -> Tensor:
        """What the computed dimensions are where the others are `varying` [B, K]: float64 [B, J]."""
        return self.offset.double() + (varying.double() - self.centre.double()) @ self.weight.double().T

    def _beyond_rounding(self, z: Tensor) -> Tensor:
        """How far the computed dimensions of z [B, D] are from their functions, less what rounding to float32 may do:
        float64 [B, J]."""
        varying, computed = z[:, self.varying], z[:, self.computed].double()
        numbers = varying.double().abs() + self.centre.double().abs()
        terms = self.offset.double().abs() + numbers @ self.weight.double().abs().T
        rounding = FLOAT32_ROUNDING * (computed.abs() + terms)
        return ((computed - self._functions(varying)).abs() - rounding).clamp_min(0)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        log_prob = self.prior.log_prob(z[:, self.varying], context)
        return torch.where(self.is_off(z), -torch.inf, log_prob)

    def _log_joint(self, z: Tensor) -> Tensor:
        log_joint = self.prior.log_joint(z[:, self.varying])
        return torch.where(self.is_off(z)[:, None], -torch.inf, log_joint)

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        loss = self.prior.loss(z[:, self.varying], context)
        return torch.where(self.is_off(z), torch.inf, loss)

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        z = self.constants.expand(n, *self.spec.shape).clone()
        z[:, self.varying] = varying = self.prior.sample(n, context, how)
        if self.dependent:
            z[:, self.computed] = self._functions(varying).to(z.dtype)
        return z

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Take the constants from the first latent, fit the functions by least squares, and the wrapped prior to what
        varies.

        Raises:
            PriorError: whatever the wrapped prior raises.
        """
        first = torch.from_numpy(np.array(train.params["loc"][:1], dtype=np.float32))[0]
        first[[*self.varying.tolist(), *self.dependent]] = 0.0
        self.constants.copy_(first)
        farthest = self._fit_functions(train) if self.dependent else 0.0
        report = self.prior.fit(self._of_varying(train), self._of_varying(val), run)
        return replace(report, notes=[self._words(farthest), *report.notes])

    def _fit_functions(self, train: LatentDataset) -> float:
        """Set the functions, and how far a latent may be from them; how far the farthest of training is, in standard
        deviations of its dimension."""
        found = affine_map(train, self.varying.tolist(), self.dependent)
        centre = torch.from_numpy(found.centre).float()  # the offset is that of the rounded one
        self.offset.copy_(torch.from_numpy(found(centre.double().numpy()[None])[0]))
        self.weight.copy_(torch.from_numpy(found.weight))
        self.centre.copy_(centre)
        zeros = torch.zeros(len(self.dependent), dtype=torch.float64, device=self.offset.device)
        beyond, farthest, total, squares = zeros, zeros, zeros, zeros
        for posterior in train.blocks():
            z = posterior.mean.to(self.offset.device)
            beyond = torch.maximum(beyond, self._beyond_rounding(z).amax(0))
            computed = z[:, self.computed].double()
            farthest = torch.maximum(farthest, (computed - self._functions(z[:, self.varying])).abs().amax(0))
            apart = computed - self.offset.double()
            total, squares = total + apart.sum(0), squares + apart.square().sum(0)
        self.tolerance.copy_(MULTIPLE * beyond)
        std = (squares / len(train) - (total / len(train)).square()).clamp_min(0).sqrt()
        return (farthest / std).nan_to_num(0, 0, 0).max().item()

    def _words(self, farthest: float) -> str:
        """What is left out, for people; `farthest`: the largest distance from a function in training, in standard
        deviations of its dimension."""
        known, first, said = {*self.varying.tolist(), *self.dependent}, self.spec.shape[0], []
        if fixed := [place for place in range(first) if place not in known]:
            what = "dimensions" if len(self.spec.shape) == 1 else "channels"
            said.append(f"{len(fixed):,} of {first:,} {what} never vary ({named(fixed)})")
        if self.dependent:
            said.append(
                f"{len(self.dependent):,} of {first:,} dimensions are sums or repeats of others "
                f"({named(self.dependent)}) to within {farthest:.1e} of their own spread"
            )
        have = "computed" if not fixed else "as they are, the latter computed" if self.dependent else "as they are"
        return (
            f"{', and '.join(said)}: nats are of the other {self.prior.spec.num_dims:,} numbers, and samples have "
            f"{'the former' if fixed and self.dependent else 'these'} {have}"
        )

    def _of_varying(self, latents: LatentDataset) -> LatentDataset:
        kept = self.varying.cpu().numpy()

        def column(values: Column) -> DerivedColumn:
            return DerivedColumn((len(values), *self.prior.spec.shape), lambda rows: np.asarray(values[rows])[:, kept])

        params = {name: column(values) for name, values in latents.params.items()}
        return latents.with_params(params, self.prior.spec)


def named(places: Sequence[int]) -> str:
    """The first of `places`, for people."""
    return ", ".join(map(str, places[:MOST_NAMED])) + ", ..." * (len(places) > MOST_NAMED) + ", counted from 0"
