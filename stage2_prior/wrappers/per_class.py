"""One density a class by wrapping: p(z|y) is fitted to the latents of class y alone, and p(z) = sum_y p(y) p(z|y) with
the frequencies of the classes, exactly. It makes any prior that knows nothing of labels conditional.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from stage1_vae.latents import Column, LatentDataset, LatentSpec
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.held_out import report
from stage2_prior.prior import Prior, Wrapper
from stage2_prior.sampling import Sampling
from stage2_prior.wrappers.kept_classes import KeptClasses, mean_curve


@dataclass(frozen=True)
class Chosen:
    """Some rows of a parameter, read when they are asked for."""

    values: Column
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        return self.values[self.rows[rows]]


class PerClass(Wrapper):
    """As many copies of `prior` as there are classes; its latents have labels."""

    version: ClassVar[int] = 1
    fits_in_ranks = False
    log_weights: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.num_classes, self.min_images_a_class = prior.spec.num_classes, prior.min_images
        self.priors = nn.ModuleList(copy.deepcopy(prior) for _ in range(self.num_classes))
        uniform = torch.full((self.num_classes,), 1.0 / self.num_classes, dtype=torch.float64)
        self.register_buffer("log_weights", uniform.log())  # [classes] log p(y)

    @property
    def inner(self) -> Prior:
        return next(self._each())

    @classmethod
    def num_copies(cls, spec: LatentSpec) -> int:
        return spec.num_classes

    @property
    def num_parameters(self) -> int:
        return sum(prior.num_parameters for prior in self._each()) + self.num_classes - 1

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if spec.num_classes:
            return None
        return "prior.conditional=true needs labels and these images have none; set it to false"

    def _each(self) -> Iterator[Prior]:
        return (prior for prior in self.priors if isinstance(prior, Prior))

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            each = torch.stack([prior.log_prob(z).double() for prior in self._each()])  # [classes, B]
            return torch.logsumexp(self.log_weights[:, None] + each, dim=0).float()
        found = torch.zeros(len(z), device=z.device)
        for prior, rows in self._rows(context.to(z.device)):
            found = found.index_copy(0, rows, prior.log_prob(z[rows]).float())
        return found

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        labels = torch.multinomial(self.log_weights.exp(), n, replacement=True) if context is None and n else context
        if labels is None or n == 0:
            return self.inner.sample(0, how=how)
        drawn = [(rows, prior.sample(len(rows), how=how)) for prior, rows in self._rows(labels.to(self.anchor.device))]
        order = torch.cat([rows for rows, _ in drawn]).argsort()
        return torch.cat([z for _, z in drawn])[order]

    def _rows(self, labels: Tensor) -> Iterator[tuple[Prior, Tensor]]:
        """The prior of each class that occurs in `labels` [B], and where."""
        for y, prior in enumerate(self._each()):
            rows = (labels == y).nonzero().squeeze(1)
            if len(rows):
                yield prior, rows

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit each class to its own latents, one after the other; the figures are those of all classes together.

        Raises:
            PriorError: a class has no image, or whatever the wrapped prior raises, with the class.
        """
        kept, counts = KeptClasses(run, self.num_classes), []
        for y, prior in enumerate(self._each()):
            mine, held_out = of_class(train, y), of_class(val, y)
            if len(mine) == 0:
                raise PriorError(
                    f"no training image is of class {y}, so none can be fitted to it; set prior.conditional=false"
                )
            counts.append(len(mine))
            if kept.restore(y, prior):
                continue
            try:
                of_one = prior.fit(mine, held_out if len(held_out) else mine, kept.fit_of(y))
            except PriorError as error:
                raise PriorError(f"class {y}: {error}") from error
            kept.finish(y, prior, of_one)
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        self.log_weights.copy_(shares.log())
        seconds = sum(of_one.seconds for of_one in kept.reports)
        notes = [f"class {y}: {note}" for y, of_one in enumerate(kept.reports) for note in of_one.notes]
        curve = list(mean_curve(kept.reports, shares.tolist()))
        return report(self, train, val, run, seconds, curve, notes)


def of_class(latents: LatentDataset, y: int) -> LatentDataset:
    """The latents with the label `y`."""
    if latents.labels is None:
        raise PriorError("prior.conditional=true needs labels and these latents have none; set it to false")
    return subset(latents, (latents.labels == y).nonzero().squeeze(1))


def subset(latents: LatentDataset, rows: Tensor) -> LatentDataset:
    """Those of `rows` [n], read when they are asked for."""
    labels = None if latents.labels is None else latents.labels[rows]
    params = {name: Chosen(values, rows.numpy()) for name, values in latents.params.items()}
    return LatentDataset(latents.spec, latents.family, params, labels, latents.provenance)
