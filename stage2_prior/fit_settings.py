"""What the `fit:` section of a gradient prior's config may say."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from stage2_prior.prior import FitRun, PriorError


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
        max_seconds: stop after the epoch that crosses it; null: no limit. A fit that it ends is not reproducible.
        precision: of the network, in Lightning's words; auto: bf16-mixed where the machine has it, else the run's.

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
    max_seconds: float | None = None
    precision: Literal["auto", "32-true", "bf16-mixed"] | None = "auto"

    def __post_init__(self) -> None:
        positive = ("max_epochs", "max_steps", "batch_size", "learning_rate", "clip", "patience", "val_draws")
        for name in (*positive, "max_seconds"):
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

    def batch_of(self, num: int) -> int:
        """Latents a step where there are `num`."""
        return min(self.batch_size, max(32, num // 16), num)

    def epochs_of(self, steps: int) -> int:
        """How many epochs of `steps` there are."""
        return self.max_epochs if self.max_steps is None else min(self.max_epochs, math.ceil(self.max_steps / steps))
