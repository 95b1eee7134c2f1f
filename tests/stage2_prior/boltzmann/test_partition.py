"""The normaliser of a restricted Boltzmann machine: sums over all states, and annealing whose error bar covers them."""

import math

import pytest
import torch
from torch import Tensor

from stage2_prior.boltzmann.machine import Machine
from stage2_prior.boltzmann.partition import anneal, exact_log_normaliser, log_mean_weight, logits_of_base

REPETITIONS = 20


def machine(num_visible: int, num_hidden: int, scale: float, seed: int = 0) -> Machine:
    """Weights and biases of deviation `scale`, about as many bits 1 as 0."""
    noise = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, dtype=torch.float64, generator=noise)

    weights = draw(num_visible, num_hidden)
    visible = draw(num_visible) - 0.5 * weights.sum(1)
    return Machine(weights, visible, draw(num_hidden) - 0.5 * weights.sum(0))


def states(num: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * num).view(-1, num)


def log_joint(of: Machine, v: Tensor, h: Tensor) -> Tensor:
    """b v + c h + v W h of all pairs, [A, B]."""
    return (v @ of.visible_bias)[:, None] + h @ of.hidden_bias + v @ of.weights @ h.T


def test_the_free_energy_sums_over_hidden_states() -> None:
    of, v, h = machine(4, 3, 1.5), states(4), states(3)
    joint = log_joint(of, v, h)
    torch.testing.assert_close(of.free_energy(v), -torch.logsumexp(joint, 1))
    ones = torch.exp(joint - torch.logsumexp(joint, 1, keepdim=True)) @ h  # p(h_j = 1 | v)
    torch.testing.assert_close(of.hidden_logits(v).sigmoid(), ones)
    back = torch.exp(joint - torch.logsumexp(joint, 0)).T @ v
    torch.testing.assert_close(of.visible_logits(h).sigmoid(), back)


@pytest.mark.parametrize(("num_visible", "num_hidden"), [(1, 1), (5, 9), (9, 5), (13, 12)])
def test_the_sum_over_the_smaller_side_is_that_over_all_pairs(num_visible: int, num_hidden: int) -> None:
    of = machine(num_visible, num_hidden, 1.0)
    total = float(torch.logsumexp(log_joint(of, states(num_visible), states(num_hidden)).flatten(), 0))
    assert exact_log_normaliser(of) == pytest.approx(total, abs=1e-9)


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\^25 states"):
        exact_log_normaliser(machine(25, 30, 0.1))


@pytest.mark.parametrize("num_hidden", [8, 32])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_annealing_finds_the_sum_and_its_error_covers_it(scale: float, num_hidden: int) -> None:
    of, base = machine(16, num_hidden, scale), torch.zeros(16)
    exact = exact_log_normaliser(of)
    found = [anneal(of, base, 250, 200, seed, back=False) for seed in range(REPETITIONS)]
    off = torch.tensor([one.log_normaliser - exact for one in found], dtype=torch.float64)
    errors = torch.tensor([one.standard_error for one in found], dtype=torch.float64)
    assert ((off.abs() < 0.1) | (off.abs() < 3 * errors)).all() and off.mean().abs() < 0.1
    assert (off.abs() < 2 * errors).double().mean() >= 0.85
    assert errors.mean() < 3 * off.square().mean().sqrt(), "so wide that it covers anything"


def test_forth_is_below_and_back_is_above_and_both_close_in() -> None:
    of, base = machine(16, 32, 2.0), torch.zeros(16)
    exact = exact_log_normaliser(of)
    forth, back = [], []
    for steps in (5, 250):
        found = [anneal(of, base, steps, 40, seed) for seed in range(REPETITIONS)]
        forth.append(sum(one.log_normaliser for one in found) / REPETITIONS - exact)
        back.append(sum(one.backward for one in found) / REPETITIONS - exact)
    assert forth[0] < -0.5 and forth[0] < forth[1] < 0.05 and abs(forth[1]) < 0.1
    assert abs(back[1]) < 0.25


def test_a_seed_repeats_it_and_the_global_generator_stays() -> None:
    of, base = machine(6, 4, 1.0), torch.zeros(6)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, same, other = (anneal(of, base, 20, 30, seed) for seed in (1, 1, 2))
    assert one.log_normaliser == same.log_normaliser != other.log_normaliser and torch.equal(one.chains, same.chains)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_base_is_as_frequent_as_the_chains_and_never_certain() -> None:
    chains = torch.tensor([[0.0, 1, 1], [0, 1, 0], [0, 1, 1]]).repeat(2000, 1)
    rates = logits_of_base(chains).sigmoid()
    assert rates[2] == pytest.approx(2 / 3, abs=1e-3) and 0 < rates[0] < 2e-3 < 0.998 < rates[1] < 1


def test_the_error_of_weights_is_that_of_the_delta_method() -> None:
    draws = torch.Generator().manual_seed(0)
    log_weights = 0.8 * torch.randn(400, 500, dtype=torch.float64, generator=draws)
    found = [log_mean_weight(row) for row in log_weights]
    means, errors = torch.tensor([one[0] for one in found]), torch.tensor([one[1] for one in found])
    assert means.mean() == pytest.approx(0.32, abs=0.01)  # log E[w] of a log-normal
    assert errors.mean() == pytest.approx(means.std().item(), rel=0.1)
    assert log_mean_weight(torch.zeros(7)) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-3), pytest.approx(7))


def test_block_gibbs_leaves_the_density_where_it_is() -> None:
    of, v = machine(5, 6, 1.5), states(5)
    mass = torch.exp(-of.free_energy(v) - exact_log_normaliser(of))
    torch.manual_seed(0)
    num = 40_000
    walked = of.walk(v[torch.multinomial(mass, num, replacement=True)], 3)
    counts = torch.bincount((walked.long() * 2 ** torch.arange(4, -1, -1)).sum(1), minlength=32)
    chi_square = float(((counts - num * mass).square() / (num * mass)).sum())
    assert chi_square < 31 + 5 * math.sqrt(62)


def test_at_no_temperature_chains_climb() -> None:
    of = machine(12, 10, 1.0)
    v = torch.randint(2, (50, 12)).double()
    climbed = of.walk(v, 30, temperature=0.0)
    assert torch.equal(of.walk(climbed, 2, temperature=0.0), climbed)
    assert of.free_energy(climbed).mean() < of.free_energy(of.walk(v, 30)).mean()
