"""Evenly spread rows: within the set at any size, and the very rows that stored results were made with."""

from fractions import Fraction

import pytest
import torch

from stage1_vae.data.images import InMemory, subset
from stage1_vae.rows import spread_rows
from stage2_prior import held_out


def exact(total: int, num: int, i: int) -> int:
    """Row i of `num`, by fractions."""
    return round(Fraction(i * (total - 1), num - 1))


@pytest.mark.parametrize("total", [2**24 + 1, 2**24 + 4, 17_000_000, 20_000_000, 30_000_000, 50_000_000, 100_000_000])
@pytest.mark.parametrize("num", [2, 3, 7, 1000, 10_000, 65_537])
def test_rows_of_large_sets_are_the_exact_ones(total: int, num: int) -> None:
    rows = spread_rows(total, num)
    assert rows.dtype == torch.int64 and rows.shape == (num,)
    assert rows[0] == 0 and rows[-1] == total - 1
    assert rows.diff().min() >= (total - 1) // (num - 1) and rows.diff().max() <= (total - 1) // (num - 1) + 1
    some = range(0, num, max(1, num // 500))
    assert [int(rows[i]) for i in some] == [exact(total, num, i) for i in some]


@pytest.mark.parametrize("total", [2**24, 2**24 + 4])
def test_all_rows_are_each_row_once(total: int) -> None:
    for num in (total, total + 5):
        assert torch.equal(spread_rows(total, num), torch.arange(total))


@pytest.mark.parametrize("total", [1, 2, 1437, 60_000, 2**24, 2**24 + 4, 100_000_000])
def test_one_row_is_the_first_and_no_row_is_none(total: int) -> None:
    assert spread_rows(total, 1).tolist() == [0] and len(spread_rows(total, 0)) == 0


def test_rows_of_stored_results_stay() -> None:
    """Up to 2^24 float32 chooses, as it always has: now and then the neighbour of the exact row."""
    assert spread_rows(10, 4).tolist() == [0, 3, 6, 9]
    for total, num in [(48, 23), (1797, 512), (10_000, 2000), (60_000, 10_000), (1_281_167, 10_000)]:
        assert torch.equal(spread_rows(total, num), torch.linspace(0, total - 1, num).round().long())


def test_stages_share_one_copy() -> None:
    assert held_out.spread_rows is spread_rows
    images = InMemory(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1))
    assert subset(images, 7).batch(torch.arange(7)).flatten().tolist() == spread_rows(100, 7).tolist()
