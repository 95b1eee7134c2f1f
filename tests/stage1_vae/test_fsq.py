"""What finite scalar quantisation promises: every code is one combination of levels, and all are used alike."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stage1_vae.bottlenecks.fsq import FSQ

FEATURES = (6, 3, 5)
PLACES = 15
LEVELS = [(2,), (3,), (4, 3), (8, 6, 5), (2, 5, 3, 4)]


def given(bottleneck: FSQ, numbers: Tensor) -> Any:
    """What `bottleneck` makes of projected numbers [places, d]."""
    bottleneck.add_module("project", Given(numbers))
    return bottleneck(torch.zeros(len(numbers) // PLACES, *FEATURES))


class Given(nn.Module):
    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, features: Tensor) -> Tensor:
        return self.numbers


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_fsq_reaches_every_code_and_each_is_one_combination(levels: tuple[int, ...]) -> None:
    num = math.prod(levels)
    fsq = FSQ(FEATURES, levels).eval()
    grid = torch.tensor(list(itertools.product(*(np.linspace(-4, 4, 41) for _ in levels[:2]))), dtype=torch.float32)
    rest = torch.randn(len(grid), max(0, len(levels) - 2), generator=torch.Generator().manual_seed(0))
    numbers = torch.cat([grid, 2 * rest], dim=1)
    numbers = numbers.repeat(-(-40 * num // len(numbers)), 1)[: 40 * num // PLACES * PLACES or PLACES]
    torch.manual_seed(0)
    numbers = torch.cat([numbers, 3 * torch.randn(400 * num // PLACES * PLACES, len(levels))])
    encoding = given(fsq, numbers)
    codes = encoding.posterior.codes
    assert codes.unique().tolist() == list(range(num)), "a level that cannot be reached"
    torch.testing.assert_close(fsq.embed(codes), encoding.embedded, rtol=0, atol=1e-6)

    everything = torch.arange(num).repeat(PLACES)[: num * PLACES].view(-1, PLACES)
    vectors = fsq.embed(everything).movedim(1, -1).reshape(-1, len(levels))
    assert len(vectors.unique(dim=0)) == num and vectors.min() >= -1 and vectors.max() <= 1
    for d, size in enumerate(levels):
        apart = vectors[:, d].unique().diff()
        assert len(apart) == size - 1
        torch.testing.assert_close(apart, torch.full_like(apart, 2 / (size - 1)))


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_fsq_gives_normal_numbers_all_levels_equally_often(levels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    codes = given(
        FSQ(FEATURES, levels).eval(), torch.randn(200 * math.prod(levels) * PLACES, len(levels))
    ).posterior.codes
    share = torch.bincount(codes.flatten(), minlength=math.prod(levels)) / codes.numel()
    perplexity = (-torch.xlogy(share, share).sum()).exp() / math.prod(levels)
    assert perplexity > 0.99, perplexity


def test_fsq_passes_the_gradient_of_its_bound_straight_through() -> None:
    fsq, numbers = FSQ(FEATURES, (5, 4)).eval(), torch.linspace(-1, 1, 2 * PLACES).view(PLACES, 2).requires_grad_()
    embedded = given(fsq, numbers).embedded
    (found,) = torch.autograd.grad(embedded.sum(), numbers)
    (expected,) = torch.autograd.grad((torch.special.ndtr(numbers) * torch.tensor([5 / 2, 4 / 1.5])).sum(), numbers)
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()


def test_fsq_counts_combinations_as_vector_quantize_pytorch_does() -> None:
    """Levels of each code; where they lie between -1 and 1 differs for even numbers of them."""
    oracle = pytest.importorskip("vector_quantize_pytorch").FSQ([8, 6, 5])
    fsq = FSQ(FEATURES, (8, 6, 5)).eval()
    sizes = torch.tensor([8, 6, 5])
    vectors = fsq.embed(torch.arange(240).view(-1, PLACES)).movedim(1, -1).reshape(240, 3)
    ours = (vectors + 1) / 2 * (sizes - 1)
    theirs = oracle.indices_to_codes(torch.arange(240)) * (sizes // 2) + sizes // 2
    torch.testing.assert_close(ours, theirs.to(ours))
