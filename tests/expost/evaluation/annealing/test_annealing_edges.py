"""Annealing where chains or images have no weight, and where memory ends."""

from dataclasses import replace

import pytest
import torch
from linear_gaussian import QUICK, LinearGaussian, from_a_normal
from torch import Tensor
from torch.distributions import Normal

from expost.evaluation.annealing.path import Annealing, Start, annealed_bounds, bidirectional


def test_chains_that_fall_where_there_is_no_density_count_as_zero_and_are_named() -> None:
    """A likelihood of 1 for z_0 < 1 and no number beyond: p(x) is the normal's mass there."""
    torch.manual_seed(0)

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return torch.where(z[..., 0] < 1, 0.0 * z[..., 0], torch.nan)

    def standard_normal(z: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(z).sum(-1)

    settings = Annealing(num_chains=2000, num_steps=10, leapfrog_steps=2)
    annealed = annealed_bounds([torch.zeros(3, 1)], from_a_normal(2), log_likelihood, standard_normal, settings)
    truth = -Normal(0.0, 1.0).cdf(torch.tensor(1.0)).log().item()
    torch.testing.assert_close(annealed.nll_nats, torch.full((3,), truth).double(), atol=0.1, rtol=0)
    assert (annealed.diverged > 0.1).all() and not annealed.trusted.any()
    assert annealed.mean_nats() is None
    assert any("diverged on 3 of 3" in note for note in annealed.notes())
    assert any("3 of 3 images are not trusted" in note for note in annealed.notes())


@pytest.mark.parametrize("start_is_broken", [False, True])
def test_images_without_any_weight_are_no_number_in_the_summary(start_is_broken: bool) -> None:
    def nowhere(x: Tensor, z: Tensor) -> Tensor:
        return z.sum(-1) * torch.nan

    model = LinearGaussian(num=3)

    def start(x: Tensor) -> Start:
        begin = model.start(x)
        return replace(begin, log_prob=lambda z: nowhere(x, z)) if start_is_broken else begin

    settings = Annealing(num_chains=4, num_steps=5, leapfrog_steps=1)
    annealed = annealed_bounds([model.x], start, nowhere, model.log_prior, settings)
    assert not torch.isnan(annealed.nll_nats).any() and annealed.mean_nats() is None
    assert annealed.notes()[0] == "no chain of 3 of 3 images has a weight: no figure"
    both = bidirectional([(model.x, model.drawn[1])], start, nowhere, model.log_prior, settings)
    assert not torch.isfinite(both.gap_nats).any() and (both.lower_nats == -torch.inf).all()


def test_rows_at_once_stay_within_the_limit_and_every_image_is_bounded() -> None:
    model, rows = LinearGaussian(num=13), []

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        rows.append(z.shape[0] * z.shape[1])
        return model.log_likelihood(x, z)

    settings = Annealing(num_chains=8, num_steps=12, leapfrog_steps=1)
    annealed = annealed_bounds(
        model.x.split(7), model.start, log_likelihood, model.log_prior, settings, max_rows=4 * settings.num_chains
    )
    assert len(annealed.nll_nats) == 13 and max(rows) == 4 * settings.num_chains
    assert (annealed.nll_nats + model.log_p).abs().max() < 3


def test_temperatures_lead_from_the_start_to_the_joint() -> None:
    betas = torch.tensor(Annealing(num_steps=10).betas())
    steps = betas.diff()
    assert betas[0] == 0 and betas[-1] == 1 and len(betas) == 11 and (steps > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(11))
    assert steps[0] < 0.3 * steps[5]


def test_no_images_are_refused() -> None:
    model = LinearGaussian()
    with pytest.raises(ValueError, match="no images"):
        annealed_bounds([], model.start, model.log_likelihood, model.log_prior, QUICK)
