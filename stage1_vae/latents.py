"""The door between the stages: what stage 2 may know of stage 1.

A `LatentDataset` holds the parameters of every q(z|x_i), memory-mapped from plain `.npy` files, never one frozen draw:
each epoch of stage 2 draws fresh z ~ q(z|x_i), so what it fits is the aggregate posterior
q(z) = 1/N sum_i q(z|x_i) (Makhzani et al., "Adversarial Autoencoders", 2016) and not a noisy copy of the means.

On disk: `latents.json` (spec, family, provenance, count) beside one float32 `.npy` file a parameter, and `labels.npy`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stage1_vae.posteriors import LOG_2PI, Delta, DiagonalNormal

FAMILIES = {"diagonal_normal": DiagonalNormal, "delta": Delta}
PARAMETERS = {"diagonal_normal": ("loc", "log_std"), "delta": ("loc",)}
HEADER = "latents.json"


class LatentDensity(Protocol):
    """What stage 1, sampling and judging may know of a prior: base, learned jointly or learned afterwards."""

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor: ...
    def sample(self, n: int, context: Tensor | None = None) -> Tensor: ...
    def loss(self, z: Tensor, context: Tensor | None = None) -> Tensor: ...


class Support(str, Enum):
    """Where z lives."""

    REAL = "real"
    SPHERE = "sphere"
    CODES = "codes"
    BITS = "bits"


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

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "support": self.support.value}

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> "LatentSpec":
        return cls(
            shape=tuple(int(n) for n in stored["shape"]),  # type: ignore[attr-defined]
            support=Support(stored["support"]),
            grids=tuple((int(h), int(w)) for h, w in stored["grids"]),  # type: ignore[attr-defined]
            num_codes=tuple(int(n) for n in stored["num_codes"]),  # type: ignore[attr-defined]
            num_classes=int(stored["num_classes"]),  # type: ignore[call-overload]
        )


class LatentDataset:
    """Parameters of q(z|x_i) for i = 1..N, with labels.

    Args:
        spec: what one event is.
        family: a key of `FAMILIES`.
        params: parameter name -> float32 array [N, *spec.shape], in memory or memory-mapped.
        labels: int64 [N] or None.
        provenance: where the latents come from, in words and hashes.
    """

    def __init__(
        self,
        spec: LatentSpec,
        family: str,
        params: Mapping[str, np.ndarray],
        labels: np.ndarray | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        self.spec, self.family, self.params = spec, family, dict(params)
        self.labels = None if labels is None else torch.as_tensor(np.array(labels), dtype=torch.int64)
        self.provenance = dict(provenance or {})
        self._validate()

    def _validate(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown posterior family {self.family!r}; known: {', '.join(FAMILIES)}")
        if set(self.params) != set(PARAMETERS[self.family]):
            raise ValueError(f"{self.family} needs {PARAMETERS[self.family]}, got {tuple(self.params)}")
        for name, values in self.params.items():
            if values.shape[1:] != self.spec.shape or len(values) != len(self):
                raise ValueError(f"{name} is {values.shape}, not ({len(self)}, {self.spec.shape})")
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(f"{len(self.labels)} labels for {len(self)} latents")

    def __len__(self) -> int:
        return len(self.params["loc"])

    @property
    def is_point_mass(self) -> bool:
        return self.family == "delta"

    def posterior(self, index: Tensor | slice) -> DiagonalNormal | Delta:
        """q(z|x_i) for the rows `index`; B is their number."""
        rows = index.numpy() if isinstance(index, Tensor) else index
        return FAMILIES[self.family](
            **{name: torch.from_numpy(np.array(values[rows])) for name, values in self.params.items()}
        )

    def draw(self, index: Tensor) -> Tensor:
        """Fresh z ~ q(z|x_i) for each i in `index` [B]: [B, *shape]."""
        return self.posterior(index).sample()

    def means(self) -> Tensor:
        """E[z|x_i] for all i, [N, *shape]."""
        return torch.from_numpy(np.array(self.params["loc"]))

    def log_stds(self) -> Tensor | None:
        """Logarithms of the standard deviations for all i, [N, *shape]; None for point masses."""
        values = self.params.get("log_std")
        return None if values is None else torch.from_numpy(np.array(values))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One epoch of fresh draws in random order: pairs of z [size, *shape] and labels [size] or None.

        `generator` decides the order; the draws themselves come from torch's global generator.
        """
        for index in torch.randperm(len(self), generator=generator).split(size):
            yield self.draw(index), None if self.labels is None else self.labels[index]

    @torch.no_grad()
    def log_aggregate(self, z: Tensor, chunk: int = 256) -> Tensor:
        """log 1/N sum_i q(z|x_i), exact, [B] nats for z [B, *shape], in chunks of matrix products.

        Raises:
            ValueError: for point masses on real space, whose aggregate has no density.
        """
        if self.is_point_mass:
            raise ValueError("the aggregate of point masses has no density")
        loc = self.means().flatten(1)  # [N, D]
        log_std = torch.from_numpy(np.array(self.params["log_std"])).flatten(1)  # [N, D]
        z = z.flatten(1)
        precision = torch.exp(-2 * log_std.double())  # [N, D]
        # -(z - m)^2 / 2s^2 expands into two matrix products; float64 because the terms cancel.
        linear = (precision * loc.double()).T  # [D, N]
        constant = -0.5 * (precision * loc.double().square() + LOG_2PI).sum(1) - log_std.double().sum(1)  # [N]
        precision = precision.T
        parts = [
            torch.logsumexp(block @ linear - 0.5 * block.square() @ precision + constant, dim=1)
            for block in z.double().split(chunk)
        ]
        return (torch.cat(parts) - np.log(len(self))).to(z.dtype)

    def save(self, folder: Path) -> None:
        """Write the data set into the existing `folder`."""
        for name, values in self.params.items():
            np.save(folder / f"{name}.npy", np.asarray(values, dtype=np.float32))
        if self.labels is not None:
            np.save(folder / "labels.npy", self.labels.numpy())
        header = {
            "spec": self.spec.to_json(),
            "family": self.family,
            "num": len(self),
            "labels": self.labels is not None,
            "provenance": self.provenance,
        }
        (folder / HEADER).write_text(json.dumps(header, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "LatentDataset":
        """Open `folder` without reading the parameters into memory. Nothing that is loaded can run code."""
        header = json.loads((folder / HEADER).read_text())
        names = PARAMETERS[header["family"]]
        params = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
        labels = np.load(folder / "labels.npy", allow_pickle=False) if header["labels"] else None
        if (found := len(params["loc"])) != header["num"]:
            raise ValueError(f"{folder} holds {found} latents and its header says {header['num']}")
        return cls(LatentSpec.from_json(header["spec"]), header["family"], params, labels, header["provenance"])
