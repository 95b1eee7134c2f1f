"""Kernels around training latents: the exact aggregate, the bandwidth of held-out likelihood, gradients, room."""

import math

import numpy as np
import pytest
import torch
from latent_values import log_stds, means
from without_lightning import RUN

from stage1_vae.latents import LatentDataset, LatentSpec, log_mean_normal
from stage2_prior.fitting import PriorError
from stage2_prior.moments import moments
from stage2_prior.priors import kde
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.kde import LEAST, Kernels
from stage2_prior.sampling import Sampling


def rings(num: int, seed: int, spread: float | None = 0.05, dims: int = 2) -> LatentDataset:
    """Points near a circle in the first two of `dims` dimensions, with widths of `spread`, or without."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * math.pi, num)
    loc = rng.normal(0, 0.1, (num, dims))
    loc[:, :2] += np.stack([np.cos(angle), 3 * np.sin(angle)], 1)
    params = {"loc": loc.astype(np.float32)}
    if spread is not None:
        params["log_std"] = np.full_like(params["loc"], math.log(spread))
    return LatentDataset(LatentSpec((dims,)), "delta" if spread is None else "diagonal_normal", params)


def fit(train: LatentDataset, val: LatentDataset, bandwidth: float | str = "held_out", **room: int) -> Kernels:
    prior = Kernels(train.spec, **{"num_points": len(train), **room}, bandwidth=bandwidth)  # type: ignore[arg-type]
    prior.fit(train, val, RUN)
    return prior


def by_hand(train: LatentDataset, z: torch.Tensor, bandwidth: float) -> torch.Tensor:
    loc = means(train).double()
    within = torch.exp(2 * log_stds(train).double()) if "log_std" in train.params else torch.zeros_like(loc)
    pooled = loc.var(0, unbiased=False) + within.mean(0)
    shrunk = loc.mean(0) + math.sqrt(1 - bandwidth**2) * (loc - loc.mean(0))
    variance = (1 - bandwidth**2) * within + bandwidth**2 * pooled
    each = torch.distributions.Normal(shrunk, variance.sqrt())
    return torch.logsumexp(each.log_prob(z[:, None].double()).sum(-1), 1) - math.log(len(train))


def test_without_bandwidth_it_is_the_aggregate() -> None:
    train, val = rings(700, 1), rings(300, 2)
    prior = fit(train, val, 0)
    z = val.draw(torch.arange(300))
    assert torch.equal(prior.log_prob(z), train.log_aggregate(z))
    assert prior.memorises and prior.caveats == []


@pytest.mark.parametrize("spread", [0.05, None])
def test_densities_and_their_gradients_are_those_of_autograd(spread: float | None) -> None:
    train = rings(400, 1, spread)
    prior = fit(train, rings(200, 2, spread), 0.3)
    z = (1.5 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).requires_grad_()
    direct = by_hand(train, z, 0.3)
    ours = prior.log_prob(z)
    torch.testing.assert_close(ours, direct, rtol=0, atol=1e-6)
    slopes = [torch.autograd.grad(value.sum(), z)[0] for value in (ours, direct)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


def test_parts_of_the_normals_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = fit(rings(700, 1), rings(200, 2), 0.3)
    z = rings(50, 3).draw(torch.arange(50)).double()
    whole = prior.log_prob(z)
    monkeypatch.setattr(kde, "NUMBERS_AT_ONCE", 2 * 300)
    torch.testing.assert_close(prior.log_prob(z), whole, rtol=0, atol=1e-6)  # shares of tiles are float32


def test_tiles_change_nothing() -> None:
    z = torch.randn(9, 2, dtype=torch.float64).requires_grad_()
    loc, log_std = torch.randn(2000, 2), torch.randn(2000, 2) - 2
    whole, tiles = log_mean_normal(z, loc, log_std, chunk=9), log_mean_normal(z, loc, log_std, chunk=2)
    torch.testing.assert_close(tiles, whole)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), z)[0] for value in (tiles, whole)))


@pytest.mark.parametrize("spread", [0.05, None])
def test_no_bandwidth_nearby_is_better_on_held_out_latents(spread: float | None) -> None:
    train, val = rings(400, 1, spread), rings(1000, 2, spread)
    prior = fit(train, val)
    torch.manual_seed(RUN.seed)
    z = val.draw(torch.arange(1000))
    costs = {}
    for factor in (0.5, 0.9, 1.0, 1.1, 2.0):
        other = fit(train, val, prior.bandwidth.item() * factor)
        costs[factor] = -other.log_prob(z).double().mean().item()
    assert min(costs, key=costs.__getitem__) == 1.0


def test_the_mean_and_the_variances_of_the_aggregate_stay() -> None:
    train = rings(4000, 1)
    prior = fit(train, rings(100, 2), 0.6)
    torch.manual_seed(0)
    drawn, pooled = prior.sample(40_000), moments(train)
    torch.testing.assert_close(drawn.mean(0).double(), pooled.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(0).double(), pooled.total, rtol=0.03, atol=0)


def test_the_widest_kernel_is_one_gaussian() -> None:
    train = rings(300, 1)
    pooled = moments(train)
    z = rings(50, 2).draw(torch.arange(50))
    normal = torch.distributions.Normal(pooled.mean, pooled.total.sqrt())
    torch.testing.assert_close(fit(train, train, 1).log_prob(z).double(), normal.log_prob(z.double()).sum(1))


def test_of_normal_latents_nothing_is_lost_to_a_gaussian() -> None:
    """Kernels that widen the whole would lose 0.2 nats here."""
    rng, spec = np.random.default_rng(0), LatentSpec((8,))
    train, val = (LatentDataset(spec, "delta", {"loc": rng.normal(size=(num, 8)).astype("f4")}) for num in (1000, 4000))
    gaussian = Gaussian(spec)
    gaussian.fit(train, val, RUN)
    z = val.draw(torch.arange(len(val)))
    assert fit(train, val).log_prob(z).mean() > gaussian.log_prob(z).mean() - 0.02


def test_the_rule_of_thumb_is_wider_than_what_is_best_of_a_ring() -> None:
    """Silverman's rule takes the whole for one normal; held-out likelihood sees that the ring is thin."""
    prior = fit(rings(2000, 1, None), rings(1000, 2, None))
    assert 0.01 < prior.bandwidth.item() < 0.5 * 2000 ** (-1 / 6)


def test_latents_that_repeat_need_no_bandwidth_and_the_report_says_so() -> None:
    train = rings(300, 1, None)
    prior = Kernels(train.spec, 300)
    report = prior.fit(train, train, RUN)
    assert prior.bandwidth.item() == pytest.approx(LEAST, rel=1e-3)
    assert any("among the training latents" in note for note in report.notes)


def test_a_random_subset_stands_for_more_than_there_is_room_for() -> None:
    train = rings(500, 1)
    prior = fit(train, rings(100, 2), 0.1, max_points=50)
    kept = {tuple(row) for row in prior.loc.tolist()}
    assert len(kept) == 50 and kept < {tuple(row) for row in means(train).tolist()}
    assert prior.caveats == ["it stands on 50 of 500 training latents, drawn at random."]
    assert prior.num_parameters == 2 * 50 * 2


def test_fewer_latents_than_room_leave_the_rest_out() -> None:
    train, val = rings(80, 1), rings(100, 2)
    roomy, exact = fit(train, val, 0.1, num_points=200), fit(train, val, 0.1)
    z = val.draw(torch.arange(100))
    assert torch.equal(roomy.log_prob(z), exact.log_prob(z))
    drawn, loc = roomy.sample(500, how=Sampling(temperature=0)), means(train)
    shrunk = loc.mean(0) + math.sqrt(0.99) * (loc - loc.mean(0))
    assert torch.cdist(drawn.double(), shrunk.double()).amin(1).max() < 1e-5


def test_temperature_scales_the_widths() -> None:
    train = rings(1, 1, 0.2)
    prior = fit(train, rings(10, 2), 0)
    torch.manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        z = prior.sample(20_000, how=Sampling(temperature=temperature))
        torch.testing.assert_close(z.std(0), torch.full((2,), 0.2 * temperature), rtol=0.03, atol=0)


def test_maps_are_flattened() -> None:
    flat = rings(60, 1, dims=8)
    spec = LatentSpec((2, 2, 2))
    maps = LatentDataset(
        spec, "diagonal_normal", {n: np.asarray(v).reshape(-1, 2, 2, 2) for n, v in flat.params.items()}
    )
    z = maps.draw(torch.arange(60))
    assert torch.equal(fit(maps, maps, 0.2).log_prob(z), fit(flat, flat, 0.2).log_prob(z.flatten(1)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"bandwidth": -0.1}, "prior.bandwidth=-0.1: give held_out"),
        ({"bandwidth": 1.5}, "prior.bandwidth=1.5: give held_out, or a number from 0 to 1"),
        ({"bandwidth": "silverman"}, "prior.bandwidth=silverman: give held_out"),
        ({"max_points": 0}, "prior.max_points=0: give at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float | str], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        Kernels(LatentSpec((2,)), **{"num_points": 10, **wrong})  # type: ignore[arg-type]


def test_point_masses_without_bandwidth_are_refused() -> None:
    points = rings(20, 1, None)
    with pytest.raises(PriorError, match="points without a width"):
        fit(points, points, 0)
