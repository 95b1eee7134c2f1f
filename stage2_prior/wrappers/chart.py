"""Priors of real numbers on a sphere or in a box: of what a chart makes of the latents (`stage2_prior.spaces.charts`).

It stands around such a prior by itself where the latents are bounded; `prior.wrap=[..., chart]` says the same.

What q(z|x_i) is in the chart has no name, but it can be drawn from exactly. A prior that learns by gradients sees fresh
draws, as it would of any other latents. One that is fitted in closed form or by EM sees several draws of each
posterior, which stay the same: it would over-fit the noise of a single one (by 0.1 nats of 100 components in 16
dimensions).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import Column, DerivedColumn, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.held_out import check_finite, report
from stage2_prior.prior import Encoder, GradientPrior, Prior, check_support, innermost
from stage2_prior.spaces.charts import BoxChart, SphereChart
from stage2_prior.wrappers.mapped import Mapped

CHARTS: dict[Support, type[SphereChart] | type[BoxChart]] = {Support.SPHERE: SphereChart, Support.BOX: BoxChart}
TRAIN_DRAWS, HELD_OUT_DRAWS, MOST_DRAWS = 200_000, 20_000, 32
"""Fixed draws of a set, as many of each posterior, but one at least and so many at most."""
MOST_NUMBERS = 2**26
"""Of draws that are kept; of a set with more, each look at a posterior draws anew."""


class Charted(Mapped):
    """`prior` of a chart of bounded latents; its own densities and samples are on their space.

    Args:
        prior: of vectors of real numbers, as many as the space has dimensions.
        support: sphere or box.

    Raises:
        PriorError: another support, or a prior that is fitted through the encoder, whose posteriors have no name in the
            chart.
    """

    def __init__(self, prior: Prior, support: str) -> None:
        super().__init__(prior)
        if prior.needs_encoder:
            raise PriorError(
                "this prior is made of normal posteriors, and those of the encoder are none in a chart; choose "
                "another, such as prior=mixture"
            )
        if support not in CHARTS:
            raise PriorError(f"prior.wrap: support={support} has no chart; give {' or '.join(CHARTS)}")
        space = Support(support)
        self.chart = CHARTS[space](prior.spec.num_dims + (space is Support.SPHERE))
        shape = (prior.spec.num_dims + (space is Support.SPHERE),)
        self.spec = replace(prior.spec, shape=shape, support=space)

    @property
    def num_parameters(self) -> int:
        return self.prior.num_parameters + self.chart.num_parameters

    @classmethod
    def keywords_of(cls, spec: LatentSpec) -> dict[str, Any]:
        return {"support": spec.support.value}

    @classmethod
    def inner_spec(cls, spec: LatentSpec, **keywords: Any) -> LatentSpec:
        return replace(spec, shape=(spec.num_dims - (spec.support is Support.SPHERE),), support=Support.REAL)

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        return check_support("chart lays out spheres and boxes", spec, *CHARTS)

    def check_family(self, family: str) -> None:
        if self.needs_widths:
            raise PriorError(
                f"this prior needs normal posteriors, and {family} is none in a chart; widen points by "
                "prior.bandwidth=held_out, as prior=kde does"
            )

    def _to_y(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = self.chart.lay_out(z)
        return y.to(z.dtype), log_det.to(z.dtype)

    def _to_z(self, y: Tensor) -> Tensor:
        return self.chart.place(y).to(y.dtype)

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        raise PriorError("a prior in a chart is not learned with the VAE; fit it afterwards, by prior=NAME")

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Choose the chart by the mean of q(z), then fit the wrapped prior; all figures are on the space of z.

        Raises:
            PriorError: for latents that are not finite, or whatever the wrapped prior raises.
        """
        check_finite(train, "training")
        check_finite(val, "validation")
        self.chart.to("cpu").fit(mean_of(train))
        draws_anew = isinstance(innermost(self.prior), GradientPrior)
        devices = [run.device] if run.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(run.seed)
            outside = self._fixed(val, HELD_OUT_DRAWS)
            inside = self._drawn_anew(train) if draws_anew else self._fixed(train, TRAIN_DRAWS)
            log_dets = dict.fromkeys(("train", "val"), self._mean_log_det(val))
            found = self._fit_to_y(inside, outside, run, log_dets)
        self.to(run.device)
        if found.val_nll_nats is None:
            return found
        own = report(self, train, val, run, found.seconds)
        return replace(found, train_nll_nats=own.train_nll_nats, val_nll_nats=own.val_nll_nats)

    def _drawn_anew(self, latents: LatentDataset) -> LatentDataset:
        """As many points, each drawn whenever it is looked at."""
        chart = CHARTS[self.spec.support](self.spec.num_dims)
        chart.load_state_dict(self.chart.state_dict())  # the one of this prior may move to another device

        def draw(rows: Any) -> np.ndarray:
            index = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
            return chart.lay_out(latents.posterior(index).sample())[0].float().numpy()

        return self._points(latents, DerivedColumn((len(latents), chart.num_dims), draw), latents.labels)

    def _fixed(self, latents: LatentDataset, num: int) -> LatentDataset:
        """Several draws of each posterior, `num` in all, one after the other, in memory; of too many, drawn anew."""
        if len(latents) * self.chart.num_dims > MOST_NUMBERS:
            return self._drawn_anew(latents)
        repeats = max(1, min(MOST_DRAWS, num // len(latents), MOST_NUMBERS // (len(latents) * self.chart.num_dims)))
        blocks = [
            self.chart.lay_out(posterior.sample())[0].float() for _ in range(repeats) for posterior in latents.blocks()
        ]
        labels = None if latents.labels is None else latents.labels.repeat(repeats)
        return self._points(latents, torch.cat(blocks).numpy(), labels, repeats)

    def _points(self, latents: LatentDataset, loc: Column, labels: Tensor | None, repeats: int = 1) -> LatentDataset:
        return LatentDataset(self.prior.spec, "delta", {"loc": loc}, labels, latents.provenance, repeats)

    def _mean_log_det(self, latents: LatentDataset) -> float:
        """Mean log |det dy/dz| of one draw of each posterior."""
        total = sum(self.chart.lay_out(posterior.sample())[1].sum().item() for posterior in latents.blocks())
        return total / len(latents)


def mean_of(latents: LatentDataset) -> Tensor:
    """The mean of q(z), [D] float64."""
    total = torch.zeros(latents.spec.num_dims, dtype=torch.float64)
    for posterior in latents.blocks():
        total = total + posterior.mean.double().sum(0)
    return total / len(latents)
