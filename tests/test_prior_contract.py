"""Every `conf/prior/*.yaml` goes through the same life: a new file is tested from the moment it is there."""

import functools
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load, save
from torch import Tensor
from training_run import settings as trainer_settings

from orchestration.hardware import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.prior import Exactness, FitRun, GradientPrior, Prior
from stage2_prior.standardize import Standardized

GROUP = Path(__file__).parent.parent / "conf" / "prior"
NAMES = sorted(path.stem for path in GROUP.glob("*.yaml"))
PLANE = LatentSpec((2,))


def build(name: str, spec: LatentSpec) -> Prior:
    """The prior that `prior=name` gives, wrappers included."""
    config = OmegaConf.load(GROUP / f"{name}.yaml")
    wrappers = config.pop("wrap", None) or []
    config.pop("fit", None)
    torch.manual_seed(0)
    prior = hydra.utils.instantiate(config, _partial_=True, _convert_="all")(spec=spec)
    assert set(wrappers) <= {"standardize"}, "teach this test the new wrapper"
    return Standardized(prior) if "standardize" in wrappers else prior


def posteriors(num: int, spec: LatentSpec, seed: int) -> LatentDataset:
    """q(z|x_i) around a bent, uncentred cloud whose dimensions have different scales."""
    rng = np.random.default_rng(seed)
    loc = rng.normal(size=(num, *spec.shape))
    loc[:, 0] += 1.5 * np.sign(rng.normal(size=num))
    loc[:, 1] = 0.4 * loc[:, 1] + 0.3 * np.abs(loc[:, 0]) + 1.0
    log_std = rng.normal(-1.2, 0.2, size=loc.shape)
    return LatentDataset(spec, "diagonal_normal", {"loc": np.float32(loc), "log_std": np.float32(log_std)})


def run(seed: int = 0) -> FitRun:
    fit = lightning_fit(trainer_settings(), [])
    return FitRun(torch.device("cpu"), seed, lambda figures, step: None, fit, {"max_epochs": 2})


@functools.cache
def fitted(name: str) -> Prior:
    prior = build(name, PLANE)
    settings = {"max_epochs": 2} if is_gradient(prior) else {}
    report = prior.fit(posteriors(600, PLANE, 1), posteriors(200, PLANE, 2), with_settings(run(), settings))
    assert report.seconds >= 0
    return prior


def is_gradient(prior: Prior) -> bool:
    return isinstance(prior, GradientPrior) or (
        isinstance(prior, Standardized) and isinstance(prior.prior, GradientPrior)
    )


def with_settings(lent: FitRun, settings: dict[str, object]) -> FitRun:
    return FitRun(lent.device, lent.seed, lent.log, lent.lightning_fit, settings)


@functools.cache
def grid(name: str) -> tuple[Tensor, Tensor, float]:
    """A grid [G, 2] over all the mass, finer than any width here, log-densities [G] there, and the area of a cell."""
    prior = fitted(name)
    with torch.no_grad():
        z = prior.sample(5000)
        low, high = z.min(0).values - 2, z.max(0).values + 2
        axes = [torch.linspace(float(a), float(b), 150) for a, b in zip(low, high, strict=True)]
        points = torch.cartesian_prod(*axes)
        area = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        log_prob = torch.cat([prior.log_prob(block) for block in points.split(8192)])
        return points, log_prob.double(), area


def test_the_group_is_not_empty() -> None:
    assert {"standard_normal", "gaussian", "mixture", "autoregressive"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_dtypes(name: str) -> None:
    prior = fitted(name)
    z = prior.sample(7)
    assert z.shape == (7, 2) and z.dtype == torch.float32 and z.isfinite().all()
    assert not z.requires_grad
    assert prior.sample(0).shape == (0, 2)
    log_prob = prior.log_prob(z)
    assert log_prob.shape == (7,) and log_prob.dtype == torch.float32 and log_prob.isfinite().all()
    torch.testing.assert_close(prior.loss(z), -log_prob)
    torch.testing.assert_close(prior.log_prob(z[2:5]), log_prob[2:5])  # each latent by itself


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1,), (5,)])
def test_other_dimensions(name: str, shape: tuple[int, ...]) -> None:
    prior = build(name, LatentSpec(shape))
    z = prior.sample(11)
    assert z.shape == (11, *shape) and prior.log_prob(z).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input_is_refused(name: str) -> None:
    prior = fitted(name)
    for wrong in (torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 2, 1)):
        with pytest.raises(ValueError, match=r"expected \[B, 2\]"):
            prior.log_prob(wrong)
        with pytest.raises(ValueError, match=r"expected \[B, 2\]"):
            prior.loss(wrong)
    with pytest.raises(ValueError, match="-1"):
        prior.sample(-1)


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_refused_in_words(name: str) -> None:
    cls = type(build(name, PLANE))
    why = cls.check(LatentSpec((16,), Support.CODES, grids=((4, 4),), num_codes=(32,)))
    assert why is not None and "codes" in why
    assert cls.check(PLANE) is None


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter_and_z(name: str) -> None:
    prior = build(name, LatentSpec((5,)))
    z = torch.randn(64, 5, requires_grad=True)
    prior.loss(z).mean().backward()
    assert z.grad is not None and (z.grad != 0).any(1).all()
    for key, parameter in prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
def test_density_integrates_to_one(name: str) -> None:
    prior = fitted(name)
    if prior.log_prob_is is not Exactness.EXACT:
        pytest.skip("no exact density")
    _, log_prob, area = grid(name)
    assert float(log_prob.exp().sum()) * area == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_density(name: str) -> None:
    prior = fitted(name)
    if prior.log_prob_is is not Exactness.EXACT:
        pytest.skip("no exact density")
    points, log_prob, area = grid(name)
    mass = log_prob.exp() * area
    entropy = -float((mass * log_prob).sum())
    mean = (mass[:, None] * points).sum(0)
    covariance = (mass[:, None, None] * (points - mean)[:, :, None] * (points - mean)[:, None, :]).sum(0)
    torch.manual_seed(3)
    with torch.no_grad():
        z = prior.sample(20_000)
        nll = -prior.log_prob(z).double()
    assert float(nll.mean()) == pytest.approx(entropy, abs=5 * float(nll.std()) / 141 + 2e-3)
    spread = covariance.diagonal().sqrt()
    assert ((z.double().mean(0) - mean).abs() < 5 * spread / 141 + 1e-3).all()
    assert ((torch.cov(z.double().T) - covariance).abs() < 0.06 * spread[:, None] * spread).all()


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_safetensors(name: str) -> None:
    prior, other = fitted(name), build(name, PLANE)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(4))
    other.load_state_dict(load(save(prior.state_dict())))
    other.eval()
    assert torch.equal(other.log_prob(z), prior.log_prob(z))


@pytest.mark.parametrize("name", NAMES)
def test_seeds_reproduce_fit_and_samples(name: str) -> None:
    first = fitted(name)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = build(name, PLANE)
    torch.set_rng_state(state)
    settings = {"max_epochs": 2} if is_gradient(second) else {}
    second.fit(posteriors(600, PLANE, 1), posteriors(200, PLANE, 2), with_settings(run(), settings))
    assert torch.equal(torch.get_rng_state(), state), "the fit left its mark on torch's global generator"
    for (key, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(first.sample(9))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("name", NAMES)
def test_point_masses_are_fitted(name: str) -> None:
    prior = build(name, PLANE)
    smooth = posteriors(600, PLANE, 1)
    values = smooth.params["loc"].copy()
    values[:100] = values[0]  # what sends a likelihood to infinity
    points = LatentDataset(PLANE, "delta", {"loc": values})
    settings = {"max_epochs": 2} if is_gradient(prior) else {}
    report = prior.fit(points, points, with_settings(run(), settings))
    assert prior.log_prob(points.means()).isfinite().all()
    if name != "standard_normal":
        assert report.train_nll_nats is not None and np.isfinite(report.train_nll_nats)
