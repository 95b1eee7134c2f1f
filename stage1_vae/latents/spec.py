"""What one latent is, which numbers tell its posterior, and what a density of latents does."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from torch import Tensor

NUM_DRAWS = 16
"""Draws that are kept of a posterior which no few numbers describe."""
PARAMETERS = {
    "diagonal_normal": ("loc", "log_std"),
    "delta": ("loc",),
    "codes": ("codes",),
    "bits": ("logits",),
    "draws": tuple(f"draw_{i}" for i in range(NUM_DRAWS)),
    "power_spherical": ("loc", "log_concentration"),
    "truncated_normal": ("loc", "log_std"),
}
"""Family of q(z|x) -> the parameters that are stored, each [N, *shape] but for the `SCALARS`."""
SCALARS = ("log_concentration",)
"""Parameters of which a posterior has one number, [N]."""


class Column(Protocol):
    """A parameter of all posteriors, [N, *shape]: an array, memory-mapped, or made when its rows are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class DerivedColumn:
    """A parameter that is made of another one when its rows are read: there is no second copy of the set."""

    shape: tuple[int, ...]
    read: Callable[[Any], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        return self.read(rows)


class LatentDensity(Protocol):
    """What stage 1, sampling and judging may know of a prior: base, learned jointly or learned afterwards."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor: ...
    def sample(self, n: int, context: Tensor | None = None) -> Tensor: ...
    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor: ...


class Support(str, Enum):
    """Where z lives: SPHERE is |z| = 1, and BOX is [-1, 1] in each dimension."""

    REAL = "real"
    SPHERE = "sphere"
    CODES = "codes"
    BITS = "bits"
    BOX = "box"


@dataclass(frozen=True)
class LatentSpec:
    """What one latent event is.

    Attributes:
        shape: (D,) for a vector, (C, h, w) for a map, (T,) for a sequence of codes or bits.
        support: where z lives.
        grids: for codes, the maps that the sequence lays end to end, coarse first.
        num_codes: for codes, one codebook size a grid.
        num_classes: labels kept beside the latents; 0: none.
    """

    shape: tuple[int, ...]
    support: Support = Support.REAL
    grids: tuple[tuple[int, int], ...] = ()
    num_codes: tuple[int, ...] = ()
    num_classes: int = 0

    @property
    def num_dims(self) -> int:
        return int(np.prod(self.shape))

    @property
    def words(self) -> str:
        """For the user: codes of shape (49)."""
        return f"{self.support.value} of shape ({', '.join(map(str, self.shape))})"

    def parameter_shape(self, parameter: str) -> tuple[int, ...]:
        """Of one posterior."""
        return () if parameter in SCALARS else self.shape

    def dtype(self, parameter: str) -> np.dtype:
        """What a parameter is stored as: codes in the smallest integers that hold them, all else in float32."""
        return np.min_scalar_type(max(self.num_codes) - 1) if parameter == "codes" else np.dtype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "support": self.support.value}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LatentSpec":
        return cls(
            shape=tuple(int(n) for n in stored["shape"]),
            support=Support(stored["support"]),
            grids=tuple((int(h), int(w)) for h, w in stored["grids"]),
            num_codes=tuple(int(n) for n in stored["num_codes"]),
            num_classes=int(stored["num_classes"]),
        )
