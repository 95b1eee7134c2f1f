"""Whitening: points whose columns go together, and everything that is left as `standardize` leaves it."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.wrappers.standardize import Standardized
from stage2_prior.wrappers.whiten import Whitened

SPEC = LatentSpec((4,))
MIXING = np.array([[1.0, 0, 0, 0], [0.99, 0.1, 0, 0], [-30, 5, 20, 0], [0, 0, 0.01, 0.001]])


def together(num: int = 3000, seed: int = 0) -> Tensor:
    """[num, 4], columns that go together, of very different scales."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num, 4)) @ MIXING.T + [5, -1, 100, 0]).float()


def whitened(latents: LatentDataset) -> tuple[Whitened, list[str]]:
    prior = Whitened(StandardNormal(latents.spec))
    return prior, prior.fit(latents, latents, RUN).notes


def test_around_a_standard_normal_it_is_the_gaussian() -> None:
    latents = LatentDataset.of(together())
    prior, notes = whitened(latents)
    assert len(notes) == 1 and notes[0].startswith("whitened: correlations are worth") and "standardize" in notes[0]
    gaussian = Gaussian(SPEC)
    gaussian.fit(latents, latents, RUN)
    z = together(500, 1)
    torch.testing.assert_close(prior.log_prob(z), gaussian.log_prob(z), atol=2e-2, rtol=0)
    torch.testing.assert_close(prior.loss(z), -prior.log_prob(z))
    truth = MultivariateNormal(torch.tensor([5.0, -1, 100, 0]), torch.from_numpy(MIXING @ MIXING.T).float())
    assert abs((prior.log_prob(z) - truth.log_prob(z)).mean().item()) < 0.05
    torch.manual_seed(0)
    draws = prior.sample(50_000).double().numpy()
    np.testing.assert_allclose(
        np.cov(draws.T) / np.outer(*[draws.std(0)] * 2), np.corrcoef(together().numpy().T), atol=0.03
    )
    assert prior.num_parameters == 2 * 4 + 6


def test_the_inner_prior_sees_white_points() -> None:
    latents = LatentDataset.of(together())
    prior, _ = whitened(latents)
    inner = prior._standardise(latents).draw(torch.arange(3000))
    torch.testing.assert_close(torch.cov(inner.T), torch.eye(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(prior._to_z(inner), latents.draw(torch.arange(3000)), rtol=1e-4, atol=1e-4)
    other = Whitened(StandardNormal(SPEC))
    other.load_state_dict(prior.state_dict())
    z = together(9, 2)
    assert torch.equal(other.log_prob(z), prior.log_prob(z))


def test_of_fewer_points_than_dimensions_correlations_are_shrunk() -> None:
    """In N(0, I) of what is left, held-out points are likelier than without, and the map stays one."""
    rng = np.random.default_rng(0)
    loc = torch.from_numpy(rng.normal(size=(230, 3)) @ rng.normal(size=(3, 40)) + 0.3 * rng.normal(size=(230, 40)))
    train, test = LatentDataset.of(loc[:30]), loc[30:].float()
    (prior, notes), other = whitened(train), Standardized(StandardNormal(train.spec))
    other.fit(train, train, RUN)
    assert any(note.startswith("whitened") for note in notes)
    assert prior.log_prob(test).mean() > other.log_prob(test).mean() + 10
    torch.testing.assert_close(prior._to_z(prior._to_y(test)[0]), test, atol=1e-3, rtol=0)


def test_a_column_that_follows_from_others_is_not_blown_up() -> None:
    loc = together(2000)
    loc[:, 3] = loc[:, 0] - 2 * loc[:, 1]
    prior, _ = whitened(LatentDataset.of(loc[:1000]))
    assert prior._to_y(loc[1000:])[0].abs().max() < 10


def test_noise_is_not_whitened() -> None:
    """Columns that are apart, and no more than a few points a column."""
    loc = torch.from_numpy(np.random.default_rng(0).normal(size=(130, 64))).float()
    prior, notes = whitened(LatentDataset.of(loc))
    assert not notes and torch.equal(prior.factor, torch.eye(64))


def test_a_column_that_hardly_ever_moves_is_not_stretched() -> None:
    loc = torch.from_numpy(np.random.default_rng(0).normal(size=(5000, 3))).float()
    loc[:, 2] = 0.0
    loc[::500, 2] = 1.0
    prior, _ = whitened(LatentDataset.of(loc))
    assert prior._to_y(loc)[0].abs().max() < 1000 and torch.equal(prior.factor, torch.eye(3))


def test_a_wild_point_makes_no_correlation() -> None:
    loc = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 4))).float()
    loc[7] = 1e4
    prior, notes = whitened(LatentDataset.of(loc))
    assert torch.equal(prior.factor, torch.eye(4))
    assert len(notes) == 1 and notes[0].startswith("standardised without the outermost latents in 4 of 4 dimensions")


APART = np.random.default_rng(0).normal(size=(3000, 4)) * [1, 10, 0.1, 3]
LEFT = {
    "apart": LatentDataset.of(torch.from_numpy(APART)),
    "few": LatentDataset.of(together(9)),
    "posteriors": LatentDataset.of(together(), torch.full((3000, 4), -2.0)),
    "maps": LatentDataset.of(together().reshape(-1, 1, 2, 2)),
}


@pytest.mark.parametrize("name", LEFT)
def test_the_rest_is_standardised_alone(name: str) -> None:
    latents = LEFT[name]
    (prior, notes), other = whitened(latents), Standardized(StandardNormal(latents.spec))
    assert notes == other.fit(latents, latents, RUN).notes == []
    z = latents.draw(torch.arange(9))
    assert torch.equal(prior.log_prob(z), other.log_prob(z)) and prior.num_parameters == other.num_parameters
