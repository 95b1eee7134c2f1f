"""The rate taken apart, against closed forms; the exact aggregate under hard conditions."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from latent_values import log_stds, means
from torch import Tensor
from torch.distributions import Normal

from expost.evaluation.errors import EvaluationError
from expost.evaluation.latents.surgery import AT_CEILING_NATS, decompose, mean_of, under_prior
from expost.evaluation.sections import Decomposition, Estimate
from expost.measure.latents import dissect as glue
from expost.measure.subject import Subject
from stage1_vae.base_priors import StandardNormal
from stage1_vae.latents import LatentDataset, LatentSpec
from stage1_vae.rate import rate_nats
from stage2_prior.prior import Exactness, Prior
from stage2_prior.priors.standard_normal import StandardNormal as StandardNormalPrior


def latents(loc: Tensor, std: float | Tensor) -> LatentDataset:
    log_std = torch.as_tensor(std).log().expand(loc.shape)
    params = {"loc": loc.numpy().astype(np.float32), "log_std": log_std.numpy().astype(np.float32)}
    return LatentDataset(LatentSpec(tuple(loc.shape[1:])), "diagonal_normal", params)


def normal(std: float) -> Callable[[Tensor], Tensor]:
    return lambda z: Normal(0.0, std).log_prob(z).flatten(1).sum(1)


def dissect(data: LatentDataset, priors: Any, rows: Tensor | None = None) -> tuple[Tensor, Decomposition]:
    posterior = data.posterior(torch.arange(len(data)) if rows is None else rows)
    z = posterior.sample()
    exact = z.double()
    return z, decompose(z, posterior.log_prob(exact), data.log_aggregate(exact), len(data), priors)


def near(estimate: Estimate | None, truth: float) -> None:
    assert estimate is not None and estimate.standard_error is not None
    assert abs(estimate.value - truth) < 4 * estimate.standard_error + 1e-6, (estimate, truth)


def loop(data: LatentDataset, z: Tensor) -> Tensor:
    """log 1/N sum_i q(z|x_i), float64, one z at a time."""
    family = Normal(means(data).double(), log_stds(data).double().exp())
    each = [family.log_prob(row).flatten(1).sum(1).logsumexp(0) for row in z.double()]
    return torch.stack(each) - math.log(len(data))


def test_two_halves_of_a_line_are_one_bit_at_most() -> None:
    """Two far posteriors: I = log 2 exactly, and the marginal is a mixture whose KL is known by quadrature."""
    torch.manual_seed(0)
    data = latents(torch.tensor([[-8.0], [8.0]]), 0.5)
    _, result = dissect(data, {"wide": normal(8.0)}, torch.arange(2).repeat(4000))
    assert result.mutual_information_nats.value == pytest.approx(math.log(2), abs=1e-6)
    assert result.at_ceiling and result.ceiling_nats == math.log(2) and result.num_components == 2
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    density = 0.5 * (Normal(-8.0, 0.5).log_prob(grid).exp() + Normal(8.0, 0.5).log_prob(grid).exp())
    gap = torch.where(density > 0, density.clamp_min(1e-300).log() - Normal(0.0, 8.0).log_prob(grid), 0.0)
    near(result.priors["wide"].marginal_kl_nats, torch.trapezoid(density * gap, dx=1e-3).item())


def test_a_gaussian_channel_has_its_closed_forms() -> None:
    """Means ~ N(0, a^2), noise s: I = log(1 + a^2 / s^2) / 2 a dimension, q(z) = N(0, a^2 + s^2)."""
    torch.manual_seed(1)
    a, s, dims = 1.5, 1.0, 2
    data = latents(a * torch.randn(20_000, dims), s)
    _, result = dissect(data, {"unit": normal(1.0), "true": normal(math.hypot(a, s))}, torch.arange(0, 20_000, 5))
    total = a * a + s * s
    kl_unit = dims * 0.5 * (total - 1 - math.log(total))
    near(result.mutual_information_nats, dims * 0.5 * math.log(1 + a * a / s / s))
    near(result.priors["unit"].marginal_kl_nats, kl_unit)
    assert not result.at_ceiling
    true = result.priors["true"]
    assert true.marginal_kl_nats is not None and abs(true.marginal_kl_nats.value) < 0.02  # twenty thousand images
    near(true.cross_entropy_nats, dims * 0.5 * (math.log(2 * math.pi * total) + 1))


def test_rate_is_information_plus_marginal_kl_from_independent_draws() -> None:
    torch.manual_seed(2)
    data = latents(1.5 * torch.randn(5000, 4) + 0.3, torch.rand(5000, 4) * 0.5 + 0.1)
    everything = data.posterior(slice(None))
    exact = rate_nats(everything, StandardNormal((4,)), everything.mean).double().mean().item()
    _, first = dissect(data, {})
    _, second = dissect(data, {"unit": normal(1.0)})
    information, kl = first.mutual_information_nats, second.priors["unit"].marginal_kl_nats
    assert kl is not None
    error = math.hypot(information.standard_error or 0, kl.standard_error or 0)
    assert abs(information.value + kl.value - exact) < 3 * error
    assert error < 0.2
    same = second.mutual_information_nats.value + kl.value
    assert second.priors["unit"].rate_nats is not None
    assert second.priors["unit"].rate_nats.value == pytest.approx(same, abs=1e-9)  # the same draws


def test_standard_errors_are_those_of_repeated_draws() -> None:
    torch.manual_seed(3)
    data = latents(torch.randn(300, 2), 0.7)
    rows = torch.arange(300)
    runs = [dissect(data, {"unit": normal(1.0)}, rows[torch.randint(300, (300,))])[1] for _ in range(200)]
    found = torch.tensor([run.mutual_information_nats.value for run in runs])
    claimed = np.mean([run.mutual_information_nats.standard_error for run in runs])
    assert found.std().item() == pytest.approx(claimed, rel=0.2)


def test_ceiling_is_reached_by_separate_posteriors_only() -> None:
    apart = 10.0 * torch.arange(100.0).unsqueeze(1)
    assert dissect(latents(apart, 0.1), {})[1].at_ceiling
    # overlaps that leave the estimate 0.2 nats below log N: not at the ceiling
    assert not dissect(latents(apart, 4.0), {})[1].at_ceiling
    assert AT_CEILING_NATS <= 0.05


def test_collapsed_posteriors_carry_nothing() -> None:
    torch.manual_seed(4)
    _, result = dissect(latents(torch.zeros(200, 3), 1.0), {"unit": normal(1.0)})
    assert abs(result.mutual_information_nats.value) < 1e-5
    marginal = result.priors["unit"].marginal_kl_nats
    assert marginal is not None and abs(marginal.value) < 1e-5


def test_what_cannot_be_is_refused_or_told() -> None:
    z = torch.zeros(4, 2)
    one = torch.zeros(4)
    with pytest.raises(EvaluationError, match="does not contain"):
        decompose(z, one + 5, one, 10, {})
    with pytest.raises(EvaluationError, match="diverged"):
        decompose(z, one * torch.nan, one, 10, {})
    with pytest.raises(EvaluationError, match="empty"):
        decompose(z[:0], one[:0], one[:0], 10, {})
    broken = under_prior(z, one, one, lambda z: torch.tensor([0.0, -math.inf, math.nan, 0.0]))
    assert broken.marginal_kl_nats is None and "2 of 4" in (broken.note or "")
    assert broken.to_json()["rate_nats"] is None
    assert mean_of(torch.ones(1)).standard_error is None


@pytest.mark.parametrize(("dims", "offset", "std"), [(16, 0.0, 0.3), (64, 0.0, 1e-3), (64, 100.0, 1e-3), (3, 0.0, 3.0)])
def test_log_aggregate_equals_a_float64_loop(dims: int, offset: float, std: float) -> None:
    """Narrow posteriors far from zero are where the expanded square cancels; 1e-3 nat is asked for."""
    torch.manual_seed(5)
    data = latents(offset + 3 * torch.randn(3000, dims), std * (0.5 + torch.rand(3000, dims)))
    z = torch.cat([data.draw(torch.arange(0, 3000, 100)), offset + 3 * torch.randn(10, dims)]).double()
    expected = loop(data, z)
    relative = (data.log_aggregate(z) - expected).abs() / expected.abs().clamp_min(1e3)
    assert relative.max() < 1e-6  # 1e-3 nat up to a thousand nats; beyond, z is nowhere near any image
    assert (data.log_aggregate(z)[:30] - expected[:30]).abs().max() < 1e-3


def test_log_aggregate_over_many_tiles_forgets_none() -> None:
    torch.manual_seed(6)
    data = latents(torch.randn(5000, 2), 0.2)
    z = torch.randn(700, 2, dtype=torch.float64)
    expected = loop(data, z)
    for chunk in (64, 256, 1000):
        torch.testing.assert_close(data.log_aggregate(z, chunk), expected, rtol=0, atol=1e-5)


def test_log_aggregate_is_fast_and_small() -> None:
    """A sixth of 10,000 x 60,000 in two seconds on one thread, where the benchmark asks for all of it in six on two."""
    torch.manual_seed(7)
    data = latents(torch.randn(60_000, 16), 0.2)
    z = data.draw(torch.arange(0, 60_000, 36))
    started = time.perf_counter()
    data.log_aggregate(z)
    assert time.perf_counter() - started < 4


class WithoutDensity(StandardNormalPrior):
    log_prob_is = Exactness.NONE


def glued(train: LatentDataset, test: LatentDataset, prior: Prior, name: str) -> dict[str, Any]:
    """`expost.measure.latents` on latents alone; what it returns must be strict JSON."""
    nothing: Any = None
    cpu = torch.device("cpu")
    trained = Subject(nothing, prior, StandardNormalPrior(train.spec), train, test, cpu)
    config = SimpleNamespace(evaluation=SimpleNamespace(num_samples=600), seeds=SimpleNamespace(sample=3))
    run: Any = SimpleNamespace(config=config, shows_progress=False, seeded=lambda seed: nullcontext())
    result = glue(trained, run, name).to_json()
    json.dumps(result, allow_nan=False)
    return result


def test_glue_measures_both_splits_under_both_priors() -> None:
    torch.manual_seed(0)
    stds = torch.tensor([0.3, 0.3, 1.0])
    locs = torch.tensor([1.0, 1.0, 0.0])
    train, test = (latents(locs * torch.randn(num, 3), stds) for num in (2000, 500))
    report = glued(train, test, StandardNormalPrior(train.spec), "twin")
    assert report["train"]["num_components"] == 2000 and report["train"]["num_draws"] == 600
    assert report["test"]["num_components"] == report["test"]["num_draws"] == 500
    for split in ("train", "test"):
        both = report[split]["priors"]
        assert both["twin"] == both["standard_normal"]
        total = report[split]["mutual_information_nats"]["value"] + both["twin"]["marginal_kl_nats"]["value"]
        assert both["twin"]["rate_nats"]["value"] == pytest.approx(total)
    aggregate = report["test"]["priors"]["training_aggregate"]
    near = report["test"]["priors"]["twin"]["rate_nats"]["value"]
    assert aggregate["rate_nats"]["value"] == pytest.approx(near, abs=0.5)
    assert "training_aggregate" not in report["train"]["priors"]
    used = report["dimensions"]
    assert used["active"] == [True, True, False] and used["collapsed"] == [False, False, True]
    assert (used["num_dims"], used["num_active"], used["num_collapsed"]) == (3, 2, 1)
    assert used["wasserstein_1"]["twin"]["mean"] < 0.2 and len(used["wasserstein_1"]["twin"]["per_dim"]) == 3
    two = report["two_sample"]["twin"]
    assert two["num_held_out"] == 332 and abs(two["accuracy_percent"] - 50) < 10
    assert two["known_num_images"] == 500 and two["mmd_num_samples"] == 500
    assert report["log_prob_is"]["twin"] == "exact" and report["notes"] == []


def test_glue_says_what_has_no_figure() -> None:
    torch.manual_seed(0)
    spec = LatentSpec((2,))
    train, test = (
        LatentDataset(spec, "delta", {"loc": np.random.default_rng(0).standard_normal((num, 2), np.float32)})
        for num in (300, 200)
    )
    report = glued(train, test, StandardNormalPrior(spec), "standard_normal")
    assert report["train"] is None and report["test"] is None
    assert any("point masses" in note for note in report["notes"])
    assert report["dimensions"]["num_collapsed"] is None and report["dimensions"]["num_active"] == 2
    two = report["two_sample"]["standard_normal"]
    assert two["known_accuracy_percent"] is None and 30 < two["accuracy_percent"] < 70
    train, test = (latents(torch.randn(num, 2), 0.5) for num in (300, 30))
    report = glued(train, test, WithoutDensity(spec), "silent")
    assert report["train"]["priors"]["silent"] is None and report["train"]["priors"]["standard_normal"] is not None
    assert report["two_sample"] == {"standard_normal": None, "silent": None}
    assert any("no density" in note for note in report["notes"]) and any("too few" in note for note in report["notes"])
