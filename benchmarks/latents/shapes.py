"""Shapes of point latents that other people's encoders leave, drawn from known laws.

Each is a function of a random generator and a number of latents; what the law itself is (centres, mixing) is fixed.
Rows of the first group are those of which priors were found wanting; the further ones guard against tuning to these.
"""

from collections.abc import Callable, Mapping

import numpy as np

DIMS = 8
Rng = np.random.Generator
Shape = Callable[[Rng, int], np.ndarray]
WILD = 1e4

CENTRES = np.random.default_rng(7).normal(size=(20, DIMS))
MANY = np.random.default_rng(5).normal(size=(400, DIMS))
MIXING = np.random.default_rng(11).normal(size=(DIMS, DIMS)) / np.sqrt(DIMS)


def clusters(rng: Rng, num: int) -> np.ndarray:
    return CENTRES[rng.integers(20, size=num)] + 0.03 * rng.normal(size=(num, DIMS))


def twins(rng: Rng, num: int) -> np.ndarray:
    z = rng.normal(size=(num, DIMS))
    z[:, 1] = z[:, 0] + 1e-5 * rng.normal(size=num)
    return z


def normal(rng: Rng, num: int) -> np.ndarray:
    return rng.normal(size=(num, DIMS))


def tails(rng: Rng, num: int) -> np.ndarray:
    return rng.standard_t(2, size=(num, DIMS))


def offset(rng: Rng, num: int) -> np.ndarray:
    return 1000 + 0.01 * rng.normal(size=(num, DIMS))


def widths(rng: Rng, num: int) -> np.ndarray:
    return rng.normal(size=(num, DIMS)) * np.logspace(-4, 4, DIMS)


def ring(rng: Rng, num: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, num)
    z = 0.05 * rng.normal(size=(num, DIMS))
    z[:, 0] += np.cos(angle)
    z[:, 1] += np.sin(angle)
    return z


def zeros(rng: Rng, num: int) -> np.ndarray:
    return rng.normal(size=(num, DIMS)) * (rng.random((num, DIMS)) < 0.5)


def whole(rng: Rng, num: int) -> np.ndarray:
    return rng.integers(0, 3, size=(num, DIMS)).astype(float)


def dead(rng: Rng, num: int) -> np.ndarray:
    z = rng.normal(size=(num, DIMS))
    z[:, 3] = 0.7
    return z


def together(rng: Rng, num: int) -> np.ndarray:
    """Correlations of 0.999."""
    return rng.normal(size=(num, 1)) + 0.03 * rng.normal(size=(num, DIMS))


def cube(rng: Rng, num: int) -> np.ndarray:
    return rng.uniform(-1, 1, size=(num, DIMS))


def skewed(rng: Rng, num: int) -> np.ndarray:
    return np.exp(rng.normal(size=(num, DIMS)))


def two_widths(rng: Rng, num: int) -> np.ndarray:
    """A tenth of all is thirty times as wide."""
    return rng.normal(size=(num, DIMS)) * np.where(rng.random((num, 1)) < 0.1, 30.0, 1.0)


def three_widths(rng: Rng, num: int) -> np.ndarray:
    """Three clusters, of widths 0.01, 1 and 20: in units of all latents the first two are one."""
    cluster = rng.integers(3, size=num)[:, None]
    return np.array([0.0, 5, 50])[cluster] + rng.normal(size=(num, DIMS)) * np.array([0.01, 1, 20])[cluster]


def edges(rng: Rng, num: int) -> np.ndarray:
    """What a saturated tanh leaves."""
    return np.tanh(2 * rng.normal(size=(num, DIMS)))


def thin(rng: Rng, num: int) -> np.ndarray:
    """A plane of three dimensions with a thickness of a hundredth."""
    return rng.normal(size=(num, 3)) @ MIXING[:3] + 0.01 * rng.normal(size=(num, DIMS))


def shell(rng: Rng, num: int) -> np.ndarray:
    z = rng.normal(size=(num, DIMS))
    return z / np.linalg.norm(z, axis=1, keepdims=True) * (1 + 0.02 * rng.normal(size=(num, 1)))


def apart(rng: Rng, num: int) -> np.ndarray:
    """Two clusters a thousand widths apart."""
    return rng.normal(size=(num, DIMS)) + 1000.0 * rng.integers(2, size=(num, 1))


def spiral(rng: Rng, num: int) -> np.ndarray:
    turn = 1.5 * np.pi * (1 + 2 * rng.random(num))
    z = 0.3 * rng.normal(size=(num, DIMS))
    z[:, 0] += turn * np.cos(turn)
    z[:, 1] += turn * np.sin(turn)
    return z


def sums(rng: Rng, num: int) -> np.ndarray:
    z = rng.normal(size=(num, DIMS))
    z[:, 7] = z[:, 0] - 2 * z[:, 1] + 3
    z[:, 4] = z[:, 2]
    return z


def repeated(rng: Rng, num: int) -> np.ndarray:
    """Two hundred different latents, over and over."""
    return np.random.default_rng(3).normal(size=(200, DIMS))[rng.integers(200, size=num)]


def few_wild(rng: Rng, num: int) -> np.ndarray:
    """One row in a hundred is a thousand times as wide."""
    return rng.normal(size=(num, DIMS)) * np.where(rng.random((num, 1)) < 0.01, 1000.0, 1.0)


def fewer_wild(rng: Rng, num: int) -> np.ndarray:
    """One row in five hundred, at random places, is ten thousand times as wide: one of the held-out ones, too."""
    scale = np.ones((num, 1))
    scale[rng.permutation(num)[: num // 500]] = WILD
    return rng.normal(size=(num, DIMS)) * scale


def many(rng: Rng, num: int) -> np.ndarray:
    return MANY[rng.integers(len(MANY), size=num)] + 0.03 * rng.normal(size=(num, DIMS))


def unit(rng: Rng, num: int) -> np.ndarray:
    """Embeddings of length 1, around twenty centres."""
    z = CENTRES[rng.integers(20, size=num)] + 0.5 * rng.normal(size=(num, DIMS))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


SHAPES: Mapping[str, Shape] = {
    "20 clusters 0.03 wide": clusters,
    "two columns equal to 1e-5": twins,
    "one wild latent (1e4)": normal,
    "heavy tails (Student, 2 degrees)": tails,
    "mean 1,000, width 0.01": offset,
    "widths 1e-4 to 1e4": widths,
    "ring of width 0.05": ring,
    "half of the entries exactly 0": zeros,
    "whole numbers 0, 1, 2": whole,
    "one dead column": dead,
}
FURTHER: Mapping[str, Shape] = {
    "correlations of 0.999": together,
    "uniform cube": cube,
    "log-normal": skewed,
    "a tenth 30 times as wide": two_widths,
    "three clusters, 0.01 to 20 wide": three_widths,
    "edges of tanh": edges,
    "three of eight dimensions, 0.01 thick": thin,
    "shell 0.02 thick": shell,
    "two clusters 1,000 widths apart": apart,
    "spiral": spiral,
    "sums and repeats of columns": sums,
    "1 % of rows 1,000 times as wide": few_wild,
    "0.2 % of rows 10,000 times as wide": fewer_wild,
    "400 clusters 0.03 wide": many,
    "200 latents over and over": repeated,
    "all of length 1": unit,
}
FREE: Mapping[str, tuple[int, ...]] = {
    "two columns equal to 1e-5": (0, 2, 3, 4, 5, 6, 7),
    "one dead column": (0, 1, 2, 4, 5, 6, 7),
    "sums and repeats of columns": (0, 1, 2, 3, 5, 6),
}
"""Columns that have a density, of shapes where the others follow from them."""
NO_DENSITY = ("half of the entries exactly 0", "whole numbers 0, 1, 2", "200 latents over and over", "all of length 1")
"""Single values of columns, or whole latents, have a probability of their own, or all lie on a surface."""


def draw(name: str, seed: int, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation (a sixth as many) and test latents (as many as for training), float32 [., 8]."""
    rng = np.random.default_rng(1000 + seed)
    shape = SHAPES.get(name) or FURTHER[name]
    train, val, test = (shape(rng, size).astype(np.float32) for size in (num, num // 6, num))
    if name.startswith("one wild"):
        train[num // 2] = WILD
    return train, val, test
