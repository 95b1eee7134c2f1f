"""The latent energy model: its normaliser on a grid, chains that leave the density where it is, what it learns."""

import functools
import math
from typing import Any

import pytest
import torch
from latent_values import means
from prior_cases import RING, on_grid, ring, ring_run
from torch import Tensor

from stage2_prior.fitting import FitReport, PriorError
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.kde import Kernels
from stage2_prior.priors.mixture import Mixture
from stage2_prior.tilted.energy import Energy


@functools.cache
def fitted() -> tuple[Energy, FitReport]:
    torch.manual_seed(0)
    prior = Energy(RING, Gaussian(RING), hidden=(64, 64), step_size=0.3, num_chains=256, num_draws=4000)
    return prior, prior.fit(ring(4000, 1), ring(1000, 2), ring_run(max_epochs=10))


def statistics(z: Tensor) -> Tensor:
    return torch.stack([z.norm(dim=1), (z.norm(dim=1) < 1).float(), z[:, 0].square(), z[:, 0] * z[:, 1]], 1)


def test_the_error_bar_covers_the_truth() -> None:
    prior, _ = fitted()
    _, log_prob, area = on_grid(prior)
    assert 0 < prior.log_prob_error_nats < 0.05
    assert abs(math.log(float(log_prob.exp().sum()) * area)) < 4 * prior.log_prob_error_nats


def test_it_is_nearer_than_its_base() -> None:
    prior, report = fitted()
    z = means(ring(2000, 3))
    with torch.no_grad():
        gain = (prior.log_prob(z) - prior.base.log_prob(z)).mean().item()
    assert gain > 0.5
    assert report.val_nll_nats == pytest.approx(-prior.log_prob(z).mean().item(), abs=0.1)


def test_samples_follow_the_density() -> None:
    prior, _ = fitted()
    points, log_prob, area = on_grid(prior)
    expected = (log_prob.exp()[:, None] * area * statistics(points)).sum(0)
    torch.manual_seed(0)
    drawn = statistics(prior.sample(20_000)).double()
    assert ((drawn.mean(0) - expected).abs() < 5 * drawn.std(0) / math.sqrt(20_000) + 0.01).all()


def test_chains_leave_the_density_where_it_is() -> None:
    """Where the net is flat, p is the base, of which draws are exact: after many steps they still are, at any size."""
    prior = Energy(RING, Mixture(RING, 2), step_size=0.8)
    assert isinstance(prior.base, Mixture)
    prior.base.means.copy_(torch.tensor([[-1.0, 0], [1, 0]]))
    prior.base.scale = torch.eye(2).double().expand(2, 2, 2) * 0.5
    torch.nn.init.zeros_(prior.head.weight)
    torch.manual_seed(0)
    z = prior.base.sample(6000)
    walked = prior._walk(z, 15)
    moved = (walked != z).any(1).float().mean()
    assert moved > 0.9
    error = torch.hypot(statistics(z).std(0), statistics(walked).std(0)) / math.sqrt(6000)
    assert ((statistics(walked).mean(0) - statistics(z).mean(0)).abs() < 4.5 * error).all()


def test_chains_find_what_the_energy_asks_for_from_wherever_they_start() -> None:
    prior, _ = fitted()
    torch.manual_seed(0)
    walked = prior._walk(torch.zeros(2000, 2), 60)
    assert walked.norm(dim=1).mean() == pytest.approx(2, abs=0.15)


def test_what_is_estimated_is_said() -> None:
    prior, _ = fitted()
    begin, counts = prior.caveats
    assert "one of 4 draws of its gaussian" in begin and "take 5 Langevin steps" in begin
    assert "from 4,000 draws" in counts and f"{prior.log_prob_error_nats:.2g} nats" in counts


def test_on_what_memorises_it_does_too() -> None:
    prior = Energy(RING, Kernels(RING, 50, bandwidth=0))
    assert prior.memorises and prior.needs_widths and not Energy(RING, Gaussian(RING)).memorises


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": -1}, "prior.steps=-1"),
        ({"candidates": 0}, "prior.candidates=0"),
        ({"step_size": 0.0}, "prior.step_size=0.0: give a number above 0"),
        ({"base": None}, "prior.base=null: .*give mixture"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Energy(RING, **{"base": Gaussian(RING), **wrong})
