"""What stage 1 minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from stage1_vae.latents.spec import LatentDensity, LatentSpec
from stage1_vae.vae import VAE


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
    needs_prior: ClassVar[bool]
    """Whether the bottleneck must declare a base prior."""

    def __init__(self) -> None:
        super().__init__()
        self.prior: LatentDensity | None = None

    @abstractmethod
    def check(self, spec: LatentSpec) -> str | None:
        """Why it cannot train latents of `spec`, in words for the user with the remedy; None if it can."""

    def check_learned(self, spec: LatentSpec) -> str | None:
        """The same of a prior that is learned with them, whose rate is never in closed form."""
        return None

    def prior_of(self, vae: VAE) -> LatentDensity:
        """What `vae` is trained against.

        Raises:
            ValueError: nothing.
        """
        return vae.trained_against if self.prior is None else self.prior

    @abstractmethod
    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms: ...
