"""The aggregate posterior q(z) = 1/N sum_i q(z|x_i) of a data set, exactly.

log q(z|x_i) is linear in something: in (z^2, z, 1) where posteriors are diagonal normals, in (z, 1) where they are
independent bits, z . l_i - sum_d log(1 + exp(l_id)). So a tile of latents by components is one matrix product, and a
running log-sum-exp over tiles keeps memory independent of N. Posteriors of codes are point masses, and what is asked
for is how often a sequence occurs.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.latents.spec import Column, LatentSpec
from stage1_vae.posteriors import LOG_2PI

TILE_PAIRS, DEVICE_TILE_PAIRS = 2**18, 2**24
"""Pairs of latent and component that are looked at together: 2 MiB of float64, and 128 MiB on a GPU."""
NEGLIGIBLE = -80.0
"""A term below exp(-80) of the largest changes no digit of a sum, whatever their number."""


class Posteriors(Protocol):
    """What an aggregate is made of: the posteriors of a `LatentDataset`, block by block or a parameter at a time."""

    spec: LatentSpec
    family: str
    params: dict[str, Column]

    def __len__(self) -> int: ...
    def blocks(self) -> Iterator[Distribution]: ...


@torch.no_grad()
def log_mixture(latents: Posteriors, z: Tensor, chunk: int) -> Tensor:
    """log 1/N sum_i q(z|x_i) of bits or diagonal normals, [B] nats for z [B, *shape]; `chunk` latents a tile."""
    form = _Bits(latents) if latents.family == "bits" else _Normals(latents)
    left = form.left(z.flatten(1).double())  # [B, F]
    top = torch.full_like(left[:, :1], -torch.inf)  # [B, 1] largest term so far
    total = torch.zeros_like(top)  # [B, 1] sum of the terms so far, over the largest
    size = max(1, (TILE_PAIRS if z.device.type == "cpu" else DEVICE_TILE_PAIRS) // chunk)
    products = left.new_empty(min(chunk, len(z)) * min(size, len(latents)))
    ratios = products.new_empty(len(products), dtype=torch.float32)
    for start in range(0, len(latents), size):
        right = form.right(slice(start, start + size)).to(z.device)  # [F, n]
        for rows in range(0, len(z), chunk):
            block = left[rows : rows + chunk]
            tile = (len(block), right.shape[1])
            terms = torch.mm(block, right, out=products[: tile[0] * tile[1]].view(tile))  # [b, n] nats
            old = top[rows : rows + chunk]
            new = torch.maximum(old, terms.amax(1, keepdim=True))
            # Over the largest term, float32 is exact enough, and the exponential costs a third; where it would
            # underflow it costs ten times as much, and what is left out is below any rounding.
            ratio = torch.sub(terms, new, out=ratios[: tile[0] * tile[1]].view(tile)).clamp_(min=NEGLIGIBLE).exp_()
            partial = total[rows : rows + chunk]
            partial.mul_(torch.exp(old - new)).add_(ratio.sum(1, keepdim=True))
            old.copy_(new)
    return (top + total.log()).squeeze(1).sub_(math.log(len(latents))).to(z.dtype)


class _Normals:
    """-(z - m)^2 / 2s^2 expands into one product; in float64 because its terms cancel, about a common centre because
    they cancel less there."""

    def __init__(self, latents: Posteriors) -> None:
        self.latents = latents
        self.centre, num = np.zeros(latents.spec.num_dims), 0  # [D] mean of all posterior means
        for posterior in latents.blocks():
            rows = posterior.batch_shape[0]
            num += rows
            mean = posterior.mean.numpy().mean(0, dtype=np.float64).ravel()
            self.centre += (mean - self.centre) * (rows / num)

    def left(self, z: Tensor) -> Tensor:
        """z [B, D] -> [B, 2 D + 1]."""
        centred = z - torch.from_numpy(self.centre).to(z.device)
        return torch.cat([centred.square(), centred, torch.ones_like(z[:, :1])], dim=1)

    def right(self, rows: slice) -> Tensor:
        """Natural parameters of the posteriors in `rows`, [2 D + 1, n]."""
        loc, log_std = _flat(self.latents, "loc", rows), _flat(self.latents, "log_std", rows)  # [n, D]
        mean = loc - torch.from_numpy(self.centre)
        precision = torch.exp(-2 * log_std)
        constant = -0.5 * (precision * mean.square() + LOG_2PI).sum(1, keepdim=True) - log_std.sum(1, keepdim=True)
        return torch.cat([-0.5 * precision, precision * mean, constant], dim=1).T.contiguous()


class _Bits:
    """Independent bits: their logits are the natural parameters."""

    def __init__(self, latents: Posteriors) -> None:
        self.latents = latents

    def left(self, z: Tensor) -> Tensor:
        """z [B, D] -> [B, D + 1]."""
        return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)

    def right(self, rows: slice) -> Tensor:
        """[D + 1, n]."""
        logits = _flat(self.latents, "logits", rows)  # [n, D]
        return torch.cat([logits, -F.softplus(logits).sum(1, keepdim=True)], dim=1).T.contiguous()


def _flat(latents: Posteriors, name: str, rows: slice) -> Tensor:
    """A parameter of the posteriors in `rows`, float64 [n, D]."""
    return torch.from_numpy(np.asarray(latents.params[name][rows], np.float64).reshape(-1, latents.spec.num_dims))


@torch.no_grad()
def log_frequency(latents: Posteriors, z: Tensor) -> Tensor:
    """Logarithm of the share of images whose codes are exactly z [B, T], [B] nats; minus infinity for no image."""
    dtype = latents.spec.dtype("codes")
    sequences, which = np.unique(_as_keys(z.long().cpu().numpy().astype(dtype)), return_inverse=True)
    counts = np.zeros(len(sequences), np.int64)
    for posterior in latents.blocks():
        keys = _as_keys(posterior.sample().numpy().astype(dtype))
        place = np.searchsorted(sequences, keys).clip(max=len(sequences) - 1)
        counts += np.bincount(place[sequences[place] == keys], minlength=len(sequences))
    with np.errstate(divide="ignore"):
        log_share = np.log(counts / len(latents))[which]
    return torch.from_numpy(log_share).to(z.device, torch.float64 if z.dtype == torch.float64 else torch.float32)


def _as_keys(codes: np.ndarray) -> np.ndarray:
    """Each row of codes [n, T] as one thing that can be sorted and compared, [n]."""
    rows = np.ascontiguousarray(codes)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
