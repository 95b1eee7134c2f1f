"""One density a class by wrapping: p(z|y) is fitted to the latents of class y alone, and p(z) = sum_y p(y) p(z|y) with
the frequencies of the classes, exactly. It makes any prior that knows nothing of labels conditional.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.held_out import report
from stage2_prior.in_turn import FitsInTurn
from stage2_prior.prior import Encoder, Prior, Wrapper
from stage2_prior.sampling import Sampling


class PerClass(Wrapper):
    """As many copies of `prior` as there are classes; its latents have labels."""

    log_weights: Tensor

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.num_classes, self.min_images_a_class = prior.spec.num_classes, prior.min_images
        self.fits_in_ranks, self.num_clusters = False, 0
        self.priors = nn.ModuleList(copy.deepcopy(prior) for _ in range(self.num_classes))
        uniform = torch.full((self.num_classes,), 1.0 / self.num_classes, dtype=torch.float64)
        self.register_buffer("log_weights", uniform.log())  # [classes] log p(y)

    @property
    def inner(self) -> Prior:
        return next(self._members())

    @classmethod
    def num_copies(cls, spec: LatentSpec) -> int:
        return spec.num_classes

    @property
    def num_parameters(self) -> int:
        return sum(prior.num_parameters for prior in self._members()) + self.num_classes - 1

    @classmethod
    def check(cls, spec: LatentSpec) -> str | None:
        if spec.num_classes:
            return None
        return "prior.conditional=true needs labels and these images have none; set it to false"

    def _members(self) -> Iterator[Prior]:
        return (prior for prior in self.priors if isinstance(prior, Prior))

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            densities = torch.stack([prior.log_prob(z).double() for prior in self._members()])  # [classes, B]
            return torch.logsumexp(self.log_weights[:, None] + densities, dim=0).float()
        densities = torch.zeros(len(z), device=z.device)
        for prior, rows in self._rows(context.to(z.device)):
            densities = densities.index_copy(0, rows, prior.log_prob(z[rows]).float())
        return densities

    def _sample(self, n: int, context: Tensor | None, how: Sampling) -> Tensor:
        labels = torch.multinomial(self.log_weights.exp(), n, replacement=True) if context is None and n else context
        if labels is None or n == 0:
            return self.inner.sample(0, how=how)
        drawn = [(rows, prior.sample(len(rows), how=how)) for prior, rows in self._rows(labels.to(self.anchor.device))]
        order = torch.cat([rows for rows, _ in drawn]).argsort()
        return torch.cat([z for _, z in drawn])[order]

    def _rows(self, labels: Tensor) -> Iterator[tuple[Prior, Tensor]]:
        """The prior of each class that occurs in `labels` [B], and where."""
        for y, prior in enumerate(self._members()):
            if len(rows := (labels == y).nonzero().squeeze(1)):
                yield prior, rows

    def join(self, encoder: Encoder, images: Callable[[int], Tensor]) -> None:
        for prior in self._members():
            prior.join(encoder, images)

    def settle(self) -> None:
        for prior in self._members():
            prior.settle()

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        """Fit each class to its own latents, one after the other; the figures are those of all classes together.

        Raises:
            PriorError: a class has no image, or whatever the wrapped prior raises, with the class.
        """
        states, counts = FitsInTurn(run, self.num_classes), []
        for y, prior in enumerate(self._members()):
            train_y, val_y = latents_of(train, y), latents_of(val, y)
            if len(train_y) == 0:
                raise PriorError(
                    f"no training image is of class {y}, so none can be fitted to it; set prior.conditional=false"
                )
            counts.append(len(train_y))
            if states.restore(y, prior):
                continue
            try:
                of_one = prior.fit(
                    train_y, val_y if len(val_y) else train_y, with_images_of(states.fit_of(y), train, y)
                )
            except PriorError as error:
                raise PriorError(f"class {y}: {error}") from error
            states.finish(y, prior, of_one)
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        self.log_weights.copy_(shares.log())
        seconds = sum(of_one.seconds for of_one in states.reports)
        notes = [f"class {y}: {note}" for y, of_one in enumerate(states.reports) for note in of_one.notes]
        curve = list(mean_curve(states.reports, shares.tolist()))
        return report(self, train, val, run, seconds, curve, notes)


def with_images_of(run: FitRun, train: LatentDataset, y: int) -> FitRun:
    """The run with the images of the class `y`, whose rows are those of its latents."""
    images = run.images
    if images is None or train.labels is None:
        return run
    of_class = (train.labels == y).nonzero().squeeze(1)
    return replace(run, images=lambda rows: images(of_class[rows]))


def latents_of(latents: LatentDataset, y: int) -> LatentDataset:
    """The latents with the label `y`."""
    if latents.labels is None:
        raise PriorError("prior.conditional=true needs labels and these latents have none; set it to false")
    return latents.take((latents.labels == y).nonzero().squeeze(1), latents.repeats)


def mean_curve(reports: list[FitReport], weights: list[float]) -> Iterator[dict[str, float]]:
    """The curves of all classes as one, weighted; a class that is done stays where it is."""
    curves = [report.curve for report in reports]
    if not all(curves):
        return
    names = set.intersection(*(set(record) for curve in curves for record in curve))
    longest = max(curves, key=len)
    for i, record in enumerate(longest):
        means = {
            name: sum(w * curve[min(i, len(curve) - 1)][name] for w, curve in zip(weights, curves, strict=True))
            for name in sorted(names)
            if name.endswith("_nats")
        }
        yield means | {name: value for name, value in record.items() if not name.endswith("_nats")}
