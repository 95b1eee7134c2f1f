"""What an `encode` that is not ours returns as a posterior of ours, and our latents as its `decode` takes them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor

from stage1_vae.base_priors import FairBits, StandardNormal, UniformCodes
from stage1_vae.external.errors import ExternalError
from stage1_vae.latents.dataset import Posterior
from stage1_vae.latents.spec import LatentDensity, LatentSpec, Support
from stage1_vae.posteriors import Bits, Codes, Delta, DiagonalNormal

MOST_CODES = 2**16
"""As many as 16 bits can tell apart, which is what a code is stored in at most."""


class Second(StrEnum):
    """What stands beside a mean."""

    LOG_VAR = "log_var"
    LOG_STD = "log_std"
    STD = "std"
    VAR = "var"

    @property
    def words(self) -> str:
        names = {"log_var": "log-variance", "log_std": "log standard deviation", "std": "standard deviation"}
        return names.get(self.value, "variance")

    def log_std(self, value: Tensor) -> Tensor:
        """The logarithm of the standard deviation, float32; NaN or minus infinity where `value` can be none."""
        value = value.float()
        if self is Second.LOG_STD:
            return value
        return value / 2 if self is Second.LOG_VAR else value.log() if self is Second.STD else value.log() / 2


@dataclass(frozen=True)
class Reading(ABC):
    """How a model's latents become ours, and ours the model's.

    Attributes:
        words: what was recognised, for people.
        guesses: what could have been read otherwise, each with the key that changes it.
    """

    words: str
    guesses: tuple[str, ...] = ()

    family: ClassVar[str]

    @abstractmethod
    def posterior(self, output: Any) -> Posterior:
        """q(z|x), batch [B], float32, of what `encode` returned for B images.

        Raises:
            ExternalError: a code is not of the codebook.
        """

    @abstractmethod
    def spec(self, shape: tuple[int, ...], num_classes: int) -> LatentSpec:
        """Of latents whose event has this shape."""

    @abstractmethod
    def base_prior(self, spec: LatentSpec) -> LatentDensity | None:
        """What models of this kind are trained against; None: nothing that anybody knows."""

    def latents(self, z: Tensor) -> Any:
        """z [B, *shape] as `decode` takes it."""
        return z


class RealReading(Reading):
    """Latents of real numbers."""

    def spec(self, shape: tuple[int, ...], num_classes: int) -> LatentSpec:
        return LatentSpec(shape, num_classes=num_classes)


@dataclass(frozen=True)
class PointReading(RealReading):
    """One float tensor [B, *shape]: a point mass.

    Attributes:
        pick: finds it in what `encode` returned.
    """

    family = "delta"
    pick: Callable[[Any], Tensor] = lambda output: output

    def posterior(self, output: Any) -> Delta:
        return Delta(self.pick(output).float())

    def base_prior(self, spec: LatentSpec) -> None:
        return None


@dataclass(frozen=True)
class NormalReading(RealReading):
    """Means and what stands beside them, [B, *shape] each: a diagonal normal.

    Attributes:
        pick: finds both in what `encode` returned.
        second: what stands beside the means.
    """

    family = "diagonal_normal"
    pick: Callable[[Any], tuple[Tensor, Tensor]] = lambda output: output
    second: Second = Second.LOG_VAR

    def posterior(self, output: Any) -> DiagonalNormal:
        mean, second = self.pick(output)
        return DiagonalNormal(mean.float(), self.second.log_std(second))

    def base_prior(self, spec: LatentSpec) -> StandardNormal:
        return StandardNormal(spec.shape)


@dataclass(frozen=True)
class BitReading(Reading):
    """Independent Bernoulli bits, of logits [B, *event].

    Attributes:
        pick: finds the logits in what `encode` returned.
        event: the shape in which `decode` takes them.
    """

    family = "bits"
    pick: Callable[[Any], Tensor] = lambda output: output
    event: tuple[int, ...] = ()

    def posterior(self, output: Any) -> Bits:
        return Bits(self.pick(output).float().flatten(1))

    def spec(self, shape: tuple[int, ...], num_classes: int) -> LatentSpec:
        return LatentSpec(shape, Support.BITS, num_classes=num_classes)

    def base_prior(self, spec: LatentSpec) -> FairBits:
        return FairBits(spec.num_dims)

    def latents(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), *self.event)


@dataclass(frozen=True)
class CodeReading(Reading):
    """Integer codes of one map or sequence, or of a list of them: a point mass on codes, laid end to end.

    Attributes:
        pick: finds the levels in what `encode` returned, [B, *event] each.
        events: the shape of each level, (T,) or (h, w).
        num_codes: the size of each one's codebook.
        dtype: in which `decode` takes them.
        listed: whether it takes a list, even of one.
    """

    family = "codes"
    pick: Callable[[Any], list[Tensor]] = lambda output: [output]
    events: tuple[tuple[int, ...], ...] = ()
    num_codes: tuple[int, ...] = ()
    dtype: torch.dtype = torch.int64
    listed: bool = False

    def posterior(self, output: Any) -> Codes:
        levels = [level.flatten(1).long() for level in self.pick(output)]
        for level, num in zip(levels, self.num_codes, strict=True):
            low, high = int(level.min()), int(level.max())
            if low < 0 or high >= num:
                raise ExternalError(
                    f"encode(x) returns the code {low if low < 0 else high:,} of a codebook of {num:,} (0 to "
                    f"{num - 1:,}): give its size, vae.num_codes=NUMBER, and leave out codes that stand for no vector"
                )
        return Codes(torch.cat(levels, 1))

    def spec(self, shape: tuple[int, ...], num_classes: int) -> LatentSpec:
        grids = tuple((1, event[0]) if len(event) == 1 else (event[0], event[1]) for event in self.events)
        return LatentSpec(shape, Support.CODES, grids, self.num_codes, num_classes)

    def base_prior(self, spec: LatentSpec) -> UniformCodes:
        return UniformCodes(spec)

    def latents(self, z: Tensor) -> Tensor | list[Tensor]:
        parts = z.to(self.dtype).split([math.prod(event) for event in self.events], 1)
        levels = [part.reshape(len(z), *event) for part, event in zip(parts, self.events, strict=True)]
        return levels if self.listed else levels[0]
