"""The prior of bits: its gradient, what it learns of real ones, how well its normaliser is known, what it says."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopped_run import KilledError, lent, training_states
from torch import Tensor
from training_run import digits, equal
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.boltzmann.partition import exact_log_normaliser
from stage2_prior.boltzmann.rbm import RBM
from stage2_prior.fitting import FitReport, PriorError
from stage2_prior.prior import Exactness
from stage2_prior.priors.unigram import Unigram
from stage2_prior.sampling import Sampling

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")
FIT: dict[str, Any] = {"batch_size": 64, "learning_rate": 0.01, "average": 0.99, "clip": 10.0, "precision": "32-true"}


def bits(z: Tensor) -> LatentDataset:
    """Posteriors that are all but certain of z [N, D]."""
    spec = LatentSpec((z.shape[1],), Support.BITS)
    return LatentDataset(spec, "bits", {"logits": (20.0 * z - 10.0).numpy().astype(np.float32)})


def pixels(split: str, size: int) -> Tensor:
    """The middle size x size pixels of the digits, light or dark, [N, size^2]."""
    images = getattr(digits(), split)
    low = (8 - size) // 2
    middle = images.batch(torch.arange(len(images)))[:, 0, low : low + size, low : low + size]
    return (middle > 8).float().flatten(1)


@functools.cache
def fitted(size: int, num_hidden: int, seed: int = 0, exact_units: int = 20, epochs: int = 25) -> tuple[RBM, FitReport]:
    train, val = bits(pixels("train", size)), bits(pixels("val", size))
    torch.manual_seed(seed)
    prior = RBM(train.spec, num_hidden, exact_units=exact_units, anneal_steps=500, anneal_chains=300)
    return prior, prior.fit(train, val, lent(**{**FIT, "max_epochs": epochs}))


def held_out(prior: Any, size: int) -> float:
    """Nats of a test image."""
    with torch.no_grad():
        return -prior.log_prob(pixels("test", size)).double().mean().item()


@pytest.mark.parametrize(("num_hidden", "seed"), [(8, 0), (32, 1), (64, 2)])
def test_the_normaliser_of_a_trained_machine_is_that_of_enumeration(num_hidden: int, seed: int) -> None:
    prior, report = fitted(4, num_hidden, seed, exact_units=0)
    off = float(prior.log_normaliser) - exact_log_normaliser(prior.machine())
    assert prior.log_prob_is is Exactness.ESTIMATE and 0 < prior.log_prob_error_nats < 0.05
    assert abs(off) < 0.1 and abs(off) < 3 * prior.log_prob_error_nats
    assert abs(float(prior.normaliser_gap)) < 0.1
    assert report.val_nll_nats == pytest.approx(held_out(prior, 4), abs=0.3)


def test_real_bits_cost_less_than_by_themselves() -> None:
    costs = {}
    for size, num_hidden in {4: 32, 8: 16}.items():
        prior, _ = fitted(size, num_hidden)
        unigram = Unigram(prior.spec)
        unigram.fit(bits(pixels("train", size)), bits(pixels("val", size)), RUN)
        assert prior.log_prob_is is Exactness.EXACT and prior.log_prob_error_nats == 0
        costs[size] = held_out(prior, size) / held_out(unigram, size)
    assert costs[4] < 0.9 and costs[8] < 0.87, costs


def test_samples_are_as_frequent_as_the_data() -> None:
    prior, _ = fitted(4, 32)
    torch.manual_seed(0)
    z, data = prior.sample(4000), pixels("train", 4)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert (z.mean(0) - data.mean(0)).abs().max() < 0.06
    assert (torch.cov(z.T) - torch.cov(data.T)).abs().max() < 0.05
    cold = prior.sample(500, how=Sampling(temperature=0.3))
    with torch.no_grad():
        assert prior.log_prob(cold).mean() > prior.log_prob(z).mean() + 1


def test_it_begins_as_independent_bits() -> None:
    train = bits(pixels("train", 8))
    torch.manual_seed(0)
    prior, unigram = RBM(train.spec, 12).eval(), Unigram(train.spec)
    prior.prepare(train)
    unigram.fit(train, train, RUN)
    z = pixels("test", 8)[:200]
    with torch.no_grad():
        log_prob = -prior.machine().free_energy(z) - exact_log_normaliser(prior.machine())
    torch.testing.assert_close(log_prob, unigram.log_prob(z), atol=0.6, rtol=0)


def small_machine(num_chains: int = 1000) -> tuple[RBM, Tensor, Tensor]:
    """A prior of 5 bits with 4 hidden ones whose weights matter, all states, and their probabilities."""
    torch.manual_seed(0)
    prior = RBM(LatentSpec((5,), Support.BITS), 4, num_chains=num_chains)
    with torch.no_grad():
        prior.weights.normal_(0, 1.5)
        prior.visible_bias.normal_()
    z = torch.cartesian_prod(*[torch.arange(2.0)] * 5)
    mass = torch.exp(-prior.machine().free_energy(z) - exact_log_normaliser(prior.machine())).detach()
    return prior, z, mass


def test_where_chains_are_draws_the_gradient_is_that_of_the_likelihood() -> None:
    prior, states, mass = small_machine(num_chains=200_000)
    prior.chains.copy_(states[torch.multinomial(mass, len(prior.chains), replacement=True)])
    z = torch.randint(2, (64, 5)).float()
    exact = prior.machine().free_energy(z).mean() + torch.logsumexp(-prior.machine().free_energy(states), 0)
    wanted = torch.autograd.grad(exact, list(prior.parameters()))
    found = torch.autograd.grad(prior.train().loss(z).mean(), list(prior.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=0.01, rtol=0)


def test_between_join_and_settle_z_gets_the_gradient_of_the_density() -> None:
    prior, _, _ = small_machine()
    z = torch.randint(2, (16, 5)).float().requires_grad_()
    (wanted,) = torch.autograd.grad(-prior.machine().free_energy(z).sum(), z)
    prior.join(lambda x: None, lambda num: None)
    before = prior.chains.clone()
    (found,) = torch.autograd.grad(prior.train().log_prob(z).sum(), z)
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(prior.chains, before)
    estimated = prior.eval().log_prob(z) + prior.machine().free_energy(z)
    assert -estimated.mean().item() == pytest.approx(exact_log_normaliser(prior.machine()), abs=0.1)
    prior.settle()
    assert float(prior.log_normaliser) == exact_log_normaliser(prior.machine())


def test_held_out_figures_follow_the_parameters() -> None:
    prior, _, _ = small_machine()
    prior.learning = True
    first = prior._quick_log_normaliser()
    assert prior._quick_log_normaliser() == first
    with torch.no_grad():
        prior.weights.mul_(0.5)
    assert prior._quick_log_normaliser() != first


def test_what_is_estimated_is_said() -> None:
    samples, exact = fitted(4, 32)[0].caveats
    assert "100 steps of block Gibbs from 512 chains" in samples and "all 2^16 states of its smaller side" in exact
    prior, _ = fitted(4, 8, 0, exact_units=0)
    _, said = prior.caveats
    assert "300 chains annealed in 500 steps" in said and f"{prior.log_prob_error_nats:.2g} nats" in said
    assert f"{float(prior.normaliser_gap):+.2g} nats from that" in said


def test_a_fit_that_was_stopped_goes_on_with_its_chains(tmp_path: Path) -> None:
    train, val = bits(pixels("train", 4)), bits(pixels("val", 4))
    asked = {**FIT, "max_epochs": 4}

    def made() -> RBM:
        torch.manual_seed(0)
        return RBM(train.spec, 8, anneal_steps=20, anneal_chains=50)

    whole, stopped = made(), made()
    whole.fit(train, val, lent(**asked))
    with pytest.raises(KilledError):
        made().fit(train, val, lent(training_states(tmp_path), 2, **asked))
    stopped.fit(train, val, lent(training_states(tmp_path), **asked))
    assert equal(whole.state_dict(), stopped.state_dict())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_hidden": 0}, "prior.num_hidden=0: give at least 1"),
        ({"training_steps": 0}, "prior.training_steps=0"),
        ({"steps": 0}, "prior.steps=0"),
        ({"anneal_steps": 0}, "prior.anneal_steps=0"),
        ({"num_chains": 1}, "prior.num_chains=1: give at least 2"),
        ({"anneal_chains": 1}, "prior.anneal_chains=1"),
        ({"exact_units": 30}, "prior.exact_units=30: give a number from 0 to 24"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        RBM(LatentSpec((5,), Support.BITS), **wrong)
