"""The weights on the rate: warm-up, beta, free bits."""

import pytest
import torch
from image_files import everything
from torch import Tensor
from training_run import PREPROCESS, digits, make_vae, run

from stage1_vae.objective import Terms
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
    found = [float(objective.weight(step)) for step in range(12)]
    assert found == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4, 4, 4])
    assert [float(objective.weight(torch.tensor(step))) for step in range(12)] == pytest.approx(found)
    assert ELBO(beta=4.0).weight(0) == 4.0
    vae, x = make_vae(), PREPROCESS(everything(digits().val))
    for step in (0, 5, 100):
        terms = objective(vae, x, step)
        expected = terms.distortion.mean() + objective.weight(step) * terms.rate.mean()
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
