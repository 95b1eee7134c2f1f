"""A ladder of priors within a budget: what is taken, what it is compared with, and what became of the others."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from latent_values import means
from prior_cases import ring_run, run_for
from scipy.linalg import sqrtm
from torch import Tensor

from expost.base.errors import UserError
from expost.parts.priors import make_prior
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.combined.auto import Auto, Metric, Rung, frechet_distance
from stage2_prior.combined.slices import SlicedFit
from stage2_prior.fitting import FitReport, FitRun, PriorError
from stage2_prior.flows.flow import Flow
from stage2_prior.prior import Prior
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.priors.standard_normal import StandardNormal
from stage2_prior.priors.unigram import Unigram

SPEC, CPU = LatentSpec((2,)), torch.device("cpu")
SETTINGS = {"batch_size": 64, "learning_rate": 5e-3, "average": 0.9, "precision": "32-true"}


def ring(num: int, seed: int) -> LatentDataset:
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * math.pi, num), rng.normal(2, 0.3, num)
    loc = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return LatentDataset(SPEC, "delta", {"loc": loc.astype(np.float32)})


def normal(num: int, seed: int) -> LatentDataset:
    loc = np.random.default_rng(seed).normal(size=(num, 2)).astype(np.float32)
    return LatentDataset(SPEC, "delta", {"loc": loc})


def network(prior: Prior, **settings: object) -> Prior:
    prior.fit_settings = {**SETTINGS, **settings}
    return prior


def made(
    *ladder: Prior, seconds: float = 60.0, data: LatentDataset | None = None, metric: Metric = "latent_nll_nats"
) -> tuple[Auto, FitReport]:
    auto = Auto(SPEC, ladder, seconds, metric)
    lent = replace(run_for(auto), lightning_fit=ring_run().lightning_fit)
    train = ring(1200, 0) if data is None else data
    return auto, auto.fit(train, ring(800, 1) if data is None else normal(800, 1), lent)


def test_a_rung_that_gives_a_latent_no_probability_is_behind_any_other() -> None:
    whole, holed = (Rung(place, Gaussian(SPEC)) for place in range(2))
    whole.nats, holed.nats = torch.full((50,), 3.0).double(), torch.full((50,), 1.0).double()
    assert holed.pays(whole, "latent_nll_nats")
    holed.nats[7] = math.inf
    assert whole.pays(holed, "latent_nll_nats") and not holed.pays(whole, "latent_nll_nats")
    whole.nats[7] = math.inf
    assert holed.pays(whole, "latent_nll_nats") and not whole.pays(holed, "latent_nll_nats")


def test_of_a_gaussian_the_gaussian_is_enough_and_later_rungs_are_not_fitted() -> None:
    auto, report = made(Gaussian(SPEC), *(Mixture(SPEC, num_components=k) for k in (4, 8, 16)), data=normal(2000, 0))
    assert [row["words"] for row in report.ladder] == [
        "fitted; taken",
        "fitted",
        "fitted",
        "skipped: the 2 rungs before it did not pay",
    ]
    assert auto.log_weights.tolist() == [0.0, -math.inf, -math.inf, -math.inf]
    z = means(normal(100, 3))
    assert torch.equal(auto.log_prob(z), auto.parts[0].log_prob(z))
    assert (
        report.notes[0].startswith("Gaussian is enough: Mixture")
        and auto.caveats[0].removesuffix(".") in report.notes[0]
    )
    assert auto.num_parameters == auto.parts[0].num_parameters and auto.passes == 1
    loaded = Auto(SPEC, [Gaussian(SPEC), *(Mixture(SPEC, num_components=k) for k in (4, 8, 16))], 60.0)
    loaded.load_state_dict(auto.state_dict())
    assert loaded.answer() == auto.answer() and loaded.knobs == auto.parts[0].knobs


def test_of_a_ring_a_mixture_pays_and_the_figures_are_those_of_the_same_draws() -> None:
    auto, report = made(Gaussian(SPEC), Mixture(SPEC, num_components=12))
    assert report.notes[0].startswith("Mixture pays: it buys 0.")
    assert "over Gaussian for" in report.notes[0]
    gaussian, mixture = report.ladder
    assert gaussian["behind"] == pytest.approx(gaussian["val_nll_nats"] - mixture["val_nll_nats"])
    assert mixture["behind"] == 0 and 0 < gaussian["error"] < 0.1 < gaussian["behind"]
    z = means(ring(800, 1))
    difference = (auto.parts[1].log_prob(z) - auto.parts[0].log_prob(z)).double()
    assert gaussian["behind"] == pytest.approx(difference.mean().item(), abs=1e-6)
    assert gaussian["error"] == pytest.approx(difference.std().item() / math.sqrt(800), abs=1e-6)
    assert sum(row["seconds"] for row in report.ladder) <= report.seconds


def test_networks_race_the_worse_are_dropped_and_the_last_ends_with_the_budget() -> None:
    flows = [network(Flow(SPEC, num_layers=n, hidden=(8,)), max_epochs=10_000, patience=10_000) for n in (2, 4)]
    started = time.perf_counter()
    _, report = made(StandardNormal(SPEC), *flows, seconds=8.0)  # which a few steps beat, however slow the machine
    assert time.perf_counter() - started < 14
    words = [row["words"] for row in report.ladder]
    assert sum("dropped after" in one and "behind Flow" in one for one in words) == 1
    assert sum("cut off by the budget" in one for one in words) == 1
    assert any("taken" in one for one in words[1:]) and report.seconds > 8
    assert report.val_nll_nats is not None and report.val_nll_nats < report.ladder[0]["val_nll_nats"]


def test_what_is_sliced_ends_with_the_weights_of_a_fit_in_one_piece() -> None:
    train, val = ring(600, 0), ring(300, 1)
    logged: list[int] = []

    def lent() -> FitRun:
        return replace(
            ring_run(), settings={**SETTINGS, "max_epochs": 4}, log=lambda figures, step: logged.append(step)
        )

    torch.manual_seed(0)
    whole = Autoregressive(SPEC, hidden=(16, 16))
    torch.manual_seed(0)
    parts = Autoregressive(SPEC, hidden=(16, 16))
    state = torch.get_rng_state()
    whole.fit(train, val, lent())
    fit = SlicedFit(lambda run: parts.fit(train, val, run), lent())
    slices = 0
    while not fit.advance(0.0):
        slices += 1
        with fit.averaged():
            parts.log_prob(means(val))
        torch.rand(100)  # whoever waits may draw
    fit.drop()
    assert slices == 4 and fit.num_epochs == 4 and logged == [0, 1, 2, 3] * 2
    assert isinstance(fit.report, FitReport)
    for (name, value), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    torch.set_rng_state(state)


def test_what_a_sliced_fit_raises_is_raised_here_and_a_dropped_one_is_silent() -> None:
    def fails(run: FitRun) -> FitReport:
        run.log({"val_nll_nats": 0.0}, 0)
        raise PriorError("as it is")

    fit = SlicedFit(fails, ring_run())
    assert not fit.advance(0.0)
    with pytest.raises(PriorError, match="as it is"):
        fit.advance(math.inf)
    other = SlicedFit(fails, ring_run())
    other.advance(0.0)
    other.drop()
    SlicedFit(fails, ring_run()).drop()
    assert other.report is None


def test_a_budget_for_nothing_and_rungs_that_cannot_be_fitted() -> None:
    with pytest.raises(PriorError, match=r"prior\.seconds=1e-06: not even Gaussian, the first rung"):
        made(Gaussian(SPEC), Mixture(SPEC, num_components=2), seconds=1e-6)
    with pytest.raises(PriorError, match=r"prior\.seconds=0\.001: not even Flow"):
        made(network(Flow(SPEC, num_layers=2, hidden=(8,)), max_epochs=3), seconds=1e-3)
    auto, report = made(Gaussian(SPEC), Mixture(SPEC, num_components=5000))
    assert report.ladder[1]["words"] == "skipped: it needs 5,000 latents" and len(auto.weighed) == 1
    assert report.notes[0] == "Gaussian is taken: no other rung was fitted within 60 s"
    with pytest.raises(PriorError, match=r"prior\.seconds=-1"):
        Auto(SPEC, [Gaussian(SPEC)], seconds=-1.0)
    with pytest.raises(PriorError, match="none can be fitted to these latents"):
        made(Mixture(SPEC, num_components=5000))


class Slow(Gaussian):
    """Takes its time."""

    def fit(self, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
        for step in range(1000):
            time.sleep(0.01)
            run.log({"val_nll_nats": 0.0}, step)
        return super().fit(train, val, run)


def test_a_rung_that_takes_too_long_is_cut_off_and_never_taken() -> None:
    auto, report = made(Gaussian(SPEC), Slow(SPEC), Gaussian(SPEC), seconds=0.5)
    assert [row["words"] for row in report.ladder] == [
        "fitted; taken",
        "cut off at the end of its seconds",
        "skipped: no seconds were left",
    ]
    assert auto.weighed[0][0] == 0 and "val_nll_nats" not in report.ladder[1]


def test_by_distance_of_the_latents_themselves() -> None:
    auto, report = made(Gaussian(SPEC), Mixture(SPEC, num_components=2), metric="frechet_distance")
    assert {"frechet_distance", "val_nll_nats", "behind", "error"} <= report.ladder[0].keys()
    assert "of the Frechet distance" in report.notes[0]
    assert auto.log_weights[0] == 0  # a Gaussian has the moments of the ring
    codes = LatentSpec((4,), Support.CODES, ((2, 2),), (8,))
    data = LatentDataset(codes, "codes", {"codes": np.zeros((50, 4), np.uint8)})
    of_codes = Auto(codes, [Unigram(codes)], metric="frechet_distance")
    with pytest.raises(PriorError, match="these latents are codes without a decoder"):
        of_codes.fit(data, data, run_for(of_codes))
    sizes: list[int] = []

    def features(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return torch.stack([z.float().sum(1), z.float().square().sum(1)], 1)

    report = of_codes.fit(data, data, replace(run_for(of_codes), features=features))
    assert sizes == [1, *[50] * 6] and report.ladder[0]["frechet_distance"] < 1


def test_the_distance_is_that_of_two_normals() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5000, 3) @ torch.randn(3, 3), torch.randn(4000, 3) @ torch.randn(3, 3) + 1
    (mean_a, cov_a), (mean_b, cov_b) = ((z.double().mean(0).numpy(), torch.cov(z.double().T).numpy()) for z in (a, b))
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_members_that_cannot_model_the_latents_are_left_out() -> None:
    node = {"_target_": f"{Auto.__module__}.Auto", "members": ["unigram", "gaussian", "bigram", "glow"]}
    prior = make_prior(node, SPEC, 100, 0, CPU)
    assert isinstance(prior, Auto) and prior.titles == ["gaussian"]
    with pytest.raises(UserError, match=r"unigram .* these latents are real"):
        make_prior(node | {"members": ["unigram", "bigram"]}, SPEC, 100, 0, CPU)


def test_figures_are_logged_by_rung() -> None:
    logged: list[Mapping[str, float]] = []
    auto = Auto(SPEC, [Gaussian(SPEC), network(Flow(SPEC, num_layers=2, hidden=(8,)), max_epochs=2)])
    lent = replace(ring_run(), settings={}, log=lambda figures, step: logged.append(figures))
    auto.fit(ring(600, 0), ring(300, 1), lent)
    assert {name for figures in logged for name in figures} == {"train_nll_nats_of_1", "val_nll_nats_of_1"}


def test_a_rung_to_which_a_latent_is_lost_is_bettered_by_one_to_which_it_is_not() -> None:
    """The standard error of such a gain is as large as the gain."""
    prior = Gaussian(LatentSpec((2,)))
    nats = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    safe, lost, noisy = (nats.clone() for _ in range(3))
    lost[7], noisy[7] = 1e5, nats[7] + 100.0
    rungs = [Rung(place, prior, nats=costs) for place, costs in enumerate((safe, lost, noisy))]
    assert rungs[0].pays(rungs[1], "latent_nll_nats") and not rungs[1].pays(rungs[0], "latent_nll_nats")
    assert not rungs[0].pays(rungs[2], "latent_nll_nats"), "a fifth of a nat, by one latent"
