"""Estimates of log p(x) beside the truth, where it is known.

An oracle is a model whose log p(x) has a closed form. An estimate of it is judged image by image: the errors
estimate - truth are paired, so their mean carries the noise of the estimator and none of the choice of images. A bound
from below may err to one side only: IWAE and annealed importance sampling are below log p(x) in expectation (Burda,
Grosse & Salakhutdinov, 2016, eq. 9; Grosse, Ghahramani & Adams, 2015, section 2.2), so a mean error that is positive by
more than its standard error explains is a mistake in the estimator.

Sign: unlike everywhere else in this room, these are log-likelihoods, log p(x), and higher is better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from torch import Tensor

from expost.evaluation.tables import Column, framed, lay_out

LABEL_WIDTH = 44
"""Widest label on a terminal; longer ones go on in the next line."""


@dataclass(frozen=True)
class Compared:
    """One estimate against the truth, means over images, in nats an image.

    Attributes:
        label: what the estimate is.
        true_nats, estimate_nats: means over images.
        error_nats: estimate - truth.
        standard_error_nats: of `error_nats`, from the spread of the paired errors over images; None for one image.
        num: images.
    """

    label: str
    true_nats: float
    estimate_nats: float
    error_nats: float
    standard_error_nats: float | None
    num: int

    @classmethod
    def of(cls, label: str, truth: Tensor, estimate: Tensor) -> "Compared":
        """Compare `estimate` [N] with `truth` [N].

        Raises:
            ValueError: the two differ in length, or are empty.
        """
        if truth.shape != estimate.shape or truth.ndim != 1 or len(truth) == 0:
            raise ValueError(f"an estimate {tuple(estimate.shape)} cannot be compared with {tuple(truth.shape)}")
        truth, error = truth.double(), (estimate.double() - truth.double())
        spread = error.std().item() / math.sqrt(len(error)) if len(error) > 1 else None
        return cls(label, truth.mean().item(), estimate.double().mean().item(), error.mean().item(), spread, len(error))

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.error_nats)


def terminal_table(title: str, rows: Sequence[Compared], caption: str, width: int = 80) -> Group:
    """True value, estimate, error and its standard error, one estimate a line."""
    labels = Column("nats an image", [row.label for row in rows], is_label=True, limit=LABEL_WIDTH)
    titles, cells = ("true value", "estimate", "error", "std. error"), zip(*map(_cells, rows), strict=True)
    columns = [labels, *(Column(name, texts, is_whole=True) for name, texts in zip(titles, cells, strict=True))]
    return framed(title, lay_out(columns, width), [caption])


def _cells(row: Compared) -> list[str]:
    spread = "-" if row.standard_error_nats is None else f"{row.standard_error_nats:.4f}"
    if not row.is_finite:
        return [f"{row.true_nats:.4f}", "none", "diverged", "-"]
    error = f"{round(row.error_nats, 4) + 0.0:+.4f}"  # no negative zero
    return [f"{row.true_nats:.4f}", f"{row.estimate_nats:.4f}", error, spread]
