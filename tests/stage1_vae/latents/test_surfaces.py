"""Points that satisfy an equation are found, near misses are not, and what is said of them."""

import numpy as np
import pytest
import torch

from stage1_vae.latents import LatentDataset
from stage1_vae.latents.look import look_at
from stage1_vae.latents.surfaces import equation_of

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(3000, 8))
UNIT = NORMAL / np.linalg.norm(NORMAL, axis=1, keepdims=True)
WIDE = RNG.normal(size=(3000, 512))
CENTRES = RNG.normal(size=(20, 8))[RNG.integers(20, size=3000)]
SHELL = RNG.normal(size=(3000, 64))
SHELL = SHELL / np.linalg.norm(SHELL, axis=1, keepdims=True) * (1 + 2e-3 * RNG.normal(size=(3000, 1)))
LENGTH, QUADRIC = "all latents have the length 1", "the latents satisfy an equation of the second degree"


def replaced(place: int, column: np.ndarray) -> np.ndarray:
    return np.concatenate([NORMAL[:, :place], column[:, None], NORMAL[:, place + 1 :]], axis=1)


ON_SURFACES = {
    "unit length": (UNIT, LENGTH),
    "unit length, 512 dimensions": (WIDE / np.linalg.norm(WIDE, axis=1, keepdims=True), LENGTH),
    "unit length, saved in float16": (UNIT.astype(np.float16), LENGTH),
    "unit length, saved in bfloat16": (torch.from_numpy(UNIT).bfloat16().float().numpy(), LENGTH),
    "unit length, but for two empty ones": (np.vstack([UNIT, 0 * UNIT[:2]]), "99.9 % of the latents have the length 1"),
    "a sphere elsewhere": (3 * UNIT + [5, 0, 0, 0, 0, 0, 0, 2], QUADRIC),
    "a square": (replaced(1, NORMAL[:, 0] ** 2), QUADRIC),
    "a product, beside one far out": (np.vstack([replaced(3, NORMAL[:, 0] * NORMAL[:, 1]), 1e4 * NORMAL[:1]]), QUADRIC),
    "a circle": (np.stack([np.cos(NORMAL[:, 0]), np.sin(NORMAL[:, 0])], 1) + 1, QUADRIC),
}
ON_NONE = {
    "normal": NORMAL,
    "normal, saved in bfloat16": torch.from_numpy(NORMAL).bfloat16().float().numpy(),
    "a shell a thousandth thick": UNIT * (1 + 1e-3 * RNG.normal(size=(3000, 1))),
    "far from 0": 1e4 + 0.01 * NORMAL,
    "a square and noise": replaced(1, NORMAL[:, 0] ** 2 + 0.01 * NORMAL[:, 1]),
    "an exponential": replaced(1, np.exp(NORMAL[:, 0])),
    "clusters a thousandth wide": CENTRES + 1e-3 * NORMAL,
    "two clusters that many equations go through": np.where(NORMAL[:, :1] > 0, 1, -1) + 3e-5 * NORMAL[:, ::-1],
    "a fiftieth elsewhere": np.vstack([UNIT[:2940], 0.5 * UNIT[2940:]]),
    "a shell two thousandths thick in bfloat16": torch.from_numpy(SHELL).bfloat16().float().numpy(),
    "nothing that moves": NORMAL[:, :0],
    "heavy tails": RNG.standard_t(2, size=(3000, 8)),
    "too few for so many terms": UNIT[:100] + 5,
    "one dimension": NORMAL[:, :1],
}


def as_stored(points: np.ndarray) -> np.ndarray:
    return points.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", ON_SURFACES)
def test_points_on_a_surface_are_told(name: str) -> None:
    points, equation = ON_SURFACES[name]
    assert equation_of(as_stored(points)) == equation


@pytest.mark.parametrize("name", ON_NONE)
def test_points_near_one_have_a_density(name: str) -> None:
    assert equation_of(as_stored(ON_NONE[name])) == ""


def test_a_look_says_so_of_points_alone_and_beside_columns_that_follow() -> None:
    points = np.concatenate([UNIT, UNIT[:, :1] + UNIT[:, 1:2], np.ones((3000, 1))], axis=1).astype(np.float32)
    look = look_at(LatentDataset.of(points))
    assert [remark.what for remark in look.remarks] == ["dead columns", "columns that follow from others", "a surface"]
    assert look.no_density.startswith("all latents have the length 1, so that they have no density")
    assert "or give fewer columns, which no equation binds" in look.line
    of_normals = LatentDataset.of(points, std=np.full_like(points, 0.1))
    assert not look_at(of_normals).no_density


def test_a_length_is_one_of_columns_that_follow_too() -> None:
    """What a LayerNorm leaves sums to 0, so that one column follows from the others, which have no length in common."""
    z = RNG.normal(size=(3000, 32))
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    look = look_at(LatentDataset.of(z.astype(np.float32)))
    assert [remark.what for remark in look.remarks] == ["columns that follow from others", "a surface"]
