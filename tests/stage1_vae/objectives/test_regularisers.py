"""Discrepancies of aggregates, total correlation, smooth decoders: each against what is known in another way."""

import math
from pathlib import Path

import pytest
import torch
from command_line import report_of, run_here
from image_files import everything
from torch import Tensor
from training_run import PREPROCESS, digits, make_vae, run

from stage1_vae.mmd import mmd_squared
from stage1_vae.objectives.infovae import InfoVAE
from stage1_vae.objectives.rae import RAE, Regulariser, hidden_layers
from stage1_vae.objectives.tc import TC, total_correlation
from stage1_vae.objectives.wae import WAE
from stage1_vae.posteriors import DiagonalNormal

pytestmark = pytest.mark.filterwarnings("ignore:.*litlogger")


def normal(num: int, dims: int, seed: int) -> Tensor:
    return torch.randn(num, dims, generator=torch.Generator().manual_seed(seed))


def images() -> Tensor:
    return PREPROCESS(everything(digits().val))


def test_the_discrepancy_is_zero_in_the_mean_of_two_sets_alike_and_grows_with_distance() -> None:
    alike = torch.stack([mmd_squared(normal(50, 3, seed), normal(50, 3, 1000 + seed)) for seed in range(200)])
    assert abs(float(alike.mean())) < 3 * float(alike.std()) / math.sqrt(200), "unbiased"
    apart = [float(mmd_squared(normal(200, 3, 0) + shift, normal(200, 3, 1))) for shift in (0.5, 1.0, 3.0, 1e3)]
    assert apart == sorted(apart) and apart[-1] <= 2


def test_a_discrepancy_has_a_finite_gradient_where_latents_are_the_same() -> None:
    z = torch.zeros(4, 3, requires_grad=True)
    mmd_squared(z, normal(4, 3, 0)).backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_infovae_at_its_ends_is_the_elbo_and_the_wae() -> None:
    vae, x = make_vae(), images()
    torch.manual_seed(0)
    elbo = InfoVAE(alpha=0.0, weight=1.0)(vae, x, 0)
    assert elbo.rate is not None
    torch.testing.assert_close(elbo.loss, (elbo.distortion + elbo.rate).mean())
    torch.manual_seed(0)
    whole = InfoVAE(alpha=1.0, weight=50.0)(vae, x, 0)
    torch.manual_seed(0)
    torch.testing.assert_close(whole.loss, WAE(weight=50.0)(vae, x, 0).loss)
    with pytest.raises(ValueError, match="alpha must be at most 1"):
        InfoVAE(alpha=1.5)


def test_total_correlation_is_that_of_a_gaussian_whose_dimensions_depend() -> None:
    """-log sqrt(1 - r^2) nats, of posteriors that are narrow beside the whole; none of a cloud without dependence."""
    correlation, num = 0.9, 2000
    first, second = normal(num, 2, 0).unbind(1)
    loc = torch.stack([first, correlation * first + math.sqrt(1 - correlation**2) * second], 1)
    posterior = DiagonalNormal(loc, torch.full_like(loc, math.log(0.1)))
    found = total_correlation(posterior, posterior.rsample())
    assert float(found) == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.08)
    apart = DiagonalNormal(normal(num, 2, 1), torch.full((num, 2), math.log(0.1)))
    assert abs(float(total_correlation(apart, apart.rsample()))) < 0.08


def test_with_a_weight_of_one_tc_is_the_elbo() -> None:
    terms = TC(beta=1.0)(make_vae(), images(), 0)
    assert terms.rate is not None
    torch.testing.assert_close(terms.loss, (terms.distortion + terms.rate).mean())


def test_the_gradient_penalty_is_the_squared_norm_of_the_jacobian() -> None:
    vae, objective = make_vae(), RAE()
    z = normal(3, 4, 0).requires_grad_()
    exact = torch.stack([torch.autograd.functional.jacobian(lambda one: vae.decoder(one[None]), row) for row in z])
    draws = torch.stack([objective.gradient_norm(vae.decoder(z), z).detach() for _ in range(2000)])
    expected = exact.square().sum() / len(z)
    assert abs(float(draws.mean() - expected)) < 4 * float(draws.std()) / math.sqrt(len(draws))


@pytest.mark.parametrize("regulariser", ["gradient_penalty", "l2", "spectral_norm"])
def test_what_keeps_a_decoder_smooth_is_gone_when_it_is_trained(regulariser: Regulariser) -> None:
    vae = make_vae()
    names = set(vae.state_dict())
    history = run(vae, RAE(regulariser, decoder_penalty=1e-3), max_epochs=2)
    assert history[-1]["train_loss"] < history[0]["train_loss"] and set(vae.state_dict()) == names
    if regulariser == "spectral_norm":
        for layer in hidden_layers(vae.decoder):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("vae", ["wae", "infovae", "tc", "rae"])
def test_a_run_in_little(tmp_path: Path, vae: str) -> None:
    result = run_here(
        tmp_path, "debug=fast", f"vae={vae}", "prior=mixture", "prior.num_components=5", "net.hidden=[32]", "logger=csv"
    )
    assert result.code == 0, result.err
    assert "mixture" in report_of(tmp_path)["rows"]
