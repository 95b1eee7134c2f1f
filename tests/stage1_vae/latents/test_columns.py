"""Columns of points that are functions of others: found in every unit, and not where chance or a few rows make them."""

import numpy as np
import pytest

from stage1_vae.latents import LatentDataset, LatentSpec, affine_map, dependent_columns
from stage1_vae.latents.columns import SAMPLE_ROWS


def points(num: int, dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dims))


def found(z: np.ndarray) -> tuple[int, ...]:
    return dependent_columns(LatentDataset.of(z.astype("f4")))


def planar(num: int = 400) -> np.ndarray:
    """Eight columns, of which the sixth repeats the third, and the last is a sum of three."""
    z = points(num, 8)
    z[:, 5], z[:, 7] = z[:, 2], z[:, 0] + z[:, 1] - 3 * z[:, 3] + 5
    return z


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_repeats_and_sums_are_found_in_every_unit(unit: float) -> None:
    assert found(unit * planar()) == (5, 7)
    assert found(planar() * 10.0 ** np.linspace(-4, 4, 8)) == (5, 7)
    assert found(planar()[:, ::-1]) == (4, 5), "of a repeat the later, of a sum the last of its terms"


def test_widths_that_differ_are_no_reason() -> None:
    assert found(points(400, 9) * 10.0 ** np.linspace(-4, 4, 9)) == ()


def test_a_repeat_counts_to_within_a_ten_thousandth_of_its_width() -> None:
    z, noise = planar(), points(400, 1, seed=1)[:, 0]
    z[:, 5] += 1e-5 * noise
    assert found(z) == (5, 7) == found(1e3 * z)
    z[:, 5] += 1e-3 * noise
    assert found(z) == (7,)
    z[77, 7] += 1e-3 * z[:, 7].std()
    assert found(z) == (), "one row that is off is enough"


def test_columns_that_never_vary_are_neither_kept_nor_computed() -> None:
    z = planar()
    z[:, 0] = 7.1  # what is left of the sum is one of two columns
    z[:, 7] = z[:, 1] - 3 * z[:, 3] + 5
    assert found(z) == (5, 7)
    assert found(np.full((400, 3), 2.0)) == ()


def test_what_float32_cannot_tell_is_no_distance() -> None:
    far = 1000 + 0.01 * points(400, 3)
    assert found(np.stack([*far.T, far[:, 0].astype("f4") + far[:, 1].astype("f4")], 1)) == (3,)
    assert found(far) == ()
    assert found(1000 + 1e-4 * points(400, 3)) == (), "two or three values of float32 say nothing"
    z = points(400, 2)
    assert found(np.stack([z[:, 0] + 1e5, z[:, 0], z[:, 1]], 1)) == (0,), "the finer of two tells the coarser"


def test_few_rows_do_not_set_the_width_that_all_are_measured_in() -> None:
    z = points(1000, 5)
    z[3], z[77], z[500] = 1e8, -1e8, 2e8
    assert found(z) == ()
    rare = np.maximum(points(1000, 20) - 3, 0)
    assert found(rare) == (), "columns of a few rows each"
    often = np.maximum(points(1000, 20) - 1, 0)
    often[:, 9] = often[:, 3]
    assert found(often) == (9,)


def test_plain_points_are_left_as_they_are() -> None:
    draws = np.random.default_rng(0)
    for seed in range(100):
        num, dims = int(draws.integers(20, 201)), int(draws.integers(2, 65))
        assert found(points(num, dims, seed)) == (), (num, dims)


def test_fewer_points_than_their_rank_asks_for_tell_nothing() -> None:
    assert found(points(30, 64)) == ()
    assert found(np.repeat(points(30, 64), 50, 0)) == (), "said again, they are no more"
    assert len(found(points(100, 5) @ points(5, 64, seed=1))) == 59


def test_all_rows_are_asked_and_not_the_sample_alone() -> None:
    z = points(3 * SAMPLE_ROWS, 3)
    z[:, 2] = z[:, 0] - z[:, 1]
    assert found(z) == (2,)
    z[1, 2] += 0.01  # between the first row of the sample and the second
    assert found(z) == ()


def test_other_latents_have_none() -> None:
    z = planar().astype("f4")
    assert dependent_columns(LatentDataset.of(z, log_std=z * 0 - 3)) == ()
    assert dependent_columns(LatentDataset.of(z.reshape(400, 2, 2, 2))) == ()
    assert found(np.tile(points(30, 1), (1, 1025))) == (), "too long to be looked at"
    z[0, 0] = np.nan
    spec = LatentSpec((8,))
    assert dependent_columns(LatentDataset(spec, "delta", {"loc": z})) == (), "whoever fits refuses these"


def test_the_function_is_that_of_the_columns() -> None:
    z = planar()
    found = affine_map(LatentDataset.of((1000 + z).astype("f4")), [0, 1, 2, 3, 4, 6], [5, 7])
    expected = np.zeros((2, 6))
    expected[0, 2], expected[1, [0, 1, 3]] = 1, (1, 1, -3)
    np.testing.assert_allclose(found.weight, expected, atol=1e-4)
    np.testing.assert_allclose(found(1000 + z[:, [0, 1, 2, 3, 4, 6]]), 1000 + z[:, [5, 7]], atol=1e-3)
