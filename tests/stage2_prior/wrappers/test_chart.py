"""Priors of real numbers on spheres and in boxes: their densities are by surface or volume, as all others there."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_values import in_box, on_sphere
from torch import Tensor
from training_run import settings as trainer_settings

from expost.base.command import Command
from expost.parts.priors import choose_prior, construct_prior, inner_spec, prior_nodes, why_not, wrapper_nodes
from expost.parts.sections import sized, with_held, written_out
from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitRun, PriorError
from stage2_prior.prior import Prior
from stage2_prior.wrappers.chart import Charted
from stage2_prior.wrappers.johnson import Johnson

SPHERE, BOX, REAL = LatentSpec((3,), Support.SPHERE), LatentSpec((2,), Support.BOX), LatentSpec((3,))
QUICK: dict[str, Any] = {"fit": {"max_epochs": 2}, "hidden": [16, 16]}


def chosen(name: str, spec: LatentSpec) -> dict[str, Any]:
    offered = prior_nodes()
    node = written_out(choose_prior(offered[name], spec, offered, Command()), offered)
    changes = {key: value for key, value in QUICK.items() if key in node}
    return sized(node | changes | ({"num_components": 4} if "num_components" in node else {}), 600)


def run(settings: dict[str, Any] | None = None) -> FitRun:
    return FitRun(
        torch.device("cpu"), 0, lambda figures, step: None, lightning_fit(trainer_settings(), []), settings or {}
    )


def data(spec: LatentSpec, num: int, seed: int) -> LatentDataset:
    make = on_sphere if spec.support is Support.SPHERE else in_box
    return make(num, spec.num_dims, seed)


def fitted(name: str, spec: LatentSpec) -> Prior:
    node = chosen(name, spec)
    torch.manual_seed(0)
    prior = construct_prior(node, spec)
    report = prior.fit(data(spec, 600, 1), data(spec, 200, 2), run(node.get("fit")))
    z = data(spec, 4000, 2).draw(torch.arange(200))
    if report.val_nll_nats is not None:  # figures of a fit are by surface or volume
        assert report.val_nll_nats == pytest.approx(-prior.log_prob(z).mean().item(), abs=0.35)
    return prior.eval()


def grid(spec: LatentSpec) -> tuple[Tensor, Tensor]:
    """Points all over the space, closer by the walls, and the areas that they stand for."""
    axis = 2 * (torch.arange(400).double() + 0.5) / 400 - 1
    first, second = (values.flatten() for values in torch.meshgrid(axis, axis, indexing="ij"))
    if spec.support is Support.SPHERE:
        radius, angle = (1 - first.square()).sqrt(), math.pi * second
        points = torch.stack([radius * angle.cos(), radius * angle.sin(), first], 1)
        return points.float(), torch.full((len(first),), 4 * math.pi / len(first)).double()
    wide = 9 * torch.stack([first, second], 1)
    area = (9 / torch.cosh(wide).square()).prod(1) * 4 / len(first)
    return torch.tanh(wide).float(), area


@pytest.mark.parametrize("name", ["standard_normal", "gaussian", "mixture", "kde", "autoregressive", "realnvp"])
@pytest.mark.parametrize("spec", [SPHERE, BOX], ids=["sphere", "box"])
def test_densities_are_one_on_the_space_and_draws_are_of_them(name: str, spec: LatentSpec) -> None:
    prior = fitted(name, spec)
    assert isinstance(prior, Charted) and prior.spec == spec and prior.inner.spec == replace(REAL, shape=(2,))
    points, area = grid(spec)
    with torch.no_grad():
        log_prob = torch.cat([prior.log_prob(block) for block in points.split(2**14)]).double()
        assert log_prob.exp().mul(area).sum().item() == pytest.approx(1, abs=0.01)
        entropy = -(log_prob.exp() * log_prob * area).nan_to_num(0).sum().item()
        torch.manual_seed(0)
        z = prior.sample(5000)
        nll = -prior.log_prob(z).double()
    assert nll.mean().item() == pytest.approx(entropy, abs=5 * nll.std().item() / math.sqrt(5000) + 0.02)
    if spec.support is Support.SPHERE:
        assert (z.norm(dim=1) - 1).abs().max() < 1e-6
    else:
        assert z.abs().max() < 1
    truth = data(spec, 2000, 5)
    aggregate = truth.log_aggregate(truth.draw(torch.arange(2000)))
    if name in ("mixture", "kde"):
        with torch.no_grad():
            nats = -prior.log_prob(truth.draw(torch.arange(2000))).mean().item()
        assert nats < -aggregate.mean().item() + 0.35


@pytest.mark.parametrize("name", ["gaussian", "autoregressive"])
def test_tails_are_bent_inside_of_a_chart_and_densities_stay_one(name: str) -> None:
    def heavy(num: int, seed: int) -> LatentDataset:
        """Whose tails fall like a power where the box is laid out."""
        generator = torch.Generator().manual_seed(seed)
        size = torch.rand(num, 1, generator=generator).clamp_min(1e-6).rsqrt()
        loc = torch.tanh(0.1 * size * torch.randn(num, 2, generator=generator))
        return LatentDataset(BOX, "delta", {"loc": loc.numpy()})

    test, points, area = heavy(2000, 3).draw(torch.arange(2000)), *grid(BOX)
    nats = {}
    for wrap in (["whiten", "johnson", "chart"], ["whiten", "chart"]):
        torch.manual_seed(0)
        node = chosen(name, BOX) | {"wrap": wrap}
        prior = construct_prior(node, BOX)
        report = prior.fit(heavy(3000, 1), heavy(1000, 2), run(node.get("fit")))
        prior.eval()
        bends = [part.is_bent.all().item() for part in prior.modules() if isinstance(part, Johnson)]
        assert bends == [True] * ("johnson" in wrap)
        with torch.no_grad():
            log_prob = torch.cat([prior.log_prob(block) for block in points.split(2**14)]).double()
            nats[wrap[1]] = -prior.log_prob(test).mean().item()
        assert log_prob.exp().mul(area).sum().item() == pytest.approx(1, abs=0.01)
        assert report.val_nll_nats == pytest.approx(nats[wrap[1]], abs=0.35)
    assert nats["johnson"] < nats["chart"] - 0.3


def test_a_fit_is_reproducible_and_survives_its_state() -> None:
    first, second = fitted("autoregressive", SPHERE), fitted("autoregressive", SPHERE)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    other = construct_prior(chosen("autoregressive", SPHERE), SPHERE).eval()
    other.load_state_dict(first.state_dict())
    z = on_sphere(50, 3, 4).draw(torch.arange(50))
    assert torch.equal(other.log_prob(z), first.log_prob(z))


def test_priors_of_classes_stand_inside_of_the_chart() -> None:
    spec = replace(SPHERE, num_classes=3)
    node = chosen("mixture", spec) | {"conditional": True}
    prior = construct_prior(node, spec)
    train = on_sphere(600, 3, 1, num_classes=3)
    prior.fit(train, on_sphere(200, 3, 2, num_classes=3), run())
    assert isinstance(prior, Charted) and prior.num_classes == 3
    rows = torch.arange(600)
    z = train.draw(rows)
    labels = train.labels
    assert labels is not None
    with torch.no_grad():
        own, other = prior.log_prob(z, labels), prior.log_prob(z, (labels + 1) % 3)
    assert own.mean() > other.mean() + 0.5
    assert prior.sample(6, context=torch.tensor([0, 1, 2, 0, 1, 2])).shape == (6, 3)


def test_which_priors_get_a_chart() -> None:
    offered = prior_nodes()

    def wrap(name: str, spec: LatentSpec) -> list[str]:
        node = choose_prior(offered[name], spec, offered, Command())
        return [Path(wrapper["_target_"]).suffix[1:] for wrapper in wrapper_nodes(node, spec)]

    assert wrap("mixture", SPHERE) == ["Charted"] == wrap("mixture", BOX) and wrap("mixture", REAL) == []
    of_network = ["Whitened", "Johnson", "Defensive"]
    assert wrap("autoregressive", SPHERE) == [*of_network, "Charted"] and wrap("autoregressive", REAL) == of_network
    assert wrap("spherical_mixture", SPHERE) == [] == wrap("uniform", SPHERE) == wrap("uniform", BOX)
    node = offered["mixture"] | {"wrap": ["standardize", "chart"]}
    assert choose_prior(node, SPHERE, offered, Command())["wrap"] == ["standardize", "chart"]
    assert inner_spec(wrapper_nodes(node, SPHERE), SPHERE) == replace(REAL, shape=(2,))
    for name in ("unigram", "spherical_mixture", "pixelcnn"):
        assert (why_not(choose_prior(offered[name], BOX, offered, Command()), BOX) or "").endswith("latents are box")
    assert "vamp_expost" in (why_not(choose_prior(offered["vamp_expost"], BOX, offered, Command()), BOX) or "")
    members = with_held(chosen("ensemble", SPHERE), lambda part: choose_prior(part, SPHERE, offered, Command()))
    ensemble = construct_prior(members, SPHERE)
    assert all(isinstance(part, Charted) for part in ensemble.parts)


def test_a_prior_that_needs_widths_is_refused_before_the_fit() -> None:
    prior = construct_prior(chosen("aggregate", SPHERE), SPHERE)
    with pytest.raises(PriorError, match=r"widen points by prior.bandwidth=held_out"):
        prior.check_family("power_spherical")
