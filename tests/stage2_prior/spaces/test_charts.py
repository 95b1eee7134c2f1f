"""Charts are one to one, and their Jacobians are those of the maps: by derivatives, and by integrals that are one."""

import math

import pytest
import torch
from torch import Tensor

from stage1_vae.latents import log_area
from stage2_prior.spaces.charts import BoxChart, Chart, SphereChart


def sphere_chart(dims: int, seed: int = 0) -> SphereChart:
    chart = SphereChart(dims)
    chart.fit(torch.randn(dims, generator=torch.Generator().manual_seed(seed)).double())
    return chart


def log_normal(y: Tensor) -> Tensor:
    return (-0.5 * (y.square() + math.log(2 * math.pi))).sum(1)


@pytest.mark.parametrize("dims", (2, 3, 7, 40))
@pytest.mark.parametrize("seed", (0, 1, 2))
def test_there_and_back(dims: int, seed: int) -> None:
    torch.manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(400, dims).double(), dim=1)
    chart = sphere_chart(dims, seed)
    assert (chart.frame @ chart.frame.T - torch.eye(dims)).abs().max() < 1e-12
    torch.testing.assert_close(chart.place(chart.lay_out(z)[0]), z, atol=1e-9, rtol=0)
    inside = 2 * torch.rand(400, dims).double() - 1
    torch.testing.assert_close(BoxChart(dims).place(BoxChart(dims).lay_out(inside)[0]), inside, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dims", (2, 3, 6))
def test_jacobians_are_those_of_the_maps(dims: int) -> None:
    torch.manual_seed(0)
    for chart in (sphere_chart(dims), BoxChart(dims)):
        y = 1.5 * torch.randn(8, chart.num_dims).double()
        z = chart.place(y)
        back, log_det = chart.lay_out(z)
        torch.testing.assert_close(back, y, atol=1e-8, rtol=1e-8)
        for row in range(len(y)):
            jacobian = torch.autograd.functional.jacobian(lambda one: chart.place(one[None])[0], y[row])  # noqa: B023
            volume = 0.5 * torch.logdet(jacobian.T @ jacobian)  # by surface, where z has more numbers than y
            assert log_det[row].item() == pytest.approx(-volume.item(), abs=1e-8)


def ring(num: int) -> tuple[Tensor, float]:
    t = 2 * math.pi * (torch.arange(num).double() + 0.5) / num
    return torch.stack([t.cos(), t.sin()], 1), 2 * math.pi / num


def globe(num: int) -> tuple[Tensor, float]:
    """Points of equal areas: latitudes by their sines."""
    height = 2 * (torch.arange(num).double() + 0.5) / num - 1
    t = 2 * math.pi * (torch.arange(num).double() + 0.5) / num
    heights, angles = (grid.flatten() for grid in torch.meshgrid(height, t, indexing="ij"))
    radius = (1 - heights.square()).sqrt()
    return torch.stack([radius * angles.cos(), radius * angles.sin(), heights], 1), 4 * math.pi / num**2


@pytest.mark.parametrize(("chart", "points"), [(sphere_chart(2), ring(200_000)), (sphere_chart(3), globe(1500))])
def test_densities_of_a_chart_integrate_to_one_on_the_sphere(chart: Chart, points: tuple[Tensor, float]) -> None:
    z, area = points
    for scale in (0.4, 1.0, 2.0):  # of the last, much is beyond where the uniform density is
        y, log_det = chart.lay_out(z)
        log_prob = log_normal(y / scale) - chart.num_dims * math.log(scale) + log_det
        assert log_prob.exp().sum().item() * area == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("dims", (1, 2))
def test_densities_of_a_chart_integrate_to_one_in_the_box(dims: int) -> None:
    num = 400_000 if dims == 1 else 2000
    axis = 2 * (torch.arange(num).double() + 0.5) / num - 1
    z = torch.cartesian_prod(*[axis] * dims).view(-1, dims)
    y, log_det = BoxChart(dims).lay_out(z)
    torch.testing.assert_close(log_normal(y) + log_det, torch.full((len(z),), -dims * math.log(2)).double())
    log_prob = log_normal((y - 0.3) / 0.7) - dims * math.log(0.7) + log_det
    assert log_prob.exp().mean().item() * 2**dims == pytest.approx(1, abs=1e-4)


def test_the_uniform_sphere_is_nearly_normal_in_its_chart() -> None:
    """What the docstring says of it, in 10 dimensions, by draws: 0.023 nats."""
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(200_000, 10).double(), dim=1)
    y, log_det = sphere_chart(10).lay_out(z)
    std = y.square().mean().sqrt()
    log_ratio = -log_area(10) - log_det - (log_normal(y / std) - 9 * std.log())
    assert log_ratio.mean().item() == pytest.approx(0.023, abs=5 * log_ratio.std().item() / math.sqrt(len(z)) + 5e-4)


@pytest.mark.parametrize("dims", (2, 3, 16))
def test_centre_opposite_point_and_walls_are_finite(dims: int) -> None:
    chart = sphere_chart(dims)
    centre = chart.frame[:, 0]
    near = torch.nn.functional.normalize(torch.stack([centre, -centre]) + 1e-7 * torch.randn(2, dims), dim=1)
    z = torch.cat([torch.stack([centre, -centre]), near]).float().requires_grad_()
    y, log_det = chart.lay_out(z)
    (gradient,) = torch.autograd.grad(log_normal(y).clamp_min(-1e4).sum() + log_det.sum(), z)
    assert y.isfinite().all() and log_det.isfinite().all() and gradient.isfinite().all()
    assert y[0].norm() < 1e-5 and y[1].norm() > 20  # the point opposite is far, not at the centre
    torch.testing.assert_close(chart.place(y), torch.nn.functional.normalize(z.double(), dim=1), atol=1e-6, rtol=0)
    far = chart.place(torch.full((1, dims - 1), 1e6))
    assert far.isfinite().all()
    walls = torch.tensor([[1.0] * dims, [-1.0] * dims, [1.1] * dims])
    y, log_det = BoxChart(dims).lay_out(walls)
    assert y.isfinite().all() and log_det[:2].isfinite().all() and log_det[2] == -math.inf
    assert BoxChart(dims).place(torch.full((1, dims), 1e6)).abs().max() < 1


def test_a_mean_of_nothing_gives_a_chart_all_the_same() -> None:
    chart = SphereChart(3)
    chart.fit(torch.zeros(3).double())
    assert chart.frame[:, 0].tolist() == [1, 0, 0] and (chart.frame.T @ chart.frame - torch.eye(3)).abs().max() < 1e-12
