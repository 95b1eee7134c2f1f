"""How near sequences of codes come to those of the training set."""

import pytest
import torch

from expost.evaluation.images.memorisation import (
    MOST_COMPARED,
    memorisation,
    nearest_sequence,
    nearest_share,
    num_looked_up,
)


def codes(num: int, seed: int, places: int = 12, size: int = 300) -> torch.Tensor:
    return torch.randint(0, size, (num, places), generator=torch.Generator().manual_seed(seed))


def test_the_share_is_that_of_the_places_that_differ_from_the_nearest() -> None:
    train, rows = codes(200, 0), codes(50, 1, size=4)
    every = (rows[:, None] != train[None]).double().mean(2).amin(1)
    assert torch.equal(nearest_share(rows, train.split(7)), every)


def test_copies_are_at_nothing_and_score_as_copies() -> None:
    train, test = codes(300, 0, size=3), codes(100, 1, size=3)
    copies = train[torch.randperm(300)[:100]]
    near, fresh = nearest_share(copies, [train]), nearest_share(test, [train])
    assert (near == 0).all() and (fresh > 0).any()
    assert memorisation(near, fresh).share > 0.9
    assert memorisation(nearest_share(codes(100, 2, size=3), [train]), fresh).share < 0.6


def test_many_training_sequences_are_searched_for_fewer_samples() -> None:
    assert num_looked_up(1000, 60_000, 49) == 1000
    assert num_looked_up(10_000, 5_000_000, 64) == 100
    assert num_looked_up(10_000, 60_000, 49) * 60_000 * 49 <= MOST_COMPARED


def test_the_nearest_sequence_is_the_first_of_those_that_are_as_near() -> None:
    training = [torch.tensor([[0, 1, 2], [3, 3, 3]]), torch.tensor([[0, 1, 2], [0, 0, 2]])]
    index, share = nearest_sequence(torch.tensor([[0, 1, 2], [0, 0, 2], [3, 3, 0]]), training)
    assert index.tolist() == [0, 3, 1] and share.tolist() == pytest.approx([0, 0, 1 / 3])
