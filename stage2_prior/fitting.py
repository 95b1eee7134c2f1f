"""What the world lends to a fit, and what a fit reports."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from stage1_vae.errors import ExpostError
from stage1_vae.latents import BUFFER_BYTES, IN_MEMORY_BYTES
from stage2_prior.ranks import Ranks


class PriorError(ExpostError, ValueError):
    """A fit that cannot be done as asked: one line for the user, with the remedy."""


class Kept(Protocol):
    """Where a fit that has no Lightning loop keeps its state between iterations, and finds it when it starts again."""

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Call it after each iteration: it keeps as often as that is cheap.

        Args:
            done, total: iterations, for the user's eyes.
            tensors: the state; of any shape and type.
            facts: what else there is, as JSON has it; floating-point numbers come back to the last bit.
        """

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last by an attempt that did not finish, on the CPU; None: the fit begins."""


class NothingKept:
    """A fit that starts over when it is stopped."""

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None: ...

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return None


@dataclass(frozen=True)
class Sizes:
    """Where a fit goes another way. One in little that stands for a larger one has them as much smaller.

    Attributes:
        in_memory_bytes: of parameters; more of them are read in blocks.
        buffer_bytes: of the buffer that those blocks are mixed in.
        cache_bytes: statistics of all points are kept between iterations up to this size, and computed afresh beyond.
        start_points: k-means sees so many at most: it only starts the fit.
        held_out_points: validation posteriors that decide when mini-batch EM stops.
    """

    in_memory_bytes: int = IN_MEMORY_BYTES
    buffer_bytes: int = BUFFER_BYTES
    cache_bytes: int = 2**28
    start_points: int = 20_000
    held_out_points: int = 20_000

    def scaled(self, share: float) -> "Sizes":
        return Sizes(**{name: max(1, round(share * size)) for name, size in asdict(self).items()})


@dataclass(frozen=True)
class FitRun:
    """What the world lends to a fit.

    Attributes:
        device: where to compute.
        seed: of everything random in the fit.
        log: takes figures (name -> value) and the step or epoch that they belong to.
        lightning_fit: runs Lightning's training loop with the run's device, loggers and progress bar; takes a module,
            its training and validation batches, and any keyword of `pytorch_lightning.Trainer`; with `keeps=False` it
            keeps nothing, which whoever calls it twice must say.
        settings: the `fit:` section of the prior's config (batch size, learning rate, patience, ...).
        kept: for a fit with a loop of its own; `lightning_fit` keeps and continues by itself.
        ranks: the processes that fit together; each is lent a `FitRun` of its own and ends with the same answer.
        sizes: where the fit goes another way.
    """

    device: torch.device
    seed: int
    log: Callable[[Mapping[str, float], int], None]
    lightning_fit: Callable[..., None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: Kept = field(default_factory=NothingKept)
    ranks: Ranks = field(default_factory=Ranks)
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Attributes:
        seconds: wall time of the fit alone; of one that was continued, over all attempts, without what was done twice.
        train_nll_nats: mean -log p(z) over fresh z ~ q(z|x), training images; None without a density. Of a prior of
            classes too, it is that of all classes together.
        val_nll_nats: the same on held-out images.
        curve: held-out figures over the fit, one mapping an iteration or epoch. Of a prior of classes, `val_nll_nats`
            in it is the mean -log p(z|y), and so not the figure of that name above.
        notes: what the user should know, in words (a component re-seeded, stopped at the time limit, ...).
    """

    seconds: float
    train_nll_nats: float | None
    val_nll_nats: float | None
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
