"""What the world lends to a fit, what its `fit:` section may say, and what it reports."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from stage1_vae.errors import ExpostError
from stage1_vae.latents import BUFFER_BYTES, IN_MEMORY_BYTES, LatentDensity, LatentSpec
from stage1_vae.ranks import ALONE, Ranks

FIT_VERSION = 3
"""Part of the key of what `fit_by_gradient` makes; raised whenever its results change."""
FEW_STEPS = 2
"""Where tokens are few, batches become smaller until there are so many."""


class PriorError(ExpostError, ValueError):
    """A fit that cannot be done as asked: one line for the user, with the remedy."""


class Density(LatentDensity, Protocol):
    """What is measured of a prior: the costs of latents."""

    spec: LatentSpec
    anchor: Tensor
    passes: int


class FitStates:
    """Where a fit that has no Lightning loop keeps its state between iterations, and finds it when it starts again.

    This one keeps nothing: a fit that is stopped starts over.
    """

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Call it after each iteration: it keeps as often as that is cheap.

        Args:
            done, total: iterations, for the user's eyes.
            tensors: the state; of any shape and type.
            facts: what else there is, as JSON has it; floating-point numbers come back to the last bit.
        """

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last by an attempt that did not finish, on the CPU; None: the fit begins."""
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

    def scale(self, share: float) -> "Sizes":
        return Sizes(**{name: max(1, round(share * size)) for name, size in asdict(self).items()})


@dataclass(frozen=True)
class FitRun:
    """What the world lends to a fit.

    Attributes:
        device: where to compute.
        seed: of everything random in the fit.
        log: takes figures (name -> value) and the step or epoch that they belong to.
        lightning_fit: runs Lightning's training loop with the run's device, loggers and progress bar; takes a module,
            its training and validation batches, and any keyword of `pytorch_lightning.Trainer`; with `resumable=False`
            it keeps nothing, which whoever calls it twice must say.
        settings: the `fit:` section of the prior's config (batch size, learning rate, patience, ...).
        states: for a fit with a loop of its own; `lightning_fit` keeps and continues by itself.
        ranks: the processes that fit together; each is lent a `FitRun` of its own and ends with the same answer.
        sizes: where the fit goes another way.
        encoder: q(z|x) of images [B, C, H, W] as stage 1 takes them, frozen and differentiable; None: there is none.
        images: rows [B] of the training set -> such images, on the device; None: there are none.
        fitted_member: gives a member of a prior that has stored parts, by its place, what it is alone, and returns what
            its fit reported; None: there is no store, and members are fitted in their turn.
        learned: the state of what was learned with the VAE, for `priors.learned`; None: nothing was.
        features: z [N, *latent] -> [N, F], of the images that they are decoded to, for a prior that `looks_at_images`;
            None: there are none.
        measures: whether the report says what latents cost; what stands around the prior measures itself otherwise.
        is_over: whether the seconds of the fit have passed; what has something to show by then ends with that.
    """

    device: torch.device
    seed: int
    log: Callable[[Mapping[str, float], int], None]
    lightning_fit: Callable[..., None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    states: FitStates = field(default_factory=FitStates)
    ranks: Ranks = field(default_factory=Ranks)
    sizes: Sizes = field(default_factory=Sizes)
    encoder: Callable[[Tensor], Distribution] | None = None
    images: Callable[[Tensor], Tensor] | None = None
    fitted_member: Callable[[nn.Module, int], "FitReport"] | None = None
    learned: Mapping[str, Tensor] | None = None
    features: Callable[[Tensor], Tensor] | None = None
    measures: bool = True
    is_over: Callable[[], bool] = lambda: False


Logged = tuple[dict[str, float], int]
"""Figures, and the step or epoch that they belong to."""


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Attributes:
        seconds: wall time of the fit alone; of one that was continued, over all attempts, without what was done twice;
            NaN: nobody knows.
        train_nll_nats: mean -log p(z) over fresh z ~ q(z|x), training images; None without a density. Of a prior of
            classes too, it is that of all classes together.
        val_nll_nats: the same on held-out images.
        curve: held-out figures over the fit, one mapping an iteration or epoch. Of a prior of classes, `val_nll_nats`
            in it is the mean -log p(z|y), and so not the figure of that name above.
        notes: what the user should know, in words (a component re-seeded, stopped at the time limit, ...).
        ladder: of a choice among several priors, a mapping each: `rung`, `seconds` and `words`, and of those that were
            fitted `val_nll_nats`, or `frechet_distance`, `behind` (the best one) and the standard `error` of that.
        over_gaussian: `gain_nats` over one Gaussian on `num` held-out latents, and the standard error of that,
            `error_nats`; None: there is none to hold it against.
        look: what was remarkable of the latents before the fit, a mapping each: `what`, `seen` and `done` about it
            (`stage1_vae.latents.look`).
    """

    seconds: float
    train_nll_nats: float | None
    val_nll_nats: float | None
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ladder: list[dict[str, Any]] = field(default_factory=list)
    over_gaussian: dict[str, float] | None = None
    look: list[dict[str, str]] = field(default_factory=list)


class Stopwatch:
    """Seconds of a fit over all of its attempts, from its making: what a state was kept after counts, what was lost
    behind it does not."""

    def __init__(self) -> None:
        self.go_on_from(0.0)

    def go_on_from(self, seconds: float) -> None:
        """Stand at `seconds` now, as when the state was kept from which the fit continues."""
        self._started = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started


@dataclass(frozen=True)
class FitSettings:
    """The `fit:` section of a gradient prior's config.

    Attributes:
        max_epochs, max_steps: training ends with whichever comes first, at the end of an epoch; the learning rate
            reaches zero there. max_steps null: no limit.
        batch_size: latents a step, at most a sixteenth of the training set (but at least 32).
        learning_rate: its peak.
        weight_decay: of AdamW, on matrices.
        warmup: share of all steps over which the learning rate rises.
        clip: largest norm of the gradient.
        average: decay a step of the running average of the weights; 0: no average.
        patience: epochs without a better held-out figure before the fit stops.
        val_draws: latents that the held-out figure averages over, at least; small sets are drawn repeatedly, but for
            those all of whose draws are the same (codes, and vectors without noise).
        max_tokens: numbers (codes, bits, dimensions) of latents that training looks at, which may then end within an
            epoch, and as many that the held-out figures look at; null: no limit.
        max_seconds: stop after the epoch that crosses it; null: no limit. A fit that it ends is not reproducible.
        precision: of the network, in Lightning's words; auto: bf16-mixed where the machine is faster by it, else the
            run's.

    Raises:
        PriorError: for a number out of range.
    """

    max_epochs: int = 20
    max_steps: int | None = None
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    patience: int = 8
    val_draws: int = 4096
    max_tokens: int | None = None
    max_seconds: float | None = None
    precision: Literal["auto", "32-true", "bf16-mixed"] | None = "auto"

    def __post_init__(self) -> None:
        positive = ("max_epochs", "max_steps", "batch_size", "learning_rate", "clip", "patience", "val_draws")
        for name in (*positive, "max_tokens", "max_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise PriorError(f"prior.fit.{name}={value}: give a number above 0")
        for name in ("warmup", "average"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise PriorError(f"prior.fit.{name}={share}: give a share from 0 to below 1")
        if self.weight_decay < 0:
            raise PriorError(f"prior.fit.weight_decay={self.weight_decay}: give 0 or more")

    @classmethod
    def of(cls, run: FitRun) -> "FitSettings":
        """Settings from the `fit:` section of the config.

        Raises:
            PriorError: for a key that does not exist.
        """
        known = [field.name for field in fields(cls)]
        for name in run.settings:
            if name not in known:
                raise PriorError(f"prior.fit.{name} is unknown; the keys are {', '.join(known)}")
        return cls(**run.settings)

    def course(self, num: int, dims: int, ranks: Ranks = ALONE) -> "Course":
        """What there is to do on `num` latents of `dims` numbers each."""
        size = min(self.batch_size, max(32, num // 16), num)
        if self.max_tokens is not None:
            size = min(size, max(1, self.max_tokens // (FEW_STEPS * dims)))
        size = ranks.divisible(size)
        steps = max(1, num // size)
        most = steps * self.max_epochs if self.max_steps is None else self.max_steps
        if self.max_tokens is not None:
            most = min(most, max(FEW_STEPS, self.max_tokens // (size * dims)))
            steps = min(steps, most)
        epochs = min(self.max_epochs, math.ceil(most / steps))
        held_out = None if self.max_tokens is None else max(1, self.max_tokens // (dims * epochs))
        return Course(size, steps, epochs, held_out)


@dataclass(frozen=True)
class Course:
    """How long a training is.

    Attributes:
        batch_size: latents a step, of all ranks together.
        steps: of an epoch.
        epochs: at most.
        held_out: draws of the validation set that each epoch may look at; None: as many as the settings say.
    """

    batch_size: int
    steps: int
    epochs: int
    held_out: int | None
