"""The judge on probabilistic PCA: from a wrong posterior back to log p(x), and the aggregate recovered."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run_here
from rich.console import Console
from torch.distributions import Independent, Normal, kl_divergence

from expost.config.schema import Oracle
from expost.evaluation.annealing.path import Annealed
from expost.evaluation.oracle import Compared, terminal_table
from expost.oracle import Estimates, estimate, exact_latents, kl_of_wrong_nats, rows, spoil
from stage1_vae.data.linear_gaussian import LinearGaussian

SETTINGS = Oracle(
    num_images=100,
    importance_samples=5000,
    num_chains=16,
    num_steps=100,
    leapfrog_steps=5,
    std_factor=1.5,
    shift_stds=0.5,
)
SOURCE = LinearGaussian(num_train=500, num_val=50, num_test=100)
RUN = ("experiment=oracle", "oracle.num_images=20", "oracle.num_steps=30", "data.num_train=5000", "logger=csv")


@pytest.fixture(scope="module")
def estimates() -> Estimates:
    torch.manual_seed(0)
    return estimate(SOURCE.density(), SOURCE.load().test.batch(torch.arange(100)), SETTINGS)


def test_the_elbo_at_the_exact_posterior_is_log_p_of_x(estimates: Estimates) -> None:
    torch.testing.assert_close(estimates.elbo_exact, estimates.truth, rtol=0, atol=1e-9)


def test_the_wrong_posterior_costs_its_divergence_and_at_least_a_nat(estimates: Estimates) -> None:
    gap = kl_of_wrong_nats(8, SETTINGS)
    exact = SOURCE.density().posterior(SOURCE.load().test.batch(torch.arange(3)))
    spoiled = spoil(exact, SETTINGS)
    as_normal = [Independent(Normal(q.loc, q.log_std.exp()), 1) for q in (spoiled, exact)]
    torch.testing.assert_close(kl_divergence(*as_normal), torch.full((3,), gap, dtype=torch.float64))
    assert gap >= 1
    torch.testing.assert_close(estimates.elbo, estimates.elbo_expected, rtol=0, atol=0.3)
    assert abs((estimates.elbo - estimates.elbo_expected).mean()) < 0.02


def test_importance_sampling_and_annealing_climb_back(estimates: Estimates) -> None:
    table = rows(estimates, SETTINGS)
    assert abs(table["iwae_nats"].error_nats) <= 0.05
    assert abs(table["ais_nats"].error_nats) <= 0.1
    for row in (table["iwae_nats"], table["ais_nats"]):
        assert row.standard_error_nats is not None and row.error_nats < 3 * row.standard_error_nats
    assert estimates.annealed.acceptance is not None and 0.4 < estimates.annealed.acceptance.mean() < 0.9


def test_exact_posteriors_pass_the_door_and_aggregate_to_the_prior() -> None:
    source = LinearGaussian(latent_dim=2, num_train=5000, num_val=2, num_test=2)
    latents = exact_latents(source.density(), source.load().train)
    assert len(latents) == 5000 and latents.spec.shape == (2,) and not latents.is_point_mass
    z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    error = latents.log_aggregate(z).double() - source.density().log_prior(z)
    assert abs(error.mean()) < 0.05 and error.abs().median() < 0.1


def test_errors_are_paired() -> None:
    truth = torch.tensor([-10.0, -20.0, -60.0], dtype=torch.float64)
    row = Compared.of("x", truth, truth + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert row.true_nats == -30 and row.error_nats == pytest.approx(0.2) and row.num == 3
    assert row.standard_error_nats == pytest.approx(0.1 / math.sqrt(3)), "nothing of the spread of the truth"
    assert Compared.of("x", truth[:1], truth[:1]).standard_error_nats is None
    with pytest.raises(ValueError, match="compared"):
        Compared.of("x", truth, truth[:2])


def test_chains_that_are_not_trusted_give_no_figure(estimates: Estimates) -> None:
    stuck = replace(estimates.annealed, acceptance=torch.zeros(100, dtype=torch.float64))
    row = rows(replace(estimates, annealed=stuck), SETTINGS)["ais_nats"]
    assert isinstance(stuck, Annealed) and not row.is_finite
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table("t", [row], "c"))
    assert "diverged" in console.export_text() and "nan" not in console.export_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """What `experiment=oracle` printed, and what it wrote."""
    folder = tmp_path_factory.mktemp("oracle")
    result = run_here(folder, *RUN)
    assert result.code == 0, result.err
    return result, json.loads((folder / "runs/latest/oracle.json").read_text(encoding="utf-8"))


def test_the_experiment_writes_what_it_prints(run: tuple[Any, dict[str, Any]]) -> None:
    result, stored = run
    assert "higher is better" in stored["what"] and stored["num_images"] == 20
    for key in ("elbo_exact_nats", "elbo_nats", "iwae_nats", "ais_nats"):
        assert stored["error_nats"][key] == pytest.approx(stored[key] - stored["true_nats"], abs=1e-9)
        assert f"{stored[key]:.4f}" in result.out
    source = LinearGaussian(num_train=5000)
    x = source.load().test.batch(torch.arange(20))
    assert stored["true_nats"] == pytest.approx(source.density().log_prob(x).mean().item(), abs=1e-9)
    assert stored["elbo_nats"] < stored["true_nats"] - 1
    assert abs(stored["error_nats"]["iwae_nats"]) < 0.05 and abs(stored["error_nats"]["ais_nats"]) < 0.2
    assert stored["seeds"] == {"vae": 0, "prior": 0, "sample": 0} and stored["importance_samples"] == 5000
    assert 0 < stored["annealing"]["acceptance"] < 1 and stored["notes"] == []


def test_the_fitted_prior_recovers_the_known_aggregate(run: tuple[Any, dict[str, Any]]) -> None:
    prior = run[1]["prior"]
    assert prior["name"] == "gaussian" and prior["num_held_out"] == 2000 and prior["num_fitted"] == 5000
    assert prior["aggregate_entropy_nats"] == pytest.approx(4 * math.log(2 * math.pi * math.e))
    assert abs(prior["aggregate_nll_nats"] - prior["aggregate_entropy_nats"]) < 4 * 2 / math.sqrt(2000)
    assert prior["excess_nats"] == pytest.approx(prior["fitted_nll_nats"] - prior["aggregate_nll_nats"], abs=1e-9)
    assert -0.01 < prior["excess_nats"] < 0.02, "44 parameters from 5000 images: 0.0044 expected"


def test_refusals_are_one_line(tmp_path: Path) -> None:
    for words, remedy in (
        (("stage=oracle",), "experiment=oracle"),
        (("stage=oracle", "data=mixture_rings"), "experiment=oracle"),
        (("experiment=oracle", "oracle.num_images=3000"), "data.num_test"),
        (("experiment=oracle", "oracle.num_images=1"), "oracle.num_images"),
        (("experiment=oracle", "data.sigma=0"), "data.sigma"),
        (
            ("experiment=oracle", "prior=mixture", "data.num_train=10", "prior.num_components=60"),
            "prior.num_components",
        ),
    ):
        result = run_here(tmp_path, *words)
        assert result.code == 2 and len(result.lines) == 1 and remedy in result.err, (words, result.err)
    assert not (tmp_path / "runs/latest").exists()
