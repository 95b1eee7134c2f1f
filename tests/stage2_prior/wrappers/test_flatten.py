"""Maps as vectors: the density and the samples are the vector's, laid out again; and the command line finds it."""

import pytest
import torch
from prior_cases import run_for

from expost.base.command import Command
from expost.parts.priors import choose_prior, make_prior, prior_nodes
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.wrappers.flatten import Flattened
from stage2_prior.wrappers.standardize import Standardized

SPEC = LatentSpec((2, 3, 4))


def maps(num: int) -> LatentDataset:
    """Maps whose last number is the double of their first."""
    loc = torch.randn(num, *SPEC.shape, generator=torch.Generator().manual_seed(num))
    loc[:, 1, 2, 3] = 2 * loc[:, 0, 0, 0]
    return LatentDataset(SPEC, "diagonal_normal", {"loc": loc.numpy(), "log_std": torch.full_like(loc, -1.0).numpy()})


def test_it_is_the_prior_of_the_vectors() -> None:
    train, val = maps(2000), maps(100)
    prior, alone = Flattened(Gaussian(LatentSpec((24,))), SPEC.shape), Gaussian(LatentSpec((24,)))
    report = prior.fit(train, val, run_for(prior))
    flat = prior._flatten(train)
    assert flat.spec.shape == (24,) and torch.equal(
        flat.posterior(slice(3)).mean, train.posterior(slice(3)).mean.flatten(1)
    )
    expected = alone.fit(flat, prior._flatten(val), run_for(alone))
    assert report.val_nll_nats == pytest.approx(expected.val_nll_nats, abs=0.2)  # of other draws
    z = val.draw(torch.arange(100))
    torch.testing.assert_close(prior.log_prob(z), alone.log_prob(z.flatten(1)))
    samples = prior.sample(4000)
    assert samples.shape == (4000, *SPEC.shape)
    both = torch.stack([samples[:, 0, 0, 0], samples[:, 1, 2, 3]])
    assert torch.corrcoef(both)[0, 1] > 0.8


def test_a_list_of_wrappers_gives_it_the_shape_and_vectors_go_without() -> None:
    offered = prior_nodes()
    node = offered["autoregressive"] | {"hidden": [16], "wrap": ["standardize", "flatten"]}
    prior = make_prior(choose_prior(node, SPEC, offered, Command()), SPEC, 100, 0, torch.device("cpu"))
    assert isinstance(prior, Flattened) and prior.spec == SPEC
    assert isinstance(prior.inner, Standardized) and isinstance(prior.inner.inner, Autoregressive)
    assert prior.sample(2).shape == (2, *SPEC.shape)
    vector = make_prior(node | {"otherwise": None}, LatentSpec((5,)), 100, 0, torch.device("cpu"))
    assert isinstance(vector, Standardized)
    with pytest.raises(ValueError, match="not 24 numbers"):
        Flattened(Gaussian(LatentSpec((24,))), (2, 3, 5))
