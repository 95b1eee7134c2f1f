"""Flows: the determinant, the inverse, the identity at the start, what splines do at their bound, what is refused."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_run import settings as trainer_settings

from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.flows.flow import Flow
from stage2_prior.priors.autoregressive import Autoregressive
from stage2_prior.priors.gaussian import Gaussian
from stage2_prior.priors.mixture import Mixture
from stage2_prior.sampling import Sampling
from stage2_prior.wrappers.per_class import PerClass

D = 5
KINDS = [(transform, coupling) for transform in ("affine", "spline") for coupling in (True, False)]
kinds = pytest.mark.parametrize(("transform", "coupling"), KINDS)
FIT = {"max_epochs": 8, "batch_size": 128, "learning_rate": 5e-3, "average": 0.98, "precision": "32-true"}


def flow(num_dims: int = D, **changes: Any) -> Flow:
    torch.manual_seed(0)
    spec = LatentSpec((num_dims,), num_classes=3 if changes.get("conditional") else 0)
    settings: dict[str, Any] = {"num_layers": 3, "hidden": (32, 32)} | changes
    return Flow(spec, **settings)


def bent(prior: Flow, size: float = 0.3) -> Flow:
    """`prior` far from the identity, as after training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(size * torch.randn_like(parameter) / math.sqrt(parameter.shape[-1]))
    return prior.eval()


def run() -> FitRun:
    return FitRun(torch.device("cpu"), 0, lambda figures, step: None, lightning_fit(trainer_settings(), []), FIT)


def points(z: np.ndarray) -> LatentDataset:
    return LatentDataset(LatentSpec((z.shape[1],)), "delta", {"loc": np.float32(z)})


def moved(prior: Flow, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    log_det = torch.zeros(len(z), dtype=z.dtype)
    for layer in prior.layers:
        z, its_own = layer(z, labels)
        log_det = log_det + its_own
    return z, log_det


@kinds
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("num_dims", [1, D])
def test_determinant_is_that_of_the_jacobian_and_the_inverse_leads_back(
    transform: str, coupling: bool, conditional: bool, num_dims: int
) -> None:
    prior = bent(flow(num_dims, transform=transform, coupling=coupling, conditional=conditional, permute=True))
    prior, z = prior.double(), 1.5 * torch.randn(20, num_dims).double()
    labels = torch.arange(20) % prior.num_labels
    u, log_det = moved(prior, z, labels)
    for i in range(20):
        jacobian = torch.autograd.functional.jacobian(
            lambda row, i=i: moved(prior, row[None], labels[i : i + 1])[0][0], z[i]
        )
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det[i].item(), abs=1e-6)
    assert (u - z).abs().max() > 0.1 and log_det.abs().max() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(prior._invert(u, labels), z, atol=1e-6, rtol=1e-6)


@kinds
def test_it_starts_as_its_base(transform: str, coupling: bool) -> None:
    base = Mixture(LatentSpec((D,)), num_components=2)
    base.means.copy_(torch.randn(2, D))
    prior = flow(transform=transform, coupling=coupling, base=base)
    z = torch.randn(200, D)
    torch.testing.assert_close(prior.log_prob(z), base.log_prob(z), atol=0.03, rtol=0)
    normal = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(flow(transform=transform, coupling=coupling).log_prob(z), normal, atol=0.03, rtol=0)


def test_of_classes_each_has_a_base_of_its_own() -> None:
    prior = flow(base=Mixture(LatentSpec((D,), num_classes=3), num_components=1), conditional=True)
    assert isinstance(prior.base, PerClass)
    for y, mixture in enumerate(prior.base.priors):
        mixture.means.fill_(2 * y)
    z, labels = torch.randn(30, D), torch.arange(30) % 3
    normal = torch.distributions.Normal(0, 1).log_prob(z - 2 * labels[:, None]).sum(1)
    torch.testing.assert_close(prior.log_prob(z, labels), normal, atol=0.03, rtol=0)
    torch.manual_seed(0)
    assert (
        prior.sample(3000, torch.arange(3000) % 3).view(1000, 3, D).mean((0, 2)) - 2 * torch.arange(3)
    ).abs().max() < 0.1


@pytest.mark.parametrize("coupling", [True, False])
def test_splines_are_sound_at_their_bound_and_beyond(coupling: bool) -> None:
    """Bins as thin as they can be: densities and gradients stay finite, and the mass of a line is 1."""
    prior = bent(flow(1, transform="spline", coupling=coupling, num_layers=1), 30.0)
    line = torch.linspace(-12, 12, 480_001)[:, None]
    with torch.no_grad():
        mass = prior.log_prob(line).double().exp().sum().item() * 24 / (len(line) - 1)
        thinnest = max(layer(line, torch.zeros(len(line), dtype=torch.int64))[1].max().item() for layer in prior.layers)
    assert mass == pytest.approx(1, abs=5e-3) and thinnest > 2.5  # nats
    five = torch.tensor([5.0])
    edges = torch.cat([s * five * (1 + e) for s in (-1, 1) for e in (-1e-3, -1e-6, 0.0, 1e-7, 1e-3, 1.0)])[:, None]
    edges.requires_grad_()
    log_prob = prior.log_prob(edges)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and edges.grad is not None and edges.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())
    beyond = edges.detach().abs().squeeze(1) > 5.001
    normal = torch.distributions.Normal(0, 1).log_prob(edges.detach()).squeeze(1)
    assert torch.equal(log_prob.detach()[beyond], normal[beyond]) and int(beyond.sum()) == 4
    with torch.no_grad():
        u = torch.linspace(-6, 6, 100_001)[:, None]
        assert prior._invert(u, torch.zeros(len(u), dtype=torch.int64)).isfinite().all()


@kinds
def test_a_bent_density_is_recovered(transform: str, coupling: bool) -> None:
    """z_2 ~ N(z_1^2 / 2, 0.3^2): its entropy is known; every second layer can say it exactly, or nearly (splines)."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6000, 2))
    z[:, 1] = 0.5 * z[:, 0] ** 2 + 0.3 * z[:, 1]
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
    prior = flow(2, transform=transform, coupling=coupling, num_layers=4, bins=4)
    report = prior.fit(points(z[:4000]), points(z[4000:]), run())
    assert report.val_nll_nats == pytest.approx(entropy, abs=0.08)


@pytest.mark.parametrize("coupling", [True, False])
def test_on_a_mixture_it_is_no_worse_than_the_mixture(coupling: bool) -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 6000)
    z = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.normal(size=(6000, 2))
    train, val = points(z[:4000]), points(z[4000:])
    mixture = Mixture(train.spec, num_components=5)
    alone = mixture.fit(train, val, run())
    prior = flow(2, coupling=coupling, base=Mixture(train.spec, num_components=5))
    report = prior.fit(train, val, run())
    assert prior.base is not None and torch.equal(
        prior.base.log_prob(torch.zeros(1, 2)), mixture.log_prob(torch.zeros(1, 2))
    )
    assert report.val_nll_nats is not None and alone.val_nll_nats is not None
    assert report.val_nll_nats < alone.val_nll_nats - 0.02


def test_temperature_scales_the_noise() -> None:
    prior = bent(flow())
    cold = prior.sample(4, how=Sampling(temperature=0))
    torch.testing.assert_close(
        moved(prior, cold, torch.zeros(4, dtype=torch.int64))[0], torch.zeros(4, D), atol=1e-4, rtol=0
    )
    torch.manual_seed(3)
    half = prior.sample(2000, how=Sampling(temperature=0.5))
    assert moved(prior, half, torch.zeros(2000, dtype=torch.int64))[0].std().item() == pytest.approx(0.5, abs=0.02)
    on_gaussian = flow(base=Gaussian(LatentSpec((D,))))
    assert on_gaussian.sample(3, how=Sampling(temperature=0)).std(0).max() < 1e-6


WRONG = {
    "num_layers": ({"num_layers": 0}, "prior.num_layers=0: give at least 1"),
    "bins": ({"bins": 1}, "prior.bins=1: give at least 2"),
    "hidden": ({"hidden": []}, r"prior.hidden=\[\]: give at least one width"),
    "dropout": ({"dropout": 1.0}, "prior.dropout=1.0: give a share"),
    "bound": ({"bound": 0.0}, "prior.bound=0.0: give a number above 0"),
    "base": ({"base": Autoregressive(LatentSpec((D,)), hidden=(8,))}, "prior.base=Autoregressive: .* give mixture"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PriorError, match=words):
        flow(**changes)


def test_no_zuko_or_an_old_one_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zuko.__version__", "1.5.0")
    with pytest.raises(PriorError, match=r"zuko 1\.6 or later; .*pip install 'zuko>=1\.6'"):
        flow()
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(PriorError, match=r"zuko 1\.6 or later"):
        flow()
