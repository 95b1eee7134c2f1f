"""Latents as feature vectors: no figure hangs on the units of a file, and nothing is lost but what is said."""

import pytest
import torch
from torch import Tensor

from expost.evaluation.distances import Reference, distances
from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.features import LatentFeatures


def normal(num: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_a_distance_is_the_same_in_every_unit(unit: float) -> None:
    train, test, samples = normal(2000, 8), normal(1000, 8, seed=1), 0.5 * normal(1000, 8, seed=2)

    def measured(scale: float, shift: float) -> float:
        features = LatentFeatures.of((scale * train + shift).split(300))
        reference = Reference.of(features.extract(scale * test + shift))
        return distances(reference, features.extract(scale * samples + shift)).frechet_distance

    assert measured(unit, 3 * unit) == pytest.approx(measured(1.0, 0.0), rel=1e-3)
    assert measured(1.0, 0.0) == pytest.approx(8 * 0.25, rel=0.2)  # (1 - 0.5)^2 a dimension


def test_features_of_training_latents_are_standardised() -> None:
    z = normal(5000, 3, 4, 4) * torch.linspace(0.01, 100, 48).view(3, 4, 4) + 500
    vectors = LatentFeatures.of(z.split(999)).extract(z)
    assert vectors.shape == (5000, 48)
    assert torch.allclose(vectors.mean(0), torch.zeros(48), atol=1e-3)
    assert torch.allclose(vectors.std(0), torch.ones(48), atol=1e-3)


def test_a_dimension_that_never_varies_is_left_out_and_counted() -> None:
    z = normal(500, 6)
    z[:, 2], z[:, 4] = 0.1, -1e6
    features = LatentFeatures.of([z])
    assert features.extract(z).shape == (500, 4) and features.num_constant == 2
    assert features.description == (
        "latents in units of their training standard deviations, 4 dimensions (2 more never vary and are left out)"
    )
    with pytest.raises(EvaluationError, match="never vary"):
        LatentFeatures.of([torch.full((10, 3), 0.1)])


def test_many_dimensions_are_projected_onto_the_same_directions_every_time() -> None:
    train, test = normal(600, 500), normal(400, 500, seed=1)
    features, again = LatentFeatures.of([train], most=32), LatentFeatures.of(train.split(100), most=32)
    vectors = features.extract(test)
    assert vectors.shape == (400, 32) and torch.allclose(vectors, again.extract(test), atol=1e-4)
    assert torch.allclose(vectors.std(0).mean(), torch.tensor(1.0), atol=0.05)  # orthonormal: a variance stays one
    assert "500 dimensions, projected onto 32 orthonormal directions" in features.description


@pytest.mark.parametrize("broken", [torch.inf, torch.nan])
def test_latents_that_are_not_finite_are_refused(broken: float) -> None:
    z = normal(20, 3)
    z[11, 1] = broken
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        LatentFeatures.of([z])
