"""Columns of point latents that others determine: repeats, sums, any affine function of them.

Where one column is a function of others, the points lie on a plane, and in all columns together they have no density:
one fitted all the same is as high as whatever jitter keeps it finite. So a density is of the columns that are kept, and
the others are computed from these.

Which are kept is decided by a pivoted Cholesky factor of their correlations (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, section 10.3), in float64: what a column has left when those before it are taken out is its
pivot. The first of all columns that have at least half of the largest is the next to be kept, so that of two equal ones
it is the first, on every machine, and no kept column is nearly a function of those kept before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stage1_vae.latents.dataset import LatentDataset
from stage1_vae.latents.spec import Support
from stage1_vae.rows import spread_rows

TOLERANCE = 1e-4
"""Largest distance from the function of the others, in the column's own widths, at which it is one."""
FLOAT32_ROUNDING = 2.0**-23
"""Of float32: twice what rounding may change a number by, as a share of it. A sum was rounded when it was made, and its
terms when they were stored."""
COARSEST = 0.05
"""A column whose rounding is more of its standard deviation is not judged: there is no telling what it is a sum of."""
MOST_COLUMNS = 1024
"""Longer latents are left as they are: correlations of all columns are kept and factored, 8 MiB and seconds of them."""
SAMPLE_ROWS = 2**14
"""Rows that candidates come from, and the functions; all rows are asked whether these hold."""
ROWS_TO_SPARE = 10
"""Of each half of the sample, beyond those that any function would pass through."""
TO_NORMAL = 3.29
"""Standard deviations between the 5th and the 95th percentile of a normal distribution."""


@dataclass(frozen=True)
class AffineMap:
    """y = offset + (x - centre) weight^T, of K kept and J other columns; float64.

    Attributes:
        centre: [K] mean of the kept ones.
        weight: [J, K].
        offset: [J] at the centre.
    """

    centre: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[n, K] -> [n, J]."""
        return self.offset + (x - self.centre) @ self.weight.T

    def resolution(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far y [n, J] may be from the function of x [n, K] by rounding to float32 alone, [n, J]."""
        return FLOAT32_ROUNDING * (np.abs(y) + np.abs(x) @ np.abs(self.weight).T)


def dependent_columns(latents: LatentDataset) -> tuple[int, ...]:
    """Which columns of vectors without a spread are affine functions of the others, ascending; none of other latents.

    In every row such a column is within `TOLERANCE` of its width from the function, or as near as float32 can tell. Its
    width is its standard deviation, or that of its middle nine tenths where few rows widen it: one that stays put in
    more than these has none, and must be met to the rounding. Units of columns do not matter.

    The functions are fitted to either half of at most `SAMPLE_ROWS` rows, and both must hold in every row of the set.
    A half tells a function of r kept columns, r + 1 numbers, only by more rows than that; so of fewer different rows
    than 2 (r + `ROWS_TO_SPARE`), r being the rank of the sample, nothing is said: in 30 points of 64 dimensions each
    column is a function of 29 others, by chance. Vectors of more than `MOST_COLUMNS` numbers are not looked at. A
    set without such columns costs the look at the sample; with candidates, all rows are read once.
    """
    spec = latents.spec
    is_vector = latents.family == "delta" and spec.support is Support.REAL and len(spec.shape) == 1
    if not is_vector or not 1 < spec.num_dims <= MOST_COLUMNS:
        return ()
    sample = sampled(latents)
    if not np.isfinite(sample).all():  # whoever fits refuses them
        return ()
    kept = independent_columns(sample)
    others = [place for place in np.flatnonzero(np.ptp(sample, 0)).tolist() if place not in set(kept)]
    if not others or len(points := np.unique(sample, axis=0)) < 2 * (len(kept) + ROWS_TO_SPARE):
        return ()
    rows = np.random.default_rng(0).permutation(len(points))
    functions = [fitted_map(points[half][:, kept], points[half][:, others]) for half in np.array_split(rows, 2)]
    holds = holding(latents, functions, kept, others, sample[:, others])
    return tuple(place for place, held in zip(others, holds.tolist(), strict=True) if held)


def constants(latents: LatentDataset) -> np.ndarray:
    """Which numbers of point masses are the same in all of them, bool [*shape]; none of others are."""
    if latents.family != "delta":
        return np.zeros(latents.spec.shape, bool)
    first = latents.posterior(slice(0, 1)).mean[0]
    same = np.ones(latents.spec.shape, bool)
    for posterior in latents.blocks():
        same &= (posterior.mean == first).all(0).numpy()
        if not same.any():
            break
    return same


def affine_map(latents: LatentDataset, kept: Sequence[int], others: Sequence[int]) -> AffineMap:
    """The columns `others` as functions of the columns `kept`, by least squares over rows spread over the set. A kept
    column that is nearly a function of other kept ones has the weight 0."""
    sample = sampled(latents)
    chosen = independent_columns(sample[:, kept])
    found = fitted_map(sample[:, kept][:, chosen], sample[:, others])
    weight = np.zeros((len(others), len(kept)))
    weight[:, chosen] = found.weight
    return AffineMap(sample[:, kept].mean(0), weight, found.offset)


def sampled(latents: LatentDataset) -> np.ndarray:
    """Points of rows spread over the set, float64 [n, D]."""
    return latents.posterior(spread_rows(len(latents), SAMPLE_ROWS)).mean.double().numpy()


def independent_columns(x: np.ndarray) -> list[int]:
    """Columns of x [n, D] of which the others are affine functions, as nearly as `x` can tell; in the order in which
    they were chosen. Columns that never vary are neither.

    Those that float32 holds finely come first: of a number and the same beside a large constant, it is the former that
    tells the latter.
    """
    centred = x - x.mean(0)
    varies = np.ptp(x, 0) > 0
    std = np.where(varies, np.sqrt(np.square(centred).mean(0)), 1.0)
    units = centred / std
    correlations = units.T @ units / len(x)
    rounding = 2 * FLOAT32_ROUNDING * np.abs(x).max(0) / std
    least = np.square(np.clip(rounding, TOLERANCE, COARSEST))
    left, chosen = np.where(varies, 1.0, 0.0), list[int]()
    factor = np.zeros_like(correlations)  # [D, D]; column k is of the k-th chosen
    while (is_open := left > least).any():
        if (fine := is_open & (rounding <= TOLERANCE)).any():
            is_open = fine
        place = int(np.flatnonzero(is_open & (left >= left[is_open].max() / 2))[0])
        k = len(chosen)
        factor[:, k] = (correlations[:, place] - factor[:, :k] @ factor[place, :k]) / np.sqrt(left[place])
        chosen.append(place)
        left = left - np.square(factor[:, k])
        left[chosen] = 0.0
    return chosen


def fitted_map(x: np.ndarray, y: np.ndarray) -> AffineMap:
    """y [n, J] as a function of x [n, K], by least squares."""
    centre, offset = x.mean(0), y.mean(0)
    width = np.sqrt(np.square(x - centre).mean(0))
    width[width == 0] = 1.0
    units, rest = (x - centre) / width, y - offset
    gram = units.T @ units + 1e-12 * len(x) * np.eye(x.shape[1])  # of half of the rows it may be singular
    weight = np.zeros((x.shape[1], y.shape[1]))
    for _ in range(3):  # what products lose, and the 1e-12, is won back
        weight += np.linalg.solve(gram, units.T @ (rest - units @ weight))
    weight[np.abs(weight) < FLOAT32_ROUNDING * width_of_middle(rest)] = 0.0  # noise, which tails would enlarge
    return AffineMap(centre, (weight / width[:, None]).T, offset)


def width_of_middle(y: np.ndarray) -> np.ndarray:
    """The standard deviations [J] of y [n, J], or of normal columns with the same middle where those are smaller."""
    low, high = np.quantile(y, [0.05, 0.95], axis=0)
    return np.minimum(y.std(0), (high - low) / TO_NORMAL)


def holding(
    latents: LatentDataset,
    functions: Sequence[AffineMap],
    kept: Sequence[int],
    others: Sequence[int],
    sample: np.ndarray,
) -> np.ndarray:
    """Whether all `functions` of the columns `kept` give each of the columns `others` in every row, bool [J]; `sample`:
    rows of those, [n, J]."""
    std, width = sample.std(0), width_of_middle(sample)
    holds = np.ones(len(others), bool)
    for posterior in latents.blocks():
        z = posterior.mean.double().numpy()
        x, y = z[:, kept], z[:, others]
        for function in functions:
            allowed = np.minimum(np.maximum(TOLERANCE * width, function.resolution(x, y)), COARSEST * std)
            holds &= (np.abs(y - function(x)) <= allowed).all(0)
        if not holds.any():
            break
    return holds
