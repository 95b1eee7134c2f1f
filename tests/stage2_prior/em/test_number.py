"""As many components as held-out latents gain by."""

import numpy as np
import pytest
import torch
from without_lightning import RUN

from expost.measure.labelled.clusters import num_used
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import PriorError
from stage2_prior.priors.mixture import Mixture
from stage2_prior.wrappers.standardize import Standardized

CENTRES = np.random.default_rng(7).normal(size=(10, 4)) * 3


def draws(num: int, seed: int, clusters: int) -> LatentDataset:
    rng = np.random.default_rng(seed)
    loc = CENTRES[rng.integers(clusters, size=num)] + 0.3 * rng.normal(size=(num, 4))
    return LatentDataset.of(torch.from_numpy(loc).float())


@pytest.mark.parametrize(("clusters", "number"), [(1, 1), (2, 2), (5, 5), (10, 10)])
def test_it_finds_the_number_of_clusters(clusters: int, number: int) -> None:
    train, val = draws(2000, 0, clusters), draws(1000, 1, clusters)
    prior = Mixture(LatentSpec((4,)), num_components="auto")
    notes = prior.fit(train, val, RUN).notes
    assert int(prior.log_weights.isfinite().sum()) == number
    assert notes[0].startswith(f"{number} component{'s' * (number > 1)} of 1, 2, 5")
    assert prior.num_parameters == number - 1 + number * (4 + 10)
    assert num_used(prior) == num_used(Standardized(prior)) == number
    alone = Mixture(LatentSpec((4,)), num_components=number)
    alone.fit(train, val, RUN)
    z = val.draw(torch.arange(1000))
    torch.testing.assert_close(prior.log_prob(z), alone.log_prob(z))
    torch.manual_seed(0)
    assert prior.log_prob(prior.sample(1000)).isfinite().all()


def test_a_few_latents_far_out_do_not_end_the_search() -> None:
    """They are most of what more components gain, and most of its noise."""
    rng = np.random.default_rng(0)
    train, val = (rng.normal(size=(num, 4)) for num in (3000, 500))
    for latents in (train, val):
        latents[:5] *= 1e3
    prior = Mixture(LatentSpec((4,)), num_components="auto")
    held_out = torch.from_numpy(val).float()
    prior.fit(LatentDataset.of(torch.from_numpy(train).float()), LatentDataset.of(held_out), RUN)
    assert prior.log_prob(held_out).mean() > -8


def test_components_without_weight_stay_without_when_learned_jointly() -> None:
    prior = Mixture(LatentSpec((4,)), num_components="auto")
    prior.fit(draws(500, 0, 2), draws(200, 1, 2), RUN)
    z = draws(50, 2, 2).draw(torch.arange(50))
    before = prior.log_prob(z)
    prior.join(lambda x: None, lambda n: torch.zeros(n))
    loss = -prior.log_prob(z).mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
    torch.testing.assert_close(-loss, before.mean(), atol=1e-3, rtol=0)


def test_too_few_held_out_latents_say_one_component() -> None:
    prior = Mixture(LatentSpec((4,)), num_components="auto")
    assert prior.min_images == 1
    notes = prior.fit(draws(30, 0, 2), draws(5, 1, 2), RUN).notes
    assert notes[0] == "1 component: too few latents to tell how many; prior.num_components sets it"


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(PriorError, match="num_components=many: give auto, or a number of at least 1"):
        Mixture(LatentSpec((4,)), num_components="many")  # type: ignore[arg-type]
