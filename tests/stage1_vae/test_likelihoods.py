"""Likelihoods against independent computations: masses, integrals, torch's own densities."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent, Normal

from stage1_vae.likelihoods import (
    BernoulliImage,
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogistic,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    figure_kind,
)

LOCS = (-0.5, 0.0, 0.003, 0.4999, 0.5, 0.87, 1.0, 2.0)
LOG_SCALES = (-7.0, -3.0, -1.0, 0.0, 3.0, 8.0)


def pixel(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), float(value))


def masses(loc: float, log_scale: float, levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """log P of every level, [levels]."""
    values = torch.arange(levels).to(dtype).div(levels - 1).view(-1, 1, 1, 1, 1)
    return DiscretizedLogistic(pixel(loc).to(dtype), pixel(log_scale).to(dtype), levels).log_prob(values).squeeze()


def masses_by_difference(loc: float, log_scale: float, levels: int) -> Tensor:
    """The same in float64, by the textbook difference of two sigmoids."""
    centre, width = (torch.tensor(float(torch.tensor(value)), dtype=torch.float64) for value in (loc, log_scale))
    edges = (torch.arange(levels - 1, dtype=torch.float64) + 0.5) / (levels - 1)
    below = torch.sigmoid((edges - centre) / width.exp())
    return torch.diff(torch.cat([torch.zeros(1), below, torch.ones(1)]).double())


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_sums_to_one(levels: int) -> None:
    for loc in LOCS:
        for log_scale in LOG_SCALES:
            total = masses(loc, log_scale, levels).double().exp().sum().item()
            assert total == pytest.approx(1, abs=2e-4), (loc, log_scale)
        for log_scale in (-16.0, -12.0, 20.0):  # beyond what float32 resolves
            total = masses(loc, log_scale, levels, torch.float64).exp().sum().item()
            assert total == pytest.approx(1, abs=1e-9), (loc, log_scale)


@pytest.mark.parametrize("levels", [17, 256])
def test_discretized_logistic_equals_the_difference_of_sigmoids(levels: int) -> None:
    compared = 0
    for loc in LOCS:
        for log_scale in (-3.0, -1.0, 0.0, 3.0):
            expected = masses_by_difference(loc, log_scale, levels)
            stable = expected > 1e-6
            compared += int(stable.sum())
            found = masses(loc, log_scale, levels).double()
            torch.testing.assert_close(found[stable], expected[stable].log(), rtol=1e-4, atol=1e-3)
    assert compared > 10 * levels


@pytest.mark.parametrize("levels", [2, 17])
def test_a_value_on_an_edge_between_bins_has_no_more_mass_than_the_outer_bin(levels: int) -> None:
    """Real-valued images may have such; neither bin may be left out."""
    edges = [0.5 / (levels - 1), 1 - 0.5 / (levels - 1)]
    for edge in edges:
        log_prob = DiscretizedLogistic(pixel(0.5), pixel(-1.0), levels).log_prob(pixel(edge)).item()
        assert -20 < log_prob < -0.1, edge


def test_no_output_makes_a_logistic_too_wide_to_be_told_of() -> None:
    output = torch.full((1, 2, 1, 1), 1e4, requires_grad=True)
    image = DiscretizedLogisticLikelihood(17)(output)
    for value in (0.0, 0.5, 1.0):
        log_prob = image.log_prob(pixel(value))
        assert torch.isfinite(log_prob).all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), output, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_discretized_logistic_tails_are_log_linear() -> None:
    """Far from the location, where a difference of sigmoids is 0, the log mass still falls by a bin's width / scale."""
    scale = math.exp(-6)
    found = masses(0.1, -6.0, 17).double()
    steps = torch.diff(found[4:16])
    torch.testing.assert_close(steps, torch.full_like(steps, -1 / 16 / scale), rtol=1e-4, atol=0)


def test_discretized_logistic_gradient_is_finite_for_extremes() -> None:
    for loc in (-1e4, 0.0, 0.5, 1e4):
        for log_scale in (-7.0, 8.0):
            parameters = pixel(loc).requires_grad_(), pixel(log_scale).requires_grad_()
            for value in (0.0, 0.5, 1.0):
                log_prob = DiscretizedLogistic(*parameters, 17).log_prob(pixel(value))
                assert torch.isfinite(log_prob).all(), (loc, log_scale, value)
                gradients = torch.autograd.grad(log_prob.sum(), parameters)
                assert all(torch.isfinite(gradient).all() for gradient in gradients), (loc, log_scale, value)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_mean_is_the_mean_of_its_masses(levels: int) -> None:
    values = torch.arange(levels).double() / (levels - 1)
    for loc in LOCS:
        for log_scale in (-7.0, -3.0, -1.0, 2.0):
            expected = (masses(loc, log_scale, levels).double().exp() * values).sum().item()
            found = DiscretizedLogistic(pixel(loc), pixel(log_scale), levels).mean.item()
            tolerance = 1e-4 if levels < 256 else 0.5 / 255 + 1e-4
            assert found == pytest.approx(expected, abs=tolerance), (loc, log_scale)


def test_discretized_logistic_floor_of_the_scale() -> None:
    likelihood = DiscretizedLogisticLikelihood(levels=256, min_log_scale=-3.0)
    image = likelihood(torch.cat([pixel(0.0), pixel(-100.0)], dim=1))
    torch.testing.assert_close(image.log_prob(pixel(128 / 255)), masses(0.5, -3.0, 256)[128].view(1))


@pytest.mark.parametrize("logit", [0.0, 1e-3, 0.09, 0.11, 1.0, 8.0, 20.0, 60.0, 300.0])
def test_continuous_bernoulli_integrates_to_one(logit: float) -> None:
    n = 400_001
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    for signed in (logit, -logit):
        image = ContinuousBernoulliLikelihood()(pixel(signed).double())
        density = image.log_prob(x.view(-1, 1, 1, 1, 1)).squeeze().exp()
        step = 1 / (n - 1)
        assert torch.trapezoid(density, dx=step).item() == pytest.approx(1, abs=1e-6)
        assert torch.trapezoid(density * x, dx=step).item() == pytest.approx(image.mean.item(), abs=1e-6)


def test_continuous_bernoulli_equals_torch_where_that_is_exact() -> None:
    logits = torch.linspace(-9, 9, 60, dtype=torch.float64).view(5, 1, 3, 4)
    x = torch.rand(5, 1, 3, 4, dtype=torch.float64)
    image, expected = ContinuousBernoulliLikelihood()(logits), Independent(ContinuousBernoulli(logits=logits), 3)
    torch.testing.assert_close(image.log_prob(x), expected.log_prob(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image.mean, expected.mean, rtol=1e-5, atol=1e-5)


def test_gaussian_equals_torch() -> None:
    output, x = torch.randn(4, 3, 2, 5), torch.rand(4, 3, 2, 5)
    for scale in (1e-3, 0.1, 2.0):
        expected = Normal(output, scale).log_prob(x).flatten(1).sum(1)
        torch.testing.assert_close(GaussianLikelihood(scale=scale)(output).log_prob(x), expected, rtol=1e-4, atol=1e-2)
    assert not list(GaussianLikelihood(scale=0.1).parameters())


def test_gaussian_learned_scale_finds_the_residual() -> None:
    likelihood = GaussianLikelihood(scale=1.0, learned=True)
    output = torch.zeros(8, 1, 6, 6)
    x = 0.3 * torch.randn(8, 1, 6, 6)
    torch.testing.assert_close(likelihood(output).log_prob(x), Normal(0, 1.0).log_prob(x).flatten(1).sum(1))
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-likelihood(output).log_prob(x).mean()).backward()
        optimizer.step()
    assert likelihood.log_std.exp().item() == pytest.approx(x.square().mean().sqrt().item(), rel=0.01)


def test_gaussian_learned_scale_has_a_floor() -> None:
    likelihood = GaussianLikelihood(scale=1.0, learned=True, min_log_std=-2.0)
    with torch.no_grad():
        likelihood.log_std.fill_(-13.0)
    expected = Normal(0, math.exp(-2)).log_prob(torch.tensor(0.5))
    torch.testing.assert_close(likelihood(pixel(0)).log_prob(pixel(0.5)), expected.view(1))
    with pytest.raises(ValueError, match=r"likelihood\.scale"):
        GaussianLikelihood(scale=0)
    with pytest.raises(ValueError, match=r"min_log_std"):
        GaussianLikelihood(scale=1e-6, learned=True, min_log_std=-2.0)  # below its floor it could never learn


def test_bernoulli_equals_torch_and_is_a_cross_entropy_on_intensities() -> None:
    logits = 3 * torch.randn(4, 2, 3, 5)
    binary, grey = torch.bernoulli(torch.full_like(logits, 0.4)), torch.rand_like(logits)
    image = BernoulliLikelihood()(logits)
    expected = Bernoulli(logits=logits).log_prob(binary).flatten(1).sum(1)
    torch.testing.assert_close(image.log_prob(binary), expected)
    p = torch.sigmoid(logits.double())
    cross_entropy = (grey * p.log() + (1 - grey) * (1 - p).log()).flatten(1).sum(1)
    torch.testing.assert_close(image.log_prob(grey).double(), cross_entropy, rtol=1e-4, atol=1e-4)


LIKELIHOODS = {
    "binary": BernoulliLikelihood(),
    "levels": DiscretizedLogisticLikelihood(levels=17),
    "unit": ContinuousBernoulliLikelihood(),
    "real": GaussianLikelihood(),
}


@pytest.mark.parametrize(
    ("name", "levels", "dequantized", "is_density", "dequantized_levels", "word"),
    [
        ("binary", 2, False, True, None, ""),
        ("binary", 256, False, False, None, "cross-entropy"),
        ("binary", None, False, False, None, "cross-entropy"),
        ("levels", 17, False, True, None, ""),
        ("unit", 256, True, True, 256, ""),
        ("real", 17, True, True, 17, ""),
        ("unit", 256, False, False, None, "256 undequantised"),
        ("real", 2, False, False, None, "2 undequantised"),
        ("unit", None, False, True, 1, "real-valued"),
        ("real", None, False, True, 1, "real-valued"),
    ],
)
def test_figure_kind(
    name: str, levels: int | None, dequantized: bool, is_density: bool, dequantized_levels: int | None, word: str
) -> None:
    kind = figure_kind(LIKELIHOODS[name], levels, dequantized)
    assert (kind.is_density, kind.dequantized_levels) == (is_density, dequantized_levels)
    assert (word in kind.note) if word else kind.note == ""


def far_and_near() -> Tensor:
    return torch.tensor([-40.0, -3.0, -0.4, 0.0, 0.4, 3.0, 40.0, 1e-4]).view(1, 1, 2, 4)


@pytest.mark.parametrize(
    "image",
    [
        BernoulliImage(far_and_near()),
        ContinuousBernoulliLikelihood()(far_and_near()),
        GaussianLikelihood(scale=0.5)(far_and_near()),
        DiscretizedLogistic(far_and_near() / 4, torch.full((1, 1, 2, 4), -1.5), 17),
        DiscretizedLogistic(far_and_near() / 4, torch.full((1, 1, 2, 4), -1.5), 256),
    ],
    ids=["bernoulli", "continuous_bernoulli", "gaussian", "logistic_17", "logistic_256"],
)
def test_mean_of_samples_is_the_mean(image: Distribution) -> None:
    torch.manual_seed(0)
    n = 40_000
    drawn = image.sample(torch.Size((n,)))
    error = (drawn.mean(0) - image.mean).abs()
    assert (error < 5 * drawn.std(0) / math.sqrt(n) + 2e-4).all(), error
