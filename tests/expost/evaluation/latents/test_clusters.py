"""Components matched to classes: constructed cases, and an independent reference."""

import itertools

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from expost.evaluation.latents.clusters import count, describe_clusters, match


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(4, (400,), generator=torch.Generator().manual_seed(0))


def test_a_permutation_is_undone(labels: torch.Tensor) -> None:
    names = torch.tensor([2, 0, 3, 1])  # the component of each class
    found = describe_clusters(count(names[labels], labels, 4, 4))
    assert found.accuracy.value == found.purity.value == 1.0
    assert found.nmi == pytest.approx(1.0)
    assert found.matched == (1, 3, 0, 2)
    known = describe_clusters(count(names[labels], labels, 4, 4), classes_known=True)
    assert known.accuracy.value == 0.0 and known.purity.value == 1.0  # no component is its own class


def test_a_component_that_is_left_over_is_wrong(labels: torch.Tensor) -> None:
    """Each class in two components of equal size: one to one half is right, many to one all."""
    turn = torch.zeros_like(labels)
    for y in range(4):
        rows = (labels == y).nonzero().squeeze(1)
        turn[rows] = torch.arange(len(rows)) % 2
    found = describe_clusters(count(2 * labels + turn, labels, 8, 4))
    larger = sum(-(-int((labels == y).sum()) // 2) for y in range(4))
    assert found.accuracy.value == pytest.approx(larger / 400)
    assert found.purity.value == 1.0
    assert sorted(found.matched) == [-1, -1, -1, -1, 0, 1, 2, 3]


def test_fewer_components_than_classes(labels: torch.Tensor) -> None:
    found = describe_clusters(count(labels.clamp(max=1), labels, 2, 4))
    sizes = torch.bincount(labels).tolist()
    assert found.accuracy.value == pytest.approx((sizes[0] + max(sizes[1:])) / 400) == found.purity.value


def test_the_matching_is_the_best_of_all() -> None:
    counts = torch.randint(50, (5, 5), generator=torch.Generator().manual_seed(1))
    best = max(sum(int(counts[k, y]) for k, y in enumerate(order)) for order in itertools.permutations(range(5)))
    assert sum(int(counts[k, y]) for k, y in enumerate(match(counts).tolist())) == best
    found, num = describe_clusters(counts), int(counts.sum())
    share = best / num
    assert found.accuracy.value == pytest.approx(share) and found.num_images == num
    assert found.accuracy.standard_error == pytest.approx((share * (1 - share) / num) ** 0.5, rel=0.05)


def test_information_is_that_of_scikit_learn(labels: torch.Tensor) -> None:
    component = torch.randint(6, (400,), generator=torch.Generator().manual_seed(2))
    component = torch.where(torch.arange(400) % 3 == 0, component, labels)
    found = describe_clusters(count(component, labels, 6, 4))
    assert found.nmi == pytest.approx(normalized_mutual_info_score(labels.numpy(), component.numpy()), abs=1e-9)
    assert describe_clusters(count(torch.zeros_like(labels), labels, 6, 4)).nmi == 0.0
