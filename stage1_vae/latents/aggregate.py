"""The aggregate posterior q(z) = 1/N sum_i q(z|x_i) of a data set, exactly.

log q(z|x_i) is linear in something: in (z^2, z, 1) where posteriors are diagonal normals, cut to a box or not, in
(z, 1) where they are independent bits, z . l_i - sum_d log(1 + exp(l_id)); and on the sphere it is a function of one
product, m_i . z. So a tile of latents by components is one matrix product, and a running log-sum-exp over tiles keeps
memory independent of N. Posteriors of codes are point masses, and what is asked for is how often a sequence occurs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from stage1_vae.latents.spec import Column, LatentSpec
from stage1_vae.posteriors import LOG_2PI
from stage1_vae.rows import spread_rows
from stage1_vae.spaces.box import log_mass
from stage1_vae.spaces.sphere import LOG_2, NEAREST, log_normaliser

TILE_PAIRS, DEVICE_TILE_PAIRS = 2**18, 2**24
"""Pairs of latent and component that are looked at together: 2 MiB of float64, and 128 MiB on a GPU."""
NEGLIGIBLE = -80.0
"""A term below exp(-80) of the largest changes no digit of a sum, whatever their number."""
CENTRE_ROWS = 1000
"""Posterior means that say about which point squares are expanded."""
ROUNDING = 1e-4
"""Nats that an expanded square may lose by cancellation."""


class Posteriors(Protocol):
    """What an aggregate is made of: the posteriors of a `LatentDataset`, block by block or a parameter at a time."""

    spec: LatentSpec
    family: str
    params: dict[str, Column]

    def __len__(self) -> int: ...
    def blocks(self) -> Iterator[Distribution]: ...


@torch.no_grad()
def log_mixture(latents: Posteriors, z: Tensor, chunk: int) -> Tensor:
    """log 1/N sum_i q(z|x_i) of posteriors that have a density, [B] nats for z [B, *shape]; `chunk` latents a tile."""
    form = FORMS.get(latents.family, _Normals)(latents)
    log_sum, _ = _log_sum(form.left(z.flatten(1).double()), form.right, len(latents), chunk, terms=form.terms)
    if latents.family == "truncated_normal":
        log_sum = torch.where((z.abs() <= 1).flatten(1).all(1), log_sum, -torch.inf)
    return log_sum.sub_(math.log(len(latents))).to(z.dtype)


def log_mean_normal(z: Tensor, loc: Tensor, log_std: Tensor, chunk: int = 256) -> Tensor:
    """log 1/N sum_i N(z; loc_i, diag(exp(log_std_i))^2), [B] float64 nats for z [B, D]; loc, log_std [N, D].

    With a gradient by z alone: the log of a sum of exponentials of forms changes as their mean form does, each form
    weighted by its share of the sum, and that mean is taken tile by tile too.
    """
    centre = _centre(loc[spread_rows(len(loc), CENTRE_ROWS).to(loc.device)])
    left = _powers(z.double() - centre)

    def right(rows: slice) -> Tensor:
        return _natural(loc[rows].double() - centre, log_std[rows].double())

    wanted = left.requires_grad
    with torch.no_grad():
        log_sum, mean_form = _log_sum(left.detach(), right, len(loc), chunk, wanted, _squares)
    if mean_form is not None:
        log_sum = log_sum + ((left - left.detach()) * mean_form).sum(1)  # adds nothing but the gradient
    return log_sum - math.log(len(loc))


def _product(left: Tensor, forms: Tensor, out: Tensor) -> Tensor:
    """left [b, F], forms [F, n] -> [b, n], in `out`."""
    return torch.mm(left, forms, out=out)


def _log_sum(
    left: Tensor,
    right: Callable[[slice], Tensor],
    num: int,
    chunk: int,
    mean_wanted: bool = False,
    terms: Callable[[Tensor, Tensor, Tensor], Tensor] = _product,
) -> tuple[Tensor, Tensor | None]:
    """log sum_i exp(left . right_i) over `num` forms, [B] for left [B, F], and the mean form [B, F] if it is wanted.

    `right`: rows -> the forms of these, [F, n]; `chunk` rows of `left` a tile; `terms`: what is made of both, in place
    of their product, into its third argument.
    """
    top = torch.full_like(left[:, :1], -torch.inf)  # [B, 1] largest term so far
    total = torch.zeros_like(top)  # [B, 1] sum of the terms so far, over the largest
    mean = torch.zeros_like(left) if mean_wanted else None  # the same, of forms
    size = max(1, (TILE_PAIRS if left.device.type == "cpu" else DEVICE_TILE_PAIRS) // chunk)
    products = left.new_empty(min(chunk, len(left)) * min(size, num))
    ratios = products.new_empty(len(products), dtype=torch.float32)
    for start in range(0, num, size):
        forms = right(slice(start, min(start + size, num))).to(left.device)  # [F, n]
        for rows in range(0, len(left), chunk):
            block = left[rows : rows + chunk]
            tile = (len(block), forms.shape[1])
            nats = terms(block, forms, products[: tile[0] * tile[1]].view(tile))  # [b, n]
            old = top[rows : rows + chunk]
            new = torch.maximum(old, nats.amax(1, keepdim=True))
            # Over the largest term, float32 is exact enough, and the exponential costs a third; where it would
            # underflow it costs ten times as much, and what is left out is below any rounding.
            ratio = torch.sub(nats, new, out=ratios[: tile[0] * tile[1]].view(tile)).clamp_(min=NEGLIGIBLE).exp_()
            shrink = torch.exp(old - new)
            total[rows : rows + chunk].mul_(shrink).add_(ratio.sum(1, keepdim=True))
            if mean is not None:
                mean[rows : rows + chunk].mul_(shrink).addmm_(ratio.double(), forms.T)
            old.copy_(new)
    return (top + total.log()).squeeze(1), None if mean is None else mean / total


class _Normals:
    """-(z - m)^2 / 2s^2 expands into one product; in float64 because its terms cancel, about a common centre because
    they cancel less there. Of normals cut to a box, each with what the cut has left of it."""

    def __init__(self, latents: Posteriors) -> None:
        self.latents = latents
        self.centre = _centre(_flat(latents, "loc", spread_rows(len(latents), CENTRE_ROWS).numpy()))  # [D]
        self.terms = _product if latents.family == "truncated_normal" else _squares

    def left(self, z: Tensor) -> Tensor:
        """z [B, D] -> [B, 2 D + 1]."""
        return _powers(z - self.centre.to(z.device))

    def right(self, rows: slice) -> Tensor:
        """Natural parameters of the posteriors in `rows`, [2 D + 1, n]."""
        loc, log_std = _flat(self.latents, "loc", rows), _flat(self.latents, "log_std", rows)  # [n, D]
        natural = _natural(loc - self.centre, log_std)
        if self.latents.family == "truncated_normal":
            natural[-1] -= log_mass(loc, log_std).sum(1)
        return natural


def _centre(means: Tensor) -> Tensor:
    """[n, D] -> [D] float64, in the middle of them: their mean would be far from all where a few are wild."""
    return means.double().median(0).values


def _squares(left: Tensor, forms: Tensor, out: Tensor) -> Tensor:
    """The product of `_powers` [b, 2 D + 1] and `_natural` [2 D + 1, n]; of latents so far from the centre, in widths
    of the narrowest normal, that nothing would be left of its digits: squares of differences."""
    num_dims, eps = len(forms) // 2, torch.finfo(torch.float64).eps
    torch.mm(left, forms, out=out)
    widths_away = left[:, :num_dims] @ (-2 * forms[:num_dims].amin(1))  # squared
    far = (eps * widths_away > ROUNDING).nonzero().squeeze(1)
    if len(far):
        precision = -2 * forms[:num_dims]
        nats = (0.5 * (precision.log() - LOG_2PI)).sum(0).repeat(len(far), 1)
        for d in range(num_dims):
            z = left[far, num_dims + d, None]
            distance = z - forms[num_dims + d] / precision[d]
            distance[distance.abs() < 4 * eps * z.abs()] = 0.0  # rounding of the quotient, not an infinite one
            nats.addcmul_(precision[d].expand_as(nats), distance.square_(), value=-0.5)
        out[far] = nats
    return out


def _powers(z: Tensor) -> Tensor:
    """[B, D] -> [B, 2 D + 1], in which the log-density of a diagonal normal is linear."""
    return torch.cat([z.square(), z, torch.ones_like(z[:, :1])], dim=1)


def _natural(mean: Tensor, log_std: Tensor) -> Tensor:
    """What it is linear by, [n, D] each -> [2 D + 1, n]."""
    precision = torch.exp(-2 * log_std)
    constant = -0.5 * (precision * mean.square() + LOG_2PI).sum(1, keepdim=True) - log_std.sum(1, keepdim=True)
    return torch.cat([-0.5 * precision, precision * mean, constant], dim=1).T.contiguous()


class _Bits:
    """Independent bits: their logits are the natural parameters."""

    terms = staticmethod(_product)

    def __init__(self, latents: Posteriors) -> None:
        self.latents = latents

    def left(self, z: Tensor) -> Tensor:
        """z [B, D] -> [B, D + 1]."""
        return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)

    def right(self, rows: slice) -> Tensor:
        """[D + 1, n]."""
        logits = _flat(self.latents, "logits", rows)  # [n, D]
        return torch.cat([logits, -F.softplus(logits).sum(1, keepdim=True)], dim=1).T.contiguous()


class _PowerSphericals:
    """Each is k log((1 + m . z) / 2) and a constant."""

    def __init__(self, latents: Posteriors) -> None:
        self.latents = latents

    def left(self, z: Tensor) -> Tensor:
        """z [B, D] -> unit vectors [B, D]."""
        return F.normalize(z, dim=1)

    def right(self, rows: slice) -> Tensor:
        """Directions, and below them concentration and constant, [D + 2, n]."""
        direction = F.normalize(_flat(self.latents, "loc", rows), dim=1)
        log_concentration = np.array(self.latents.params["log_concentration"][rows], np.float64)
        concentration = torch.from_numpy(log_concentration).exp()
        constant = log_normaliser(concentration, direction.shape[1]) - LOG_2 * concentration
        return torch.cat([direction.T, concentration[None], constant[None]])

    @staticmethod
    def terms(left: Tensor, forms: Tensor, out: Tensor) -> Tensor:
        sums = torch.mm(left, forms[:-2], out=out).add_(1).clamp_min_(NEAREST)
        return sums.log_().mul_(forms[-2]).add_(forms[-1])


FORMS: dict[str, type[_Normals] | type[_Bits] | type[_PowerSphericals]] = {
    "bits": _Bits,
    "power_spherical": _PowerSphericals,
}
"""Family -> what its logarithms are products of; all else is normal."""


def _flat(latents: Posteriors, name: str, rows: slice | np.ndarray) -> Tensor:
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
