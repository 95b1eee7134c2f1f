"""Diffusion is EDM in an angle: its denoiser, loss, noise levels and steps are the paper's; and what a fit says of its
densities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_run import settings as trainer_settings

from expost.training.trainer import lightning_fit
from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec
from stage2_prior import continuous
from stage2_prior.fitting import FitRun
from stage2_prior.flows.diffusion import Diffusion
from stage2_prior.nets.dit import DiT
from stage2_prior.nets.unet import UNet
from stage2_prior.ode import Solver, exact_trace
from stage2_prior.prior import Exactness


def rough() -> Diffusion:
    torch.manual_seed(0)
    prior = Diffusion(LatentSpec((3,)), width=32, depth=2).eval()
    with torch.no_grad():
        prior.net.last.weight.mul_(30.0)
    return prior


def test_drift_and_loss_are_those_of_the_denoiser() -> None:
    """Equations 1, 7 and 8 of the paper, written with D(x; s), against the angle."""
    prior, z, noise = rough(), torch.randn(50, 3), torch.randn(50, 3)
    s = torch.linspace(-3, 3, 50).exp()[:, None]
    c_skip, c_out, c_in = 1 / (s**2 + 1), s / (s**2 + 1).sqrt(), 1 / (s**2 + 1).sqrt()
    x, angle, labels = z + s * noise, s.squeeze(1).atan(), torch.zeros(50).long()
    with torch.no_grad():
        network = -prior.net(c_in * x, prior.clock(angle), None)
        denoised = c_skip * x + c_out * network
        weighted = (s**2 + 1) / s**2 * (denoised - z).square()
        point = torch.full_like(z, -math.inf)
        loss = prior._loss_at(z, angle, noise, labels, DiagonalNormal(z, point))
        torch.testing.assert_close(loss, weighted.mean(1), rtol=1e-3, atol=1e-5)
        slope = (x - denoised) / s  # dx/ds; of the angle's coordinate c_in x, by the rule of the product:
        in_angle = (c_in * slope - s * c_in**3 * x) * (1 + s**2)
        torch.testing.assert_close(prior.velocity(c_in * x, angle, labels), in_angle, rtol=1e-3, atol=1e-4)


def test_noise_levels_are_those_of_the_paper() -> None:
    prior, i = Diffusion(LatentSpec((3,)), noise_mean=-1.2, noise_std=1.2, rho=7.0), torch.arange(21)
    expected = (80 ** (1 / 7) + i / 20 * (0.01 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # equation 5
    torch.testing.assert_close(prior.schedule().tan(), expected, rtol=1e-3, atol=1e-5)
    levels = torch.tensor([0.1, 0.5, 0.9])
    normal = torch.distributions.Normal(-1.2, 1.2).icdf(levels)
    torch.testing.assert_close(prior.times(levels).tan().log(), normal, rtol=1e-4, atol=1e-4)


def test_steps_are_even_in_the_angle_unless_they_are_to_be_those_of_the_paper() -> None:
    steps = rough().schedule()
    torch.testing.assert_close(steps[[0, -1]].tan(), torch.tensor([80.0, 0.01]), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(steps.diff(), steps.diff()[:1].expand(20))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("net", ["mlp", "unet", "dit"])
def test_rows_that_share_a_time_are_as_if_each_had_its_own(net: Any, labelled: bool) -> None:
    torch.manual_seed(0)
    spec = LatentSpec((2, 4, 4), num_classes=3 * labelled)
    prior = Diffusion(spec, net=net, width=32, depth=1, conditional=labelled).eval()
    x, labels = torch.randn(12, 2, 4, 4), torch.arange(12) % 3 if labelled else torch.zeros(12).long()
    times = torch.tensor([0.2, 0.7, 1.4])
    with torch.no_grad():
        for module in (prior.net.last, prior.net.embedding.second):
            module.weight.mul_(30.0)
        shared, own = prior.velocity(x, times, labels), prior.velocity(x, times.repeat_interleave(4), labels)
        assert not torch.allclose(own, prior.velocity(x, times.repeat(4), labels), atol=1e-2)
    torch.testing.assert_close(shared, own)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(("known", "most"), [(True, 0.5), (False, 0.8)])
def test_training_has_the_gradient_of_draws_with_less_noise(known: bool, most: float, labelled: bool) -> None:
    """Whether the posteriors are known or each draw is a point; a class is learned from its own posteriors alone."""
    torch.manual_seed(0)
    spec = LatentSpec((3,), num_classes=2 * labelled)
    prior = Diffusion(spec, width=32, depth=2, conditional=labelled, label_dropout=0.3 * labelled).train()
    with torch.no_grad():
        prior.net.last.weight.mul_(30.0)
    loc, log_std = torch.randn(2**13, 3), torch.full((2**13, 3), -1.0)
    labels = (loc[:, 0] > 0).long() if labelled else None
    posterior = DiagonalNormal(loc, log_std)

    def gradients(in_company: bool) -> Tensor:
        """[10, P] of so many draws of all."""
        rows = []
        for _ in range(10):
            prior.zero_grad()
            z = posterior.sample()
            losses = (
                prior.loss_of_draws(z, labels, posterior if known else None) if in_company else prior.loss(z, labels)
            )
            losses.mean().backward()
            rows.append(torch.cat([p.grad.flatten() for p in prior.parameters() if p.grad is not None]))
        return torch.stack(rows)

    of_draws, of_company = gradients(in_company=False), gradients(in_company=True)
    error = (of_draws.var(0) / 10 + of_company.var(0) / 10).sqrt()
    off = (of_draws.mean(0) - of_company.mean(0)) / error
    assert off[error > 0].square().mean() < 2.0  # 1.3 of the square of Student's distribution that this is
    assert of_company.var(0).sum() < most * of_draws.var(0).sum()


@pytest.mark.parametrize("narrowest", [-2.0, -math.inf])
def test_the_mean_velocity_is_that_over_the_posteriors_of_a_part_of_the_batch(
    narrowest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against weights and means of each row alone; five times of three rows are in parts of two times at most."""
    monkeypatch.setattr(continuous, "COMPANY", 6)
    torch.manual_seed(1)
    loc, log_std, x = torch.randn(15, 2, 2), torch.rand(15, 2, 2) + narrowest, torch.randn(15, 2, 2)
    may_be_of = (torch.rand(15, 15) < 0.6) | torch.eye(15).bool()
    path = rough().path(torch.tensor([0.01, 0.3, 0.6, 0.9, 1.2]))
    x[:3] = path[0][0] * loc[:3] + path[1][0] * x[:3]  # where noise is small a row is near its own
    found = continuous.mean_velocity(x, path, DiagonalNormal(loc, log_std), may_be_of)
    for row in range(15):
        a, b, da, db = (float(part[row // 3]) for part in path)
        (part,) = (part for part in (range(6), range(6, 9), range(9, 15)) if row in part)
        among = [other for other in part if may_be_of[row, other]]
        variance = log_std[among].mul(2).exp()
        of_x = torch.distributions.Normal(a * loc[among], (a**2 * variance + b**2).sqrt())
        weights = of_x.log_prob(x[row]).sum((1, 2)).softmax(0)
        gain = (a * da * variance + b * db) / (a**2 * variance + b**2)
        means = da * loc[among] + gain * (x[row] - a * loc[among])
        torch.testing.assert_close(found[row], (weights[:, None, None] * means).sum(0), rtol=1e-4, atol=1e-4)
    assert len(continuous.mean_velocity(x[:0], path, DiagonalNormal(loc[:0], log_std[:0]), None)) == 0


@pytest.mark.parametrize("log_std", [-1.0, -math.inf])
def test_a_held_out_latent_has_its_own_posterior_alone(log_std: float) -> None:
    prior, loc, noise = rough(), torch.randn(8, 3), torch.randn(8, 3)
    known, labels = DiagonalNormal(loc, torch.full((8, 3), log_std)), torch.zeros(8).long()
    time = torch.tensor([0.2, 0.7, 1.0, 1.4])
    a, b, _, _ = (part.repeat_interleave(2)[:, None] for part in prior.path(time))
    z = known.sample()
    with torch.no_grad():
        x = a * z + b * noise
        alone = continuous.mean_velocity(x, prior.path(time), known, torch.eye(8).bool())
        expected = (prior.velocity(x, time, labels) - alone).square().mean(1)
        torch.testing.assert_close(prior._loss_at(z, time, noise, labels, known), expected, rtol=1e-4, atol=1e-5)


def test_beyond_some_dimensions_a_row_is_of_its_own_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = continuous.mean_velocity
    monkeypatch.setattr(continuous, "mean_velocity", lambda x, *rest: asked.append(x.shape[1]) or real(x, *rest))
    for dims in (64, 65):
        prior = Diffusion(LatentSpec((dims,)), width=16, depth=1).train()
        assert prior.loss_of_draws(torch.randn(32, dims), None, None).isfinite().all()
    assert asked == [64]


def test_rows_share_times_but_a_batch_has_as_many_as_it_can() -> None:
    expected = {0: 0, 1: 1, 7: 7, 64: 32, 97: 97, 100: 50, 512: 32, 4096: 256}
    assert {num: continuous.num_times(num) for num in expected} == expected


def fitted_map(exact_dims: int, places: int, tolerance: float) -> tuple[Diffusion, LatentDataset, Any]:
    spec, rng = LatentSpec((4, 5, 4)), np.random.default_rng(0)
    loc = np.float32(rng.normal(size=(400, 1, 5, 4)) * np.ones((1, 4, 1, 1)))
    data = LatentDataset(spec, "diagonal_normal", {"loc": loc, "log_std": np.full_like(loc, -0.5)})
    torch.manual_seed(0)
    solver = Solver(exact_dims=exact_dims, density_places=places, tolerance=tolerance)
    prior = Diffusion(spec, width=16, depth=1, solver=solver)
    settings = {"max_epochs": 2, "batch_size": 32, "learning_rate": 3e-3, "precision": "32-true"}
    fit = lightning_fit(trainer_settings(), [])
    run = FitRun(torch.device("cpu"), 0, lambda figures, step: None, fit, settings)
    return prior, data, prior.fit(data, data, run)


def test_an_estimate_says_its_error_and_is_right_within_it() -> None:
    prior, data, _ = fitted_map(64, 4, 10.0)
    assert prior.log_prob_is is Exactness.ESTIMATE and len(prior.caveats) == 2
    error = float(prior.probe_error)
    assert f"{error:.2g} nats a latent" in prior.caveats[1] and error > 0
    exact = Diffusion(data.spec, width=16, depth=1, solver=Solver(exact_dims=80, density_places=4)).eval()
    exact.load_state_dict(prior.state_dict())
    assert exact.log_prob_is is Exactness.EXACT and exact.passes > prior.passes
    z = data.draw(torch.arange(100))
    with torch.no_grad():
        off = prior.log_prob(z) - exact.log_prob(z)
    assert float(off.std()) == pytest.approx(error, rel=0.35)
    assert abs(float(off.mean())) < 4 * error / math.sqrt(len(z))


def test_a_tolerance_that_is_not_reached_is_said() -> None:
    prior, _, report = fitted_map(64, 2, 1e-6)
    said = "above prior.solver.tolerance=1e-06; raise prior.solver.density_places"
    assert any(note.endswith(said) for note in report.notes) and any(said in caveat for caveat in prior.caveats)
    unfitted = Diffusion(prior.spec, width=16, depth=1)
    assert unfitted.caveats == []


@pytest.mark.parametrize("net", [UNet, DiT])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (3, 5, 7), (2, 9, 4)])
def test_networks_of_maps_take_any_size(net: Any, shape: tuple[int, int, int]) -> None:
    """Odd sides and one place included; every parameter learns from the first step; the trace is that of the
    Jacobian."""
    torch.manual_seed(0)
    network = net(shape, 3, width=32, depth=1)
    x, time, labels = torch.randn(4, *shape), torch.rand(4), torch.arange(4) % 3
    found = network(x, time, labels)
    assert found.shape == x.shape
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, trace = exact_trace(lambda at, t: network(at, t[None], labels), x, torch.tensor(0.3), 0)
    jacobian = torch.autograd.functional.jacobian(lambda at: network(at, torch.tensor([0.3]), labels[:1]), x[:1])
    torch.testing.assert_close(trace[0], jacobian.reshape(trace.new_empty(x[0].numel()).numel(), -1).trace())
