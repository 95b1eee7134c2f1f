"""A prior of y = f(z), where f is one to one, as one of z: log p(z) = log p_y(f(z)) + log |det dy/dz|.

What standardisation, whitening, bent tails and charts share: the four passes, and figures in the units of z.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from stage1_vae.latents import LatentDataset
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.prior import Prior, Wrapper
from stage2_prior.sampling import Sampling


class Mapped(Wrapper, ABC):
    """Its own densities and samples are in the units of z.

    Args:
        prior: of y.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.prior = prior

    @property
    def inner(self) -> Prior:
        return self.prior

    @abstractmethod
    def _to_y(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, *shape] -> y [B, *shape of y], and log |det dy/dz| [B], nats."""

    @abstractmethod
    def _to_z(self, y: Tensor) -> Tensor:
        """The inverse."""

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        y, log_det = self._to_y(z)
        return self.prior.log_prob(y, context) + log_det

    def _log_joint(self, z: Tensor) -> Tensor:
        y, log_det = self._to_y(z)
        return self.prior.log_joint(y) + log_det[:, None]

    def _loss(self, z: Tensor, context: Tensor | None) -> Tensor:
        y, log_det = self._to_y(z)
        return self.prior.loss(y, context) - log_det

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        return self._to_z(self.prior.sample(n, context, how))

    def _fit_to_y(
        self,
        train: LatentDataset,
        val: LatentDataset,
        run: FitRun,
        log_dets: Mapping[str, float],
        notes: Sequence[str] = (),
    ) -> FitReport:
        """Fit the wrapped prior to sets of y; figures are of z.

        Args:
            log_dets: train, val: mean log |det dy/dz| of that set.
            notes: what people should know beside what the fit says.
        """
        inner = replace(run, log=lambda figures, step: run.log(in_units_of_z(figures, log_dets), step))
        report = self.prior.fit(train, val, inner)
        return replace(
            report,
            notes=[*notes, *report.notes],
            train_nll_nats=None if report.train_nll_nats is None else report.train_nll_nats - log_dets["train"],
            val_nll_nats=None if report.val_nll_nats is None else report.val_nll_nats - log_dets["val"],
            curve=[in_units_of_z(row, log_dets) for row in report.curve],
        )


def in_units_of_z(figures: Mapping[str, float], log_dets: Mapping[str, float]) -> dict[str, float]:
    """Figures of y as those of z: those in nats of a whole latent, less the mean log-determinant of their set."""
    return {
        name: value - log_dets["val" if name.startswith("val") else "train"] if name.endswith("_nats") else value
        for name, value in figures.items()
    }
