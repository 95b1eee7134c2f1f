"""A look at latents before anything is fitted to them: what is remarkable, and what is done about it.

Order statistics are of a sample that is spread over the rows; what may stand in a single row (a repeat, a wild one) is
looked for in all of them, block by block.
"""

import math
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch

from stage1_vae.latents.columns import MOST_COLUMNS, constants, dependent_columns
from stage1_vae.latents.dataset import LatentDataset
from stage1_vae.latents.spec import Support
from stage1_vae.latents.surfaces import common_length, equation_of
from stage1_vae.rows import spread_rows

SAMPLE_NUMBERS, LEAST_SAMPLE, MOST_SAMPLE = 2**20, 1000, 20_000
"""Numbers of the sample, about, and its rows at least and at most."""
EQUAL_SHARE, EQUAL_ROWS = 0.01, 5
"""Of a column: a value that holds both is an atom. Numbers that are drawn from a density repeat by rounding alone."""
REPEATED_SHARE = 0.05
"""Of points: where more are the same as an earlier one, they have no density."""
HEAVY = 8.0
"""The 99.9th percentile of distances from the median, in those of the 75th: 2.9 of a normal distribution, 5 of a
Laplace, 19 of a Student with 2 degrees of freedom."""
WILD = 20.0
"""A row that is so many times as far out as the 99.9th percentile has not come from the tail of the others."""
WILD_SHARE = 0.005
"""Of rows, at most, that are left out of that percentile where they lie so far beyond all others: in few rows of many
numbers a single one is more than a thousandth."""
FEWEST_NUMBERS = 2000
"""Numbers below which nothing is said of tails and wild rows."""
FEW_STEPS = 300
"""Steps of float32 in a standard deviation, below which they are told."""
PRIME = 0x9E3779B97F4A7C15
"""For hashes of rows: 2^64 over the golden ratio."""
HASHED_BYTES = 2**24
"""Of rows that are hashed at once; several copies of them are made."""


@dataclass(frozen=True)
class Remark:
    """One thing that is remarkable.

    Attributes:
        what: it is about.
        seen: figures, in words.
        done: what is done about it, and the key that changes that, in words.
    """

    what: str
    seen: str
    done: str


@dataclass(frozen=True)
class Look:
    """What there is to be seen.

    Attributes:
        seen: of all latents, in a clause: how many, how many different ones, how wide.
        remarks: the most important first.
        no_density: why these latents have none, in words; "" where they have one, or a mass.
        refusal: why nothing can be fitted to them, with the remedy; "" where something can.
    """

    seen: str
    remarks: tuple[Remark, ...] = field(default=())
    no_density: str = ""
    refusal: str = ""

    @property
    def line(self) -> str:
        """All of it in one line."""
        said = [f"{remark.what}: {remark.seen}; {remark.done}" for remark in self.remarks]
        return ". ".join([self.seen, *([self.no_density] if self.no_density else []), *said])

    @property
    def rows(self) -> list[dict[str, str]]:
        """For a table, as JSON has it."""
        first = {"what": "all", "seen": self.seen, "done": self.no_density}
        return [first, *({"what": r.what, "seen": r.seen, "done": r.done} for r in self.remarks)]


def look_at(latents: LatentDataset, keeps_dependent: bool = False) -> Look:
    """Look at the finite latents of a training set; of codes, at their use. `keeps_dependent`: columns that follow from
    others are modelled all the same."""
    with torch.random.fork_rng(devices=[]):  # posteriors of codes are looked at through draws
        distinct, effective = distinct_rows(latents)
        if latents.spec.support is Support.CODES:
            return look_at_codes(latents, distinct)
        return look_at_numbers(latents, distinct, effective, keeps_dependent)


def look_at_numbers(latents: LatentDataset, distinct: int, effective: float, keeps_dependent: bool) -> Look:
    """Of real numbers and bits, by the means of posteriors."""
    num, dims = len(latents), latents.spec.num_dims
    are_points = not latents.has_density and latents.spec.support is Support.REAL
    sample = means_of(latents, spread_rows(num, max(LEAST_SAMPLE, min(MOST_SAMPLE, SAMPLE_NUMBERS // dims))))
    remarks, no_density = [], ""
    if are_points:
        of_columns, no_density, kept = columns_that_follow(latents, keeps_dependent)
        of_channels, reason = channels_that_follow(latents, sample)
        atoms, atoms_reason = equal_values(sample)
        remarks += [*of_columns, *of_channels, *([atoms] if atoms else [])]
        no_density = no_density or reason or atoms_reason
        if not no_density and len(latents.spec.shape) == 1:
            of_all, no_density = surface_of(sample, kept)
            remarks += of_all
    repeated = num - distinct
    if repeated and are_points:
        found = f"{repeated:,} of {num:,} are the same as an earlier one, as good as {effective:,.0f} different ones"
        done = "they count as often as they come; prior.min_std, which mixtures have, is the floor under widths"
        remarks.append(Remark("repeats", found, done))
        if repeated > REPEATED_SHARE * num and not no_density:
            no_density = "whole latents repeat, so that they have no density: nats say how narrow a prior makes them"
    if latents.spec.support is Support.REAL:
        remarks += [r for r in (tails_of(latents, sample), coarse_steps(sample)) if r is not None]
    kind = "points without a width" if are_points else "posteriors"
    shape = "x".join(map(str, latents.spec.shape))
    found = f"{num:,} {kind} of {shape} numbers, {'all' if not repeated else f'{distinct:,}'} different"
    if latents.spec.support is Support.REAL:
        widths = sample.std(0)
        widths = widths[widths > 0]
        noun = "columns" if are_points else "means"
        found += f", {noun} {widths.min():.3g} to {widths.max():.3g} wide" if len(widths) else ", none of which varies"
    return Look(found, tuple(remarks), no_density, same_in_all(num, distinct) if are_points else "")


def same_in_all(num: int, distinct: int) -> str:
    """Why nothing can be fitted to so few different points."""
    if num < 2:
        return f"there is {num} latent for the fit, and a density needs at least two: give more"
    if distinct < 2:
        return (
            f"all {num:,} latents for the fit are the same, so that there is nothing to fit: look at which array was "
            "taken, data.loc, or encode images that differ"
        )
    return ""


def columns_that_follow(latents: LatentDataset, are_kept: bool) -> tuple[list[Remark], str, np.ndarray]:
    """Columns that never vary, and those that are functions of others, of points; why there is no density where they
    `are_kept`; and which numbers are neither, bool [D]."""
    remarks, dims = [], latents.spec.num_dims
    kept = ~constants(latents).ravel()
    fixed = dims - int(kept.sum())
    if fixed:
        found = f"{fixed:,} of {dims:,} numbers never vary"
        done = "data=latents models the others, of maps the channels that vary, and nats are of those"
        remarks.append(Remark("dead columns", found, done))
    what = "columns that follow from others"
    follow = dependent_columns(latents)
    kept[list(follow)] = False
    if follow:
        named, rank = ", ".join(map(str, follow[:10])) + ", ..." * (len(follow) > 10), dims - fixed - len(follow)
        found = f"{len(follow):,} of {dims:,} are sums or repeats of others ({named}, counted from 0): rank {rank:,}"
        done = "they are modelled all the same; " * are_kept
        done += "data=latents computes them and models the others, but for data.dependent=keep"
        remarks.append(Remark(what, found, done))
    elif len(latents.spec.shape) == 1 and dims > MOST_COLUMNS:
        remarks.append(Remark(what, f"not looked for, in {dims:,}", f"up to {MOST_COLUMNS:,} are compared"))
    reason = "columns follow from others, so that all of them have no density: nats say how narrow a prior makes them"
    return remarks, reason if follow and are_kept else "", kept


def surface_of(sample: np.ndarray, kept: np.ndarray) -> tuple[list[Remark], str]:
    """Whether points of which the columns `kept` do not follow from others, the sample [n, D], lie on a surface all the
    same."""
    points = sample.astype(np.float64)
    equation = (common_length(points) if kept.sum() > 1 else "") or equation_of(points[:, kept])
    if not equation:
        return [], ""
    done = "nothing is done about it: compare distances, or give fewer columns, which no equation binds"
    reason = f"{equation}, so that they have no density: nats say how narrow a prior makes them"
    return [Remark("a surface", equation, done)], reason


def channels_that_follow(latents: LatentDataset, sample: np.ndarray) -> tuple[list[Remark], str]:
    """Channels of maps that repeat others, which the sample [n, D] proposes and all rows confirm, and why there is no
    density then, or where places of channels that vary do not."""
    if len(latents.spec.shape) == 1:
        return [], ""
    num_channels = latents.spec.shape[0]
    fixed = constants(latents).reshape(num_channels, -1)  # [C, places]
    first: dict[bytes, int] = {}
    pairs = []
    for channel in np.flatnonzero(~fixed.all(1)).tolist():
        content = sample.reshape(len(sample), num_channels, -1)[:, channel] + 0.0
        earlier = first.setdefault(blake2b(content.tobytes()).digest(), channel)
        pairs += [(channel, earlier)] * (earlier != channel)
    for posterior in latents.blocks() if pairs else ():
        z = posterior.mean
        pairs = [(channel, earlier) for channel, earlier in pairs if torch.equal(z[:, channel], z[:, earlier])]
    why = "so that maps have no density: nats say how narrow a prior makes them"
    if pairs:
        named = ", ".join(f"{channel} of {earlier}" for channel, earlier in pairs[:10]) + ", ..." * (len(pairs) > 10)
        found = f"{len(pairs):,} of {num_channels:,} are repeats ({named}, counted from 0)"
        done = "they are modelled all the same; data=latents and a file of the others have a density"
        return [Remark("channels that follow from others", found, done)], f"channels repeat others, {why}"
    return [], f"places of channels that vary never do, {why}" if fixed[~fixed.all(1)].any() else ""


def equal_values(sample: np.ndarray) -> tuple[Remark | None, str]:
    """Columns of the sample [n, D] in which single values have a probability of their own, and what follows from that;
    those that never vary are none."""
    ordered = np.sort(sample, axis=0)
    shares = np.zeros(sample.shape[1])
    values = np.zeros(sample.shape[1])
    for place in range(sample.shape[1]):
        starts = np.flatnonzero(np.r_[True, ordered[1:, place] != ordered[:-1, place]])
        lengths = np.diff(np.r_[starts, len(ordered)])
        if len(starts) > 1:
            longest = int(lengths.argmax())
            shares[place], values[place] = lengths[longest] / len(ordered), ordered[starts[longest], place]
    atoms = (shares > EQUAL_SHARE) & (shares * len(sample) >= EQUAL_ROWS)
    if not atoms.any():
        return None, ""
    worst = int(shares.argmax())
    found = (
        f"{int(atoms.sum()):,} of {len(atoms):,} columns hold single values with a probability of their own "
        f"({100 * shares[worst]:.0f} % of column {worst} are {values[worst]:g})"
    )
    if (sample == np.round(sample)).all() and atoms[np.ptp(sample, axis=0) > 0].all():
        after = ", once the least of them is made 0" * bool(sample.min() < 0)
        done = f"they are whole numbers; data.codes=NAME reads them as codes, which have probabilities{after}"
    else:
        done = "compare distances, or model what is zero and what is not apart"
    reason = "single values repeat, so that they have no density: nats say how narrow a prior makes them"
    return Remark("equal values", found, done), reason


def tails_of(latents: LatentDataset, sample: np.ndarray) -> Remark | None:
    """Rows that are wild, or tails that are heavy; distances are from each column's median, in its own quartiles'."""
    middle = np.median(sample, axis=0)
    quartile = np.quantile(np.abs(sample - middle), 0.75, axis=0)
    moves = quartile > 0
    if not moves.any() or sample[:, moves].size < FEWEST_NUMBERS:
        return None
    far = far_out(np.abs(sample[:, moves] - middle[moves]) / quartile[moves])
    done = (
        "where they make the deviation, prior.wrap=[whiten], which networks have, and the mixture measure without the "
        "outermost 0.5 % at each end; prior=gaussian counts them"
    )
    wild, first, start = 0, -1, 0
    for posterior in latents.blocks():
        z = posterior.mean.flatten(1).numpy()[:, moves]
        is_wild = (np.abs(z - middle[moves]) / quartile[moves]).max(1) > WILD * far
        if is_wild.any():
            first = start + int(is_wild.argmax()) if first < 0 else first
            wild += int(is_wild.sum())
        start += len(z)
    if wild:
        found = (
            f"{wild:,} of {len(latents):,} rows are {WILD:g} times as far out as 99.9 % of numbers (first: {first:,})"
        )
        return Remark("wild rows", found, f"{done}; they stay in the set")
    if far > HEAVY:
        found = f"the 99.9th percentile is {far:.0f} times as far out as the 75th, of a normal distribution 2.9 times"
        return Remark(
            "heavy tails", found, f"{done}; of points, prior.wrap=[johnson] takes in the tails, as networks do"
        )
    return None


def far_out(distances: np.ndarray) -> float:
    """The 99.9th percentile of distances [n, D], without the few rows that lie `WILD` times beyond all others."""
    of_rows = distances.max(1)
    few = max(1, int(WILD_SHARE * len(of_rows)))
    farthest = np.sort(of_rows)[::-1][: few + 1]
    gaps = np.flatnonzero(farthest[:-1] > WILD * farthest[1:])
    ordinary = distances[of_rows <= farthest[gaps[-1] + 1]] if len(gaps) else distances
    return float(np.quantile(ordinary, 0.999))


def coarse_steps(sample: np.ndarray) -> Remark | None:
    """Columns whose offset leaves float32 few steps in a standard deviation."""
    std, size = sample.std(0), np.abs(sample).max(0)
    steps = np.where(std > 0, std / np.maximum(size * 2.0**-23, 1e-45), np.inf)
    worst = int(steps.argmin())
    if steps[worst] >= FEW_STEPS:
        return None
    column = f"column {worst}, {sample[:, worst].mean():.4g} ± {std[worst]:.2g}"
    found = f"float32 has {steps[worst]:.0f} steps in a deviation of {column}"
    return Remark("large offsets", found, "take the mean off before the latents are saved")


def look_at_codes(latents: LatentDataset, distinct: int) -> Look:
    """How codes are used, all places of a map together."""
    sizes = latents.spec.num_codes
    counts = np.zeros(max(sizes), np.int64)
    for posterior in latents.blocks():
        counts += np.bincount(posterior.sample().numpy().astype(np.int64).ravel(), minlength=len(counts))
    num, unused = len(latents), int((counts == 0).sum())
    remarks = []
    if unused:
        most = 100 * counts.max() / counts.sum()
        found = f"{unused:,} of {len(counts):,} codes never occur, and the most frequent is {most:.1f} % of all"
        done = (
            "a prior gives them next to nothing; where a codebook is trained, vae.bottleneck.revive_below places them"
        )
        remarks.append(Remark("unused codes", found, f"{done} anew"))
    if distinct < num:
        found = f"{num - distinct:,} of {num:,} maps are the same as an earlier one"
        remarks.append(Remark("repeated maps", found, "they count as often as they come"))
    share = counts[counts > 0] / counts.sum()
    perplexity = math.exp(float(-(share * np.log(share)).sum()))
    used = f"used like {perplexity:,.1f} equally frequent ones"
    found = f"{num:,} maps of {latents.spec.num_dims:,} codes of {len(counts):,}, {used}"
    refusal = ""
    if distinct < 2 and latents.family == "codes":
        refusal = (
            f"all {num:,} maps of codes for the fit are the same, so that there is nothing to fit: look at which array "
            "was taken, data.codes"
        )
    return Look(found, tuple(remarks), refusal=refusal)


def distinct_rows(latents: LatentDataset) -> tuple[int, float]:
    """How many different latents there are, by hashes of 64 bits, and how many equally frequent ones would be as many:
    the exponential of the entropy of their shares."""
    size = max(1, HASHED_BYTES // latents.row_bytes)
    starts = range(0, len(latents), size)
    hashes = np.concatenate([hash_rows(raw_rows(latents, slice(start, start + size))) for start in starts])
    counts = np.unique(hashes, return_counts=True)[1]
    share = counts / counts.sum()
    return len(counts), math.exp(float(-(share * np.log(share)).sum()))


def raw_rows(latents: LatentDataset, rows: slice) -> np.ndarray:
    """All parameters of some rows, uint8 [n, bytes]; a zero below 0 is one above it."""
    parts = [np.ascontiguousarray(np.asarray(column[rows])) for column in latents.params.values()]
    parts = [part + part.dtype.type(0) if part.dtype.kind == "f" else part for part in parts]
    return np.concatenate([part.reshape(len(part), -1).view(np.uint8) for part in parts], axis=1)


def hash_rows(content: np.ndarray) -> np.ndarray:
    """uint8 [n, bytes] -> uint64 [n]: the sum of its 64-bit words, each mixed with the number of its place (Steele,
    Lea & Flood, "Fast Splittable Pseudorandom Number Generators", 2014, figure 15)."""
    words = np.pad(content, ((0, 0), (0, -content.shape[1] % 8))).view(np.uint64)  # [n, W], a copy
    words += np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(PRIME)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return np.asarray(words.sum(1, dtype=np.uint64))


def means_of(latents: LatentDataset, rows: torch.Tensor) -> np.ndarray:
    """Means of posteriors, float64 [n, D]."""
    return latents.posterior(rows).mean.double().flatten(1).numpy()
