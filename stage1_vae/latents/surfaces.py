"""Point latents that satisfy an equation: of one length, a column the square or the product of others.

Points on a curved surface have no more of a density than points on a plane, though no column is a sum of others:
embeddings that were scaled to length 1 lie on a sphere. What is looked for is one equation of the second degree,
q(z) = a + b . z + z^T C z = 0, by the eigenvector of the smallest eigenvalue of the correlations of its terms; a point
is |q| / |grad q| from the surface to first order (Taubin, "Estimation of Planar Curves, Surfaces, and Nonplanar Space
Curves Defined by Implicit Equations", 1991, section 2). In more than a few dimensions, only lengths are compared.
"""

import numpy as np

from stage1_vae.latents.columns import COARSEST, ROWS_TO_SPARE

MOST_DIMS = 16
"""Beyond it the terms, which are D (D + 3) / 2, cost more than a look may."""
A_TERM = 4
"""Points that are looked at, of either half."""
FLOAT16_ROUNDING, BFLOAT16_ROUNDING = 2.0**-11, 2.0**-8
"""What saving a number so may change it by, as a share of it."""
SPREAD_OF_ROUNDING = 6.0
"""Lengths of points that had one before they were rounded differ by so many standard deviations of that."""
THIN = 4e-6
"""Of the width of all points: what is no thicker is told from a surface by no more than rounding to float32."""
MOST_OFF = 0.01
"""Share of points that may have another length: a part that lies on a sphere has no density either."""
FAR = 10.0
"""Quartiles from the median beyond which a point does not count: of one of 10,000 all squares go together."""
MOST_FAR = 0.1
"""Share of points that far out with which nothing is said."""
RANK = 1e-6
"""Share of their variance that the terms must leave to an equation, at most."""


def equation_of(points: np.ndarray) -> str:
    """Which equation `points` satisfy, float64 [n, D], in words; "" where none was found, or there are too few to tell.
    None of their columns is to be a constant, or a sum of others.

    Of the second degree, the equation is that of either half of the points, and both must hold in all that are not far
    out: within `THIN` of their width, which is the root of their mean squared distance from the mean."""
    dims = points.shape[1]
    if dims < 2:
        return ""
    if length := common_length(points):
        return length
    num_terms = dims * (dims + 3) // 2
    wanted = 2 * A_TERM * (num_terms + ROWS_TO_SPARE)
    units = middle_of(points[:: max(1, len(points) // wanted)]) if dims <= MOST_DIMS else points[:0]
    if len(units) < 2 * (num_terms + ROWS_TO_SPARE):
        return ""
    order = np.random.default_rng(0).permutation(len(units))
    for half in np.array_split(order, 2):
        distances = distances_to_quadric(units[half], units)
        if distances is None or not (distances <= THIN * np.sqrt(dims)).all():
            return ""
    return "the latents satisfy an equation of the second degree"


def common_length(points: np.ndarray) -> str:
    """Which length nearly all of `points` have, in words; "" where they have none in common, or are too few to tell."""
    if len(points) < 2 * ROWS_TO_SPARE:
        return ""
    lengths, width = np.linalg.norm(points, axis=1), np.sqrt(points.var(0).sum())
    middle = float(np.median(lengths))
    if middle == 0:
        return ""
    of_terms = np.median(np.sqrt(np.square(np.square(points)).sum(1)))  # rounding errors of z_i^2 are independent
    rounding = SPREAD_OF_ROUNDING * rounding_of(points) / np.sqrt(3) * of_terms / middle
    share = (np.abs(lengths - middle) <= max(THIN * width, min(rounding, COARSEST * width))).mean()
    if share < 1 - MOST_OFF:
        return ""
    return f"{'all' if share == 1 else f'{100 * share:.1f} % of the'} latents have the length {middle:.4g}"


def rounding_of(points: np.ndarray) -> float:
    """How coarsely numbers were saved that are float32 now, as a share of them; 0: no more so than float32."""
    if (points.astype(np.float32).view(np.uint32) & 0xFFFF == 0).all():
        return BFLOAT16_ROUNDING
    with np.errstate(over="ignore"):
        return FLOAT16_ROUNDING * bool((points == points.astype(np.float16)).all())


def middle_of(points: np.ndarray) -> np.ndarray:
    """The points that are not far out, in deviations from their mean: [n, D]; none where too many are."""
    middle = np.median(points, axis=0)
    quartile = np.quantile(np.abs(points - middle), 0.75, axis=0)
    if not (quartile > 0).all():
        return points[:0]
    near = (np.abs(points - middle) <= FAR * quartile).all(1)
    if near.mean() < 1 - MOST_FAR:
        return points[:0]
    kept = points[near] - points[near].mean(0)
    return kept / kept.std(0)


def distances_to_quadric(points: np.ndarray, of: np.ndarray) -> np.ndarray | None:
    """How far the points `of` [m, D] are from the quadric nearest to `points` [n, D], to first order: [m]; None: they
    are near none."""
    terms = terms_of(points)
    centre, width = terms.mean(0), terms.std(0)
    if not (width > 0).all():
        return None
    scaled = (terms - centre) / width
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(points))
    if values[0] > RANK:
        return None
    weight = vectors[:, 0] / width
    value = (terms_of(of) - centre) @ weight
    dims = points.shape[1]
    rows, columns = np.triu_indices(dims)
    curved = np.zeros((dims, dims))
    curved[rows, columns] = weight[dims:]
    gradient = weight[:dims] + of @ (curved + curved.T)
    steep = np.linalg.norm(gradient, axis=1)
    return np.abs(value) / np.maximum(steep, np.finfo(np.float64).tiny)


def terms_of(points: np.ndarray) -> np.ndarray:
    """z_i, and z_i z_j with i <= j, of points [n, D]: [n, D (D + 3) / 2]."""
    rows, columns = np.triu_indices(points.shape[1])
    return np.concatenate([points, points[:, rows] * points[:, columns]], axis=1)
