"""Spreads: the deviation between halves is that of the full set, for linear figures and for those that are not."""

import math

import pytest
import torch

from expost.evaluation import distances as d
from expost.evaluation.images.halves import NUM_BLOCKS, Subsets, spread
from expost.evaluation.verdict import beyond_noise


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_halves_are_disjoint_equal_complete_and_orthogonal() -> None:
    subsets = Subsets.of(1000)
    assert subsets.members.shape == (31, 1000) and subsets.members[0].all()
    plus, minus = subsets.members[1::2], subsets.members[2::2]
    assert torch.equal(plus, ~minus)
    assert (subsets.sizes[1:] - 500).abs().max() <= 4  # sixteen blocks of 62 or 63
    signs = subsets.holds[1::2].float() * 2 - 1
    assert torch.equal(signs @ signs.T, NUM_BLOCKS * torch.eye(15))
    assert torch.equal(Subsets.of(1000).block, subsets.block)  # row i of two sets stays a pair
    assert len(Subsets.of(4 * NUM_BLOCKS - 1)) == 1 and len(Subsets.of(100, 3)) == 7


def test_spread_of_a_mean_is_its_standard_error() -> None:
    x = torch.randn(4096, dtype=torch.float64)
    members = Subsets.of(len(x)).members.double()
    means = members @ x / members.sum(1)
    blocks = x[Subsets.of(len(x)).block.argsort(stable=True)].view(NUM_BLOCKS, -1).mean(1)
    exact = blocks.std().item() / math.sqrt(NUM_BLOCKS)  # all 15 contrasts are all there is between 16 blocks
    assert spread(means) == pytest.approx(exact, rel=1e-9)
    many = [spread(members @ y / members.sum(1)) for y in torch.randn(200, 4096, dtype=torch.float64)]
    assert sum(value or 0 for value in many) / 200 == pytest.approx(1 / 64, rel=0.04)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.4, 0.7, 1.3), (0.0, 0.8, 2.0)])
def test_spreads_are_the_deviation_over_fresh_draws(shift: float, low: float, high: float) -> None:
    drawn = [d.distances(d.Reference.of(torch.randn(400, 4)), torch.randn(400, 4) + shift) for _ in range(120)]
    for name in d.FIGURES:
        estimate = torch.tensor([one.spread[name] for one in drawn]).mean()
        true = torch.tensor([getattr(one, name) for one in drawn]).std()
        # Equal laws make the distances' noise of second order: told up to 1.4 times too wide, never too narrow.
        assert low < estimate / true < high, (name, estimate, true)


def test_no_halves_no_spread() -> None:
    assert spread(torch.tensor([1.0])) is None
    assert spread(torch.tensor([1.0, 2.0, math.nan])) is None
    assert d.distances(d.Reference.of(torch.randn(60, 2)), torch.randn(2000, 2)).spread == {}
    assert set(d.distances(d.Reference.of(torch.randn(70, 2)), torch.randn(2000, 2)).spread) == set(d.FIGURES)
    assert d.distances(d.Reference.of(torch.randn(70, 2), 40), torch.randn(2000, 2)).spread == {}


def test_a_difference_within_the_noise_is_none() -> None:
    assert not beyond_noise(0.5, 0.2, 0.2) and beyond_noise(0.6, 0.2, 0.2)
    assert not beyond_noise(8.0, None, 0.1) and not beyond_noise(8.0, 0.1, None)
