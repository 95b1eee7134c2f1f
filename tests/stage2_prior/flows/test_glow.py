"""Glow: the determinant, the inverse, what it starts as, shapes even and odd, a density that is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_run import settings as trainer_settings

from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.flows.glow import Glow, Mixing, level_shapes, squeeze, unsqueeze
from stage2_prior.sampling import Sampling

FIT = {"max_epochs": 5, "batch_size": 64, "learning_rate": 1e-2, "average": 0.98, "precision": "32-true"}
SHAPES = [(1, 1, 1), (1, 1, 2), (3, 4, 2), (2, 3, 3), (2, 4, 4), (3, 5, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def glow(shape: tuple[int, ...], num_classes: int = 0, **changes: Any) -> Glow:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_levels": 2, "num_steps": 2, "width": 8} | changes
    return Glow(LatentSpec(shape, num_classes=num_classes), conditional=num_classes > 0, **settings)


def maps(z: np.ndarray) -> LatentDataset:
    return LatentDataset(LatentSpec(z.shape[1:]), "delta", {"loc": np.float32(z)})


def noise(prior: Glow, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    parts, log_det = prior._to_noise(z, labels)
    return torch.cat([part.flatten(1) for part in parts], 1), log_det


@shapes
@pytest.mark.parametrize("num_classes", [0, 2])
def test_determinant_is_that_of_the_jacobian_and_the_inverse_leads_back(
    shape: tuple[int, ...], num_classes: int
) -> None:
    prior = glow(shape, num_classes).double().eval()
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            parameter.add_((0.2 if "net" in name else 0.1) * torch.randn_like(parameter))
    z, labels = torch.randn(5, *shape).double(), torch.arange(5) % prior.num_labels
    u, log_det = noise(prior, z, labels)
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, i=i: noise(prior, x[None], labels[i : i + 1])[0][0], z[i]
        )
        size = torch.linalg.slogdet(jacobian.reshape(z[0].numel(), -1))[1].item()
        assert size == pytest.approx(log_det[i].item(), abs=1e-6) and abs(size) > 1e-3
    drawn, *_ = inverse(prior, u, labels)
    torch.testing.assert_close(drawn, z, atol=1e-7, rtol=1e-6)


def inverse(prior: Glow, u: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`_from_noise` with `u` [n, D] as its draws, which it takes from the last level to the first."""
    sizes = [part[0].numel() for part in prior._to_noise(torch.zeros(1, *prior.spec.shape).double(), labels[:1])[0]]
    parts = list(u.split(sizes, 1))
    draws = iter(parts[::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, **_: next(draws).reshape(shape))
        return prior._from_noise(labels, 1.0), parts


@shapes
def test_squeezing_loses_nothing(shape: tuple[int, int, int]) -> None:
    z = torch.arange(2 * math.prod(shape)).view(2, *shape)
    inner = next(level_shapes(shape, 1))
    assert math.prod(inner) == math.prod(shape) and torch.equal(unsqueeze(squeeze(z, inner), shape), z)


def test_levels_halve_what_is_even() -> None:
    assert list(level_shapes((4, 32, 32), 3)) == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert list(level_shapes((3, 4, 2), 3)) == [(12, 2, 1), (12, 1, 1)]
    assert list(level_shapes((4, 7, 7), 3)) == [(4, 7, 7)]
    four = torch.arange(4).view(1, 1, 2, 2)
    assert squeeze(four, (4, 1, 1)).flatten().tolist() == [0, 1, 2, 3]


def test_the_matrix_starts_as_a_rotation_of_the_determinant_that_is_told() -> None:
    mixing = Mixing(6)
    matrix = mixing.matrix.detach()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(6), atol=1e-5, rtol=0)
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.add_(torch.randn_like(parameter))
    log_size = mixing.log_size.sum().item()
    assert torch.linalg.slogdet(mixing.matrix.double())[1].item() == pytest.approx(log_size, abs=1e-4)
    assert sum(parameter.numel() for parameter in mixing.parameters()) == 36


def test_it_starts_as_gaussians_with_the_moments_of_the_channels() -> None:
    """Set by `prepare`, from the data alone; not by what a density is asked of."""
    rng = np.random.default_rng(0)
    z = np.array([3.0, -1.0])[:, None, None] + np.array([2.0, 0.1])[:, None, None] * rng.normal(size=(4000, 2, 3, 3))
    latents, prior = maps(z), glow((2, 3, 3), num_steps=1)
    tensor = torch.from_numpy(np.float32(z))[:200]
    assert torch.equal(prior.log_prob(tensor), prior.log_prob(tensor))
    prior.prepare(latents)
    scale = torch.tensor([2.0, 0.1])[:, None, None]
    normal = torch.distributions.Normal(torch.tensor([3.0, -1.0])[:, None, None], scale)
    torch.testing.assert_close(prior.log_prob(tensor), normal.log_prob(tensor).sum((1, 2, 3)), atol=0.5, rtol=0)
    deep = glow((2, 3, 3), num_steps=4)
    deep.prepare(latents)
    parts, _ = deep._to_noise(torch.from_numpy(np.float32(z)), torch.zeros(4000, dtype=torch.int64))
    assert parts[-1].mean((0, 2, 3)).abs().max() < 0.05 and (parts[-1].std((0, 2, 3)) - 1).abs().max() < 0.05


def test_a_channel_that_never_varies_stays_finite() -> None:
    z = np.random.default_rng(0).normal(size=(300, 2, 2, 2))
    z[:, 1] = 7.0
    prior = glow((2, 2, 2))
    prior.prepare(maps(z))
    assert prior.log_prob(torch.from_numpy(np.float32(z))).isfinite().all()


def test_a_bent_density_is_recovered() -> None:
    """Channel 2 is half the square of channel 1 of the place to its left, and a little noise."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 2, 1, 3))
    z[:, 1] = 0.5 * np.roll(z[:, 0], 1, axis=2) ** 2 + 0.3 * z[:, 1]
    entropy = 3 * (1 + math.log(2 * math.pi) + math.log(0.3))
    prior = glow((2, 1, 3), num_steps=3, width=32)
    fit = lightning_fit(trainer_settings(), [])
    run = FitRun(torch.device("cpu"), 0, lambda figures, step: None, fit, FIT)
    report = prior.fit(maps(z[:3000]), maps(z[3000:]), run)
    assert report.val_nll_nats == pytest.approx(entropy, abs=0.25)


def test_temperature_scales_the_noise() -> None:
    prior = glow((2, 4, 4))
    assert torch.equal(*prior.sample(2, how=Sampling(temperature=0)))
    torch.manual_seed(3)
    u, _ = noise(prior, prior.sample(500, how=Sampling(temperature=0.5)), torch.zeros(500, dtype=torch.int64))
    assert u.std().item() == pytest.approx(0.5, abs=0.02)


def test_what_cannot_be_is_refused() -> None:
    assert "one with odd sides" in str(Glow.check(LatentSpec((1, 3, 5))))
    assert "maps of real numbers" in str(Glow.check(LatentSpec((6,))))
    for name in ("num_levels", "num_steps", "width"):
        with pytest.raises(PriorError, match=f"prior.{name}=0: give at least 1"):
            glow((2, 2, 2), **{name: 0})
