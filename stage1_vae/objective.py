"""What stage 1 minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from stage1_vae.latents.spec import LatentSpec
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
    """

    version: ClassVar[int] = 1
    needs_prior: ClassVar[bool]
    """Whether the bottleneck must declare a base prior."""

    @abstractmethod
    def check(self, spec: LatentSpec) -> str | None:
        """Why it cannot train latents of `spec`, in words for the user with the remedy; None if it can."""

    @abstractmethod
    def forward(self, vae: VAE, x: Tensor, step: int | Tensor) -> Terms: ...
