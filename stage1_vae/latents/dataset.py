"""A `LatentDataset` holds the parameters of every q(z|x_i), memory-mapped from plain `.npy` files, never one frozen
draw: each epoch of stage 2 draws fresh z ~ q(z|x_i), so what it fits is the aggregate posterior
q(z) = 1/N sum_i q(z|x_i) (Makhzani et al., "Adversarial Autoencoders", 2016) and not a noisy copy of the means.

On disk: `latents.json` (spec, family, provenance, count) beside one `.npy` file a parameter, and `labels.npy`.
Parameters are float32, but for codes: those are the smallest unsigned integers that hold them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stage1_vae.files.npy import map_array
from stage1_vae.latents.aggregate import log_frequency, log_mixture
from stage1_vae.latents.files import HEADER, LatentWriter
from stage1_vae.latents.numbers import (
    SPREADS,
    NumberError,
    as_numpy,
    check_codebook,
    check_grids,
    class_numbers,
    parameter,
)
from stage1_vae.latents.spec import PARAMETERS, Column, DerivedColumn, LatentSpec, Support
from stage1_vae.posteriors import Bits, Codes, Delta, DiagonalNormal, Draws
from stage1_vae.spaces.box import TruncatedNormal
from stage1_vae.spaces.sphere import PowerSpherical

Posterior = DiagonalNormal | Delta | Codes | Bits | Draws | PowerSpherical | TruncatedNormal
FAMILIES: dict[str, type[Posterior]] = {
    "diagonal_normal": DiagonalNormal,
    "delta": Delta,
    "codes": Codes,
    "bits": Bits,
    "draws": Draws,
    "power_spherical": PowerSpherical,
    "truncated_normal": TruncatedNormal,
}
IN_MEMORY_BYTES = 2**28
"""Parameters up to 256 MiB are taken into memory where that helps; larger sets are read in blocks."""
BUFFER_BLOCKS = 256
BUFFER_BYTES = 2**26
"""64 MiB of parameters are mixed at once; a block is 256 KiB of them."""
BLOCK_ELEMENTS = 2**22
MAX_HEADER_BYTES = 2**20


class LatentDataset:
    """Parameters of q(z|x_i) for i = 1..N, with labels.

    Args:
        spec: what one event is.
        family: a key of `FAMILIES`.
        params: parameter name -> array [N, *spec.parameter_shape] of `spec.dtype`, in memory, memory-mapped, or made
            when it is read.
        labels: int64 [N] or None; always in memory, 8 bytes a latent (40 MB for 5 million).
        provenance: where the latents come from, in words and hashes.
        repeats: rows that each image has, the first of all images, the second of all, ...: together they weigh as one.
    """

    def __init__(
        self,
        spec: LatentSpec,
        family: str,
        params: Mapping[str, Column],
        labels: np.ndarray | Tensor | None = None,
        provenance: Mapping[str, str] | None = None,
        repeats: int = 1,
    ) -> None:
        self.spec, self.family, self.params, self.repeats = spec, family, dict(params), repeats
        if isinstance(labels, np.ndarray):
            labels = torch.from_numpy(np.array(labels, dtype=np.int64))
        self.labels = labels
        self.provenance = dict(provenance or {})
        if self.family not in FAMILIES:
            raise ValueError(f"unknown posterior family {self.family!r}; known: {', '.join(FAMILIES)}")
        if set(self.params) != set(PARAMETERS[self.family]):
            raise ValueError(f"{self.family} needs {PARAMETERS[self.family]}, got {tuple(self.params)}")
        for name, values in self.params.items():
            shape = self.spec.parameter_shape(name)
            if values.shape[1:] != shape or len(values) != len(self):
                raise ValueError(f"{name} is {values.shape}, not ({len(self)}, {shape})")
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(f"{len(self.labels)} labels for {len(self)} latents")

    @classmethod
    def of(
        cls,
        loc: Tensor | np.ndarray | None = None,
        log_std: Tensor | np.ndarray | None = None,
        labels: Tensor | np.ndarray | None = None,
        *,
        std: Tensor | np.ndarray | None = None,
        log_var: Tensor | np.ndarray | None = None,
        var: Tensor | np.ndarray | None = None,
        codes: Tensor | np.ndarray | None = None,
        num_codes: int | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> "LatentDataset":
        """Posteriors from arrays or tensors of any type of numbers, on any device.

        Args:
            loc: [N, D] or [N, C, h, w] means; point masses where no spread is given.
            log_std, std, log_var, var: of the shape of `loc`, one of them.
            labels: whole numbers [N] from 0.
            codes: [N, T] or [N, h, w] instead of `loc`, whole numbers from 0.
            num_codes: size of the codebook; None: the largest code and one.
            grids: the maps (h, w) that a row of codes lays end to end, coarse first; None: one.
            provenance: where the latents come from, in words and hashes.

        Raises:
            ValueError: what is given is no such thing; one line.
        """
        if (loc is None) == (codes is None):
            raise ValueError("give either loc or codes")
        spreads = {
            name: values
            for name, values in zip(SPREADS, (log_std, std, log_var, var), strict=True)
            if values is not None
        }
        if len(spreads) > 1 or (spreads and codes is not None):
            raise ValueError(f"{' and '.join(spreads)} given: one spread goes with loc, and none with codes")
        if loc is not None:
            if num_codes is not None or grids is not None:
                raise ValueError("num_codes and grids go with codes")
            spec, params = _of_normals({name: as_numpy(values) for name, values in {"loc": loc, **spreads}.items()})
            family = "diagonal_normal" if spreads else "delta"
        elif codes is not None:
            spec, params = _of_codes(as_numpy(codes), num_codes, grids)
            family = "codes"
        if labels is not None:
            num = len(next(iter(params.values())))
            labels = class_numbers(as_numpy(labels), num)
            spec = replace(spec, num_classes=int(labels.max()) + 1)
        return cls(spec, family, params, labels, provenance)

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    @property
    def is_point_mass(self) -> bool:
        """Whether q(z|x) has no density. A point mass on codes has a mass, and so a rate."""
        return self.family == "delta"

    @property
    def has_density(self) -> bool:
        """Whether q(z|x), as it is stored, has one; of codes and bits a mass. Points have none, and draws neither."""
        return self.family not in ("delta", "draws")

    @property
    def is_certain(self) -> bool:
        """Whether all draws of an image are the same, so that one tells as much as many: point masses, of codes too."""
        return self.family in ("delta", "codes")

    @property
    def row_bytes(self) -> int:
        """Bytes of the parameters of one posterior."""
        return sum(math.prod(self.spec.parameter_shape(name)) * self.spec.dtype(name).itemsize for name in self.params)

    def fits_memory(self, limit: int | None = None) -> bool:
        """Whether the parameters of all posteriors may lie in memory at once, several times over.

        `limit`: bytes; None: 256 MiB.
        """
        return len(self) * self.row_bytes <= (IN_MEMORY_BYTES if limit is None else limit)

    def posterior(self, index: Tensor | slice) -> Posterior:
        """q(z|x_i) for the rows `index`; B is their number."""
        rows = index.numpy() if isinstance(index, Tensor) else index
        return self._posterior({name: np.array(values[rows]) for name, values in self.params.items()})

    def _posterior(self, params: Mapping[str, np.ndarray]) -> Posterior:
        dtype = np.int64 if self.family == "codes" else np.float32  # torch indexes with int64 alone
        return FAMILIES[self.family](
            **{name: torch.from_numpy(values.astype(dtype, copy=False)) for name, values in params.items()}
        )

    def take(self, rows: Tensor, repeats: int = 1) -> "LatentDataset":
        """The posteriors of `rows` [n], read when they are asked for; each image has `repeats` of them."""
        labels = None if self.labels is None else self.labels[rows]
        numbers = rows.numpy()

        def column(values: Column) -> DerivedColumn:
            return DerivedColumn((len(numbers), *values.shape[1:]), lambda at: values[numbers[at]])

        params = {name: column(values) for name, values in self.params.items()}
        return LatentDataset(self.spec, self.family, params, labels, self.provenance, repeats)

    def with_params(self, params: Mapping[str, Column], spec: LatentSpec | None = None) -> "LatentDataset":
        """As many posteriors of the same images and family by other parameters, over events of `spec`."""
        return LatentDataset(
            self.spec if spec is None else spec, self.family, params, self.labels, self.provenance, self.repeats
        )

    def in_points(self) -> "LatentDataset":
        """Draws as point masses, draw after draw of all images, read when they are asked for; other families as they
        are. For who would take a posterior for its mean and variances."""
        if self.family != "draws":
            return self
        columns, num = list(self.params.values()), len(self)

        def read(at: slice | np.ndarray) -> np.ndarray:
            rows = np.arange(*at.indices(num * len(columns))) if isinstance(at, slice) else np.asarray(at)
            points = np.empty((len(rows), *self.spec.shape), np.float32)
            for i, values in enumerate(columns):
                of_draw = rows // num == i
                points[of_draw] = values[rows[of_draw] % num]
            return points

        labels = None if self.labels is None else self.labels.repeat(len(columns))
        loc = DerivedColumn((num * len(columns), *self.spec.shape), read)
        return LatentDataset(self.spec, "delta", {"loc": loc}, labels, self.provenance, len(columns))

    @property
    def num_images(self) -> int:
        return len(self) // self.repeats

    def draw(self, index: Tensor) -> Tensor:
        """Fresh z ~ q(z|x_i) for each i in `index` [B]: [B, *shape]."""
        return self.posterior(index).sample()

    def blocks(self) -> Iterator[Posterior]:
        """All posteriors in their order, so many rows at a time that a parameter takes 16 MiB."""
        rows = max(1, BLOCK_ELEMENTS // self.spec.num_dims)
        for start in range(0, len(self), rows):
            yield self.posterior(slice(start, start + rows))

    def epoch(
        self,
        size: int,
        generator: torch.Generator | None = None,
        num: int | None = None,
        in_memory_bytes: int | None = None,
        buffer_bytes: int | None = None,
    ) -> Iterator[tuple[Tensor, Posterior]]:
        """Every row once, in random order: pairs of row numbers [size] and their posteriors.

        A set that fits memory comes in a uniform permutation. A larger one is cut into blocks of consecutive rows. An
        epoch takes the blocks in random order, fills a buffer with many of them and shuffles its rows, so that the disk
        reads stretches instead of rows. How well a set sorted by class is mixed depends on the number of blocks in the
        buffer alone: B blocks of one class each hold a class of share p in a share whose standard deviation is at most
        sqrt(p (1 - p) / B), 2 % of the rows for ten classes and B = 256.

        Args:
            size: rows a pair; the last may have fewer.
            generator: decides the order; None: torch's global one.
            num: stop after so many rows.
            in_memory_bytes: what fits memory; None: 256 MiB.
            buffer_bytes: of the buffer; None: 64 MiB.
        """
        num = len(self) if num is None else min(num, len(self))
        if not self.fits_memory(in_memory_bytes):
            yield from self._block_shuffled(size, generator, num, buffer_bytes)
            return
        for rows in torch.randperm(len(self), generator=generator)[:num].split(size):
            yield rows, self.posterior(rows)

    def _block_shuffled(
        self, size: int, generator: torch.Generator | None, num: int, buffer_bytes: int | None
    ) -> Iterator[tuple[Tensor, Posterior]]:
        rows = torch.zeros(0, dtype=torch.int64)
        columns = {name: values[:0] for name, values in self.params.items()}
        num_done = 0
        block_rows = max(1, (buffer_bytes or BUFFER_BYTES) // BUFFER_BLOCKS // self.row_bytes)
        starts = block_rows * torch.randperm(-(-len(self) // block_rows), generator=generator)
        for buffer_starts in starts.split(BUFFER_BLOCKS):
            blocks = [slice(start, min(start + block_rows, len(self))) for start in buffer_starts.tolist()]
            rows = torch.cat([rows, *(torch.arange(block.start, block.stop) for block in blocks)])
            for name, values in self.params.items():
                columns[name] = np.concatenate([columns[name], *(values[block] for block in blocks)])
            order = torch.randperm(len(rows), generator=generator)
            ready = len(order) if num_done + len(order) >= num else len(order) // size * size
            for batch in order[: min(ready, num - num_done)].split(size) if ready else ():
                yield rows[batch], self._posterior({name: values[batch.numpy()] for name, values in columns.items()})
            num_done += ready
            if num_done >= num:
                return
            remaining = order[ready:]
            rows, columns = rows[remaining], {name: values[remaining.numpy()] for name, values in columns.items()}

    def log_aggregate(self, z: Tensor, chunk: int = 256) -> Tensor:
        """log 1/N sum_i q(z|x_i), exact, [B] nats on the device of z [B, *shape].

        Of codes, which are point masses, it is the logarithm of how often the very sequence occurs: minus infinity for
        one that no image has. Memory does not grow with N, and the parameters are read from the disk once.

        Raises:
            ValueError: for point masses on real space and for draws, whose aggregate has no density.
        """
        if not self.has_density:
            raise ValueError(f"the aggregate of {'point masses' if self.is_point_mass else 'draws'} has no density")
        return log_frequency(self, z) if self.family == "codes" else log_mixture(self, z, chunk)

    def save(self, folder: Path) -> None:
        """Write the data set into the existing `folder`."""
        with LatentWriter.create(folder, self.spec, self.family, len(self), self.labels is not None) as writer:
            num = max(1, BLOCK_ELEMENTS // self.spec.num_dims)
            for start in range(0, len(self), num):
                rows = slice(start, start + num)
                labels = None if self.labels is None else self.labels[rows]
                writer.write(start, {name: values[rows] for name, values in self.params.items()}, labels)
            writer.finish(self.provenance)

    @classmethod
    def load(cls, folder: Path) -> "LatentDataset":
        """Open `folder` without reading the parameters into memory. Nothing that is loaded can run code.

        Raises:
            ValueError: the folder holds anything else than its header says.
        """
        try:
            with (folder / HEADER).open("rb") as file:
                content = file.read(MAX_HEADER_BYTES + 1)
            if len(content) > MAX_HEADER_BYTES:
                raise ValueError(f"{HEADER} has more than {MAX_HEADER_BYTES:,} bytes")
            header = json.loads(content)
            names = PARAMETERS[header["family"]]
            params = {name: map_array(folder / f"{name}.npy") for name in names}
            labels = np.array(map_array(folder / "labels.npy")) if header["labels"] else None
            if (num := len(next(iter(params.values())))) != header["num"]:
                raise ValueError(f"it holds {num} latents and its header says {header['num']}")
            return cls(LatentSpec.from_json(header["spec"]), header["family"], params, labels, header["provenance"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{folder} holds no latents that can be read: {error}") from error


def _of_normals(arrays: Mapping[str, np.ndarray]) -> tuple[LatentSpec, dict[str, np.ndarray]]:
    """Real latents from `loc` and at most one spread, in float32."""
    loc = arrays["loc"]
    if loc.ndim not in (2, 4) or 0 in loc.shape:
        raise ValueError(f"loc has shape {loc.shape}: give vectors [N, D] or maps [N, C, h, w], at least one")
    params = {}
    for name, values in arrays.items():
        if values.shape != loc.shape:
            raise ValueError(f"{name} has shape {values.shape} and loc {loc.shape}: give one a number of loc")
        params["loc" if name == "loc" else "log_std"] = _checked(name, values)
    return LatentSpec(tuple(loc.shape[1:])), params


def _of_codes(
    codes: np.ndarray, num_codes: int | None, grids: Sequence[tuple[int, int]] | None
) -> tuple[LatentSpec, dict[str, np.ndarray]]:
    if codes.ndim not in (2, 3) or 0 in codes.shape:
        raise ValueError(f"codes have shape {codes.shape}: give sequences [N, T] or maps [N, h, w], at least one")
    shape = codes.shape[1:]
    own_grids = ((1, *shape)[-2:],) if grids is None else tuple((int(h), int(w)) for h, w in grids)
    check_grids(own_grids, math.prod(shape))
    if num_codes is not None:
        check_codebook(num_codes)
    values = _checked("codes", codes.reshape(len(codes), -1), num_codes)
    size = max(2, int(values.max()) + 1) if num_codes is None else num_codes
    spec = LatentSpec((math.prod(shape),), Support.CODES, own_grids, (size,) * len(own_grids))
    return spec, {"codes": values.astype(spec.dtype("codes"))}


def _checked(name: str, values: np.ndarray, num_codes: int | None = None) -> np.ndarray:
    """The parameter that `values` [N, ...] are, converted so many rows at a time that copies stay small."""
    rows = max(1, BLOCK_ELEMENTS // math.prod(values.shape[1:]))
    blocks = []
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        try:
            blocks.append(parameter(name, block, num_codes))  # of float32 and int64 it is a view
        except NumberError as error:
            raise ValueError(f"{name}: row {start + error.row} {error.words}; {error.remedy}") from error
    if name in ("loc", "log_std") and values.dtype == np.float32:
        return values  # looked at, and to be kept as it is
    return np.concatenate(blocks)
