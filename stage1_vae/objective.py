"""What stage 1 minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from stage1_vae.latents.spec import LatentDensity, LatentSpec
from stage1_vae.vae import VAE

SCHEDULES_DONE = 2**31
"""The step that validation looks from: a loss whose weights still warm up would make the first epochs the best."""


@dataclass(frozen=True)
class Terms:
    """An objective and its parts on one batch.

    Attributes:
        loss: [] what is minimised, nats per image (with weights, so not always a bound).
        distortion: [B] -log p(x|z), nats.
        rate: [B] KL(q(z|x) || prior), nats; None where the model has no prior.
        extras: further figures to log, each [] .
    """

    loss: Tensor
    distortion: Tensor
    rate: Tensor | None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """(vae, x [B, C, H, W], step) -> Terms. `step` counts optimiser steps, for schedules.

    A compiled step gets it as a tensor [], since a number would be compiled in, anew at each step.

    Attributes:
        prior: a module that is learned together with the VAE and takes the place of its base prior; None: that one.
    """

    version: ClassVar[int] = 1
    came_later: ClassVar[Mapping[str, Any]] = {}
    """Keywords that it has not always had, at the values under which it is what it was: no part of a key then."""
    compiles: ClassVar[bool] = True
    """Whether its step can be compiled."""
    uses_labels: ClassVar[bool] = False
    """Whether it can train with images whose class is known."""
    needs_prior: ClassVar[bool]
    """Whether the bottleneck must declare a base prior."""

    def __init__(self) -> None:
        super().__init__()
        self.prior: LatentDensity | None = None

    @abstractmethod
    def check(self, spec: LatentSpec) -> str | None:
        """Why it cannot train latents of `spec`, in words for the user with the remedy; None if it can."""

    def check_family(self, family: str) -> str | None:
        """The same of posteriors of `family`, a key of `stage1_vae.latents.dataset.FAMILIES`."""
        return None

    def check_learned(self, spec: LatentSpec) -> str | None:
        """The same of a prior that is learned with them, whose rate is never in closed form."""
        return None

    def words(self, vae: VAE) -> str | None:
        """What a user should know of how it weighs `vae`, and of what it is no bound of; None: nothing."""
        return None

    def begin(self, vae: VAE) -> None:
        """Change `vae` for the time of its training."""

    def before_step(self, step: int) -> None:
        """What is to happen once, before the optimiser step `step`, outside of what is compiled."""

    def end(self, vae: VAE) -> None:
        """Leave it as it is to be kept."""

    def prior_of(self, vae: VAE) -> LatentDensity:
        """What `vae` is trained against.

        Raises:
            ValueError: nothing.
        """
        return vae.trained_against if self.prior is None else self.prior

    @abstractmethod
    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms: ...
