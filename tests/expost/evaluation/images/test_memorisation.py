"""Memorisation: fresh images score one half, copies one, strangers zero; the search is the brute-force one."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from expost.evaluation.errors import EvaluationError
from expost.evaluation.images import memorisation as m


def test_nearest_agrees_with_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "SCORES_IN_CACHE", 5000)  # several blocks of training vectors, the last not full
    training, samples = torch.randn(700, 12) + 100, torch.randn(300, 12) + 100  # far from the origin
    samples[:20] = training[40:60]
    found = m.nearest(samples, training)
    distance, index = NearestNeighbors(n_neighbors=1).fit(training.double()).kneighbors(samples.double())
    assert torch.equal(found.index, torch.from_numpy(index[:, 0]))
    torch.testing.assert_close(found.distance, torch.from_numpy(distance[:, 0]), rtol=1e-9, atol=1e-12)
    assert torch.equal(found.index[:20], torch.arange(40, 60)) and not found.distance[:20].any()


def test_share_counts_every_pair_and_half_of_the_ties() -> None:
    samples = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    test = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    # 0 is nearer than all 3; 1 ties once and is nearer than 2; 2 ties twice; 5 is further than all.
    found = m.memorisation(samples, test)
    assert found.share == pytest.approx((3 + 2.5 + 1 + 0) / 12) and found.spread is None


def test_fresh_digits_score_half_copies_one_and_strangers_zero() -> None:
    source = load_digits()
    order = torch.randperm(len(source.data))
    images = torch.from_numpy(source.data).float()[order] / 16
    training, test, fresh = images[:900], images[900:1300], images[1300:]
    beyond = m.nearest(test, training).distance

    def score(samples: torch.Tensor) -> m.Memorisation:
        return m.memorisation(m.nearest(samples, training).distance, beyond)

    honest = score(fresh)
    assert honest.spread is not None and 0.01 < honest.spread < 0.04
    assert abs(honest.share - 0.5) < 3 * honest.spread
    assert score(training[:300]).share > 0.99
    nearly = score(training[:300] + 0.02 * torch.randn(300, 64))
    assert nearly.share > 0.9 and nearly.spread is not None and nearly.spread < honest.spread
    assert score(torch.rand(300, 64)).share < 0.01


def test_spread_is_the_deviation_over_fresh_draws() -> None:
    drawn = [m.memorisation(torch.randn(500) + 0.3, torch.randn(400)) for _ in range(150)]
    spread = torch.tensor([one.spread or 0.0 for one in drawn]).mean()
    assert spread.item() == pytest.approx(torch.tensor([one.share for one in drawn]).std().item(), rel=0.25)


def test_broken_features_are_refused() -> None:
    with pytest.raises(EvaluationError, match="NaN"):
        m.nearest(torch.full((2, 3), torch.nan), torch.zeros(4, 3))
    with pytest.raises(EvaluationError, match="training images"):
        m.nearest(torch.zeros(2, 3), torch.zeros(0, 3))


def test_a_copy_is_found_among_vectors_that_are_nearly_the_same() -> None:
    """float32 cannot tell which of them it is."""
    training = torch.randn(600, 64)
    training = torch.cat([training + 1e-5 * torch.randn(600, 64), training])
    found = m.nearest(training[650:700], training)
    assert found.distance.max() == 0 and torch.equal(found.index, torch.arange(650, 700))


def test_distances_within_a_narrow_cluster_are_those_of_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    training, features = (torch.randn(num, 64, generator=generator) for num in (800, 300))
    training[:400], features[:150] = 5 + 1e-4 * training[:400], 5 + 1e-4 * features[:150]
    features[7] = features[3]
    exact = torch.cdist(features.double(), training.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    found = m.nearest(features, training)
    torch.testing.assert_close(found.distance, exact.values, rtol=1e-9, atol=0.0)
    assert torch.equal(found.index, exact.indices)


def test_of_identical_training_images_the_first_is_nearest() -> None:
    training = torch.ones(50, 8)
    training[0] = 0
    assert m.nearest(torch.ones(3, 8), training).index.tolist() == [1, 1, 1]
