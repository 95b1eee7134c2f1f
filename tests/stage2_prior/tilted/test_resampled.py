"""Learned accept/reject: its normaliser on a grid, the truncated density, the sampler, what it learns, refusals."""

import functools
import math
from typing import Any

import pytest
import torch
from latent_values import means
from prior_cases import RING, on_grid, ring, ring_run
from torch import nn

from stage2_prior.fitting import FitReport, PriorError
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.tilted.resampled import Resampled

ATTEMPTS = 20


@functools.cache
def fitted(attempts: int = ATTEMPTS) -> tuple[Resampled, FitReport]:
    torch.manual_seed(0)
    prior = Resampled(RING, Gaussian(RING), attempts, hidden=(64, 64), num_draws=4000)
    return prior, prior.fit(ring(4000, 1), ring(1000, 2), ring_run(max_epochs=15))


def log_integral(prior: Resampled) -> float:
    _, log_prob, area = on_grid(prior)
    return math.log(float(log_prob.exp().sum()) * area)


@pytest.mark.parametrize("attempts", [5, ATTEMPTS])
def test_the_error_bar_covers_the_truth(attempts: int) -> None:
    prior, _ = fitted(attempts)
    assert 0 < prior.log_prob_error_nats < 0.03
    assert abs(log_integral(prior)) < 4 * prior.log_prob_error_nats + 1e-4


def test_the_error_bar_is_what_normalisers_differ_by() -> None:
    prior, _ = fitted()
    before = prior.log_normaliser.clone(), prior.share_that_counts.clone()
    normalisers = []
    for seed in range(60):
        torch.manual_seed(seed)
        prior._estimate_normaliser()
        normalisers.append(prior.log_normaliser.item())
    prior.log_normaliser.copy_(before[0])
    prior.share_that_counts.copy_(before[1])
    assert torch.tensor(normalisers).std().item() == pytest.approx(prior.log_prob_error_nats, rel=0.4)


def test_it_is_nearer_than_its_base() -> None:
    prior, report = fitted()
    z = means(ring(2000, 3))
    with torch.no_grad():
        gain = (prior.log_prob(z) - prior.base.log_prob(z)).mean().item()
    assert gain > 0.5  # of a ring, whose entropy is 0.8 nats below that of a Gaussian with its moments
    assert report.val_nll_nats == pytest.approx(-prior.log_prob(z).mean().item(), abs=0.1)
    assert report.curve[-1]["val_nll_nats"] == pytest.approx(report.val_nll_nats, abs=0.05)


def test_samples_follow_the_truncated_density() -> None:
    prior, _ = fitted(5)
    points, log_prob, area = on_grid(prior)
    mass = log_prob.exp() * area
    torch.manual_seed(0)
    z = prior.sample(40_000)
    for statistic in (lambda z: z.norm(dim=1), lambda z: (z.norm(dim=1) < 1).float(), lambda z: z[:, 0] ** 2):
        expected = float((mass * statistic(points)).sum())
        drawn = statistic(z)
        assert float(drawn.mean()) == pytest.approx(expected, abs=5 * float(drawn.std()) / 200 + 0.002)


def test_of_one_attempt_it_is_the_base() -> None:
    prior = Resampled(RING, Gaussian(RING), 1, hidden=(8,), num_draws=1000)
    nn.init.normal_(prior.head.weight)
    prior._estimate_normaliser()
    z = torch.randn(50, 2)
    torch.testing.assert_close(prior.log_prob(z), prior.base.log_prob(z))


def test_what_is_estimated_is_said() -> None:
    prior, _ = fitted()
    accepts, counts = prior.caveats
    assert accepts.startswith("it accepts ") and "last of 20 is always taken" in accepts
    assert "from 4,000 draws" in counts and f"{prior.log_prob_error_nats:.2g} nats" in counts


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attempts": 0}, "prior.attempts=0: give at least 1"),
        ({"num_proposals": 0}, "prior.num_proposals=0: give at least 1"),
        ({"num_draws": 1}, "prior.num_draws=1: give at least 2"),
        ({"hidden": ()}, r"prior.hidden=\[\]: give at least one width"),
        ({"dropout": 1.0}, "prior.dropout=1.0: give a share"),
        ({"base": None}, "prior.base=null: .*give mixture"),
        ({"base": Autoregressive(RING, (8,), 2)}, "prior.base=Autoregressive: .*give mixture"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Resampled(RING, **{"base": Gaussian(RING), **wrong})
