"""The weights on the rate: warm-up, beta, free bits."""

import pytest
import torch
from image_files import everything
from torch import Tensor
from training_run import PREPROCESS, digits, make_vae, run

from stage1_vae.objective import SCHEDULES_DONE, Terms
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.rate import rate_per_dim_nats

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


def test_validation_does_not_see_the_warm_up() -> None:
    """Early stopping compares epochs: a rate that weighs little at first would make the first epoch the best."""
    history = run(make_vae(), ELBO(beta=2, warmup_steps=1000), max_epochs=3)
    for epoch in history:
        assert epoch["val_loss"] == pytest.approx(epoch["val_distortion_nats"] + 2 * epoch["val_rate_nats"], rel=1e-5)
        assert epoch["train_loss"] < epoch["train_distortion_nats"] + 0.1 * epoch["train_rate_nats"]


def test_kl_weight_rises_from_zero_to_beta() -> None:
    objective = ELBO(beta=4.0, warmup_steps=8)
    found = [float(objective.weight(step, objective.beta)) for step in range(12)]
    assert found == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4, 4, 4])
    assert [float(objective.weight(torch.tensor(step), objective.beta)) for step in range(12)] == pytest.approx(found)
    assert ELBO(beta=4.0).weight(0, 4.0) == 4.0
    vae, x = make_vae(), PREPROCESS(everything(digits().val))
    for step in (0, 5, 100):
        terms = objective(vae, x, step)
        expected = terms.distortion.mean() + objective.weight(step, objective.beta) * terms.rate.mean()
        torch.testing.assert_close(terms.loss, expected)


def test_free_bits_are_a_floor_under_each_dimension() -> None:
    vae, x = make_vae(), PREPROCESS(everything(digits().val))

    def paid(free_nats: float) -> tuple[Tensor, Terms]:
        torch.manual_seed(0)
        terms = ELBO(free_nats=free_nats)(vae, x, 0)
        return terms.loss - terms.distortion.mean(), terms

    per_dim = rate_per_dim_nats(vae.encode(x).posterior, vae.bottleneck.base_prior).mean(0)
    floor = per_dim.sort().values[1:3].mean().item()  # two of the four dimensions lie below
    found, terms = paid(floor)
    torch.testing.assert_close(found, per_dim.clamp_min(floor).sum(), rtol=1e-3, atol=1e-4)
    assert found > per_dim.sum()
    torch.testing.assert_close(terms.rate.mean(), per_dim.sum())  # the figure stays the true rate

    found, terms = paid(5.0)
    assert found.item() == pytest.approx(20, abs=1e-3)
    terms.loss.backward()
    gradient = vae.bottleneck.linear.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_the_weight_rises_anew_in_each_cycle_and_is_whole_where_epochs_are_compared() -> None:
    objective = ELBO(beta=2.0, warmup_steps=2, cycle_steps=5)
    found = [float(objective.weight(step, 2.0)) for step in range(10)]
    assert found == pytest.approx([1, 2, 2, 2, 2] * 2)
    assert [float(objective.weight(torch.tensor(step), 2.0)) for step in range(10)] == pytest.approx(found)
    assert objective.weight(SCHEDULES_DONE, 2.0) == 2.0
    with pytest.raises(ValueError, match=r"cycle_steps=2 must be more than warmup_steps=2"):
        ELBO(warmup_steps=2, cycle_steps=2)


def test_the_normalised_weight_is_that_of_means() -> None:
    """Mean over 64 pixels + beta_norm * mean over 4 dimensions, times 64, is what is minimised."""
    vae, x = make_vae(), PREPROCESS(everything(digits().val))
    objective = ELBO(beta_norm=0.5)
    terms = objective(vae, x, 0)
    assert terms.rate is not None
    means = terms.distortion.mean() / 64 + 0.5 * terms.rate.mean() / 4
    torch.testing.assert_close(terms.loss, 64 * means)
    assert "counts 8 times in nats" in str(objective.words(vae)) and "0.5 as beta_norm" in str(objective.words(vae))
    assert ELBO().words(vae) is None
    with pytest.raises(ValueError, match="two weights"):
        ELBO(beta=2.0, beta_norm=0.5)
