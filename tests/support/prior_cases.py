"""Every `conf/prior/*.yaml` on every kind of latent that it says it models, and latents to fit it to, for tests."""

import copy
import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from training_run import settings as trainer_settings

from expost.parts.priors import construct_prior, prior_nodes, why_not
from expost.parts.sections import sized, with_held, written_out
from expost.training.trainer import lightning_fit
from stage1_vae.latents import DiagonalNormal, LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitRun
from stage2_prior.prior import GradientPrior, Prior, innermost
from stage2_prior.priors.learned import Learned

GROUP = Path(__file__).parents[2] / "conf" / "prior"
NAMES = sorted(path.stem for path in GROUP.glob("*.yaml"))
SPECS = {
    "vector": LatentSpec((2,)),
    "map": LatentSpec((1, 1, 2)),
    "codes": LatentSpec((4,), Support.CODES, ((2, 2),), (3,)),
    "two maps": LatentSpec((4,), Support.CODES, ((1, 1), (1, 3)), (3, 4)),
    "bits": LatentSpec((5,), Support.BITS),
}
"""All small: two real dimensions, or codes few enough to look at every sequence."""
REAL = ("vector", "map")
SMALLER = {"width": 32, "depth": 2, "hidden": [64, 64]}
"""Networks of the usual size would take most of the time of all contract tests."""
NUM = 600
"""Latents of a training set."""


def config_of(name: str) -> DictConfig:
    config = OmegaConf.load(GROUP / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def section(name: str) -> dict[str, Any]:
    """What is in the file, written out, with smaller networks; the priors in it learn for two epochs at most."""
    node: Any = OmegaConf.to_container(config_of(name))
    node |= {"prior": "gaussian"} if name == "learned" else {}  # what a VAE would have learned
    return with_held(smaller(written_out(node, prior_nodes())), quick)


def smaller(node: dict[str, Any]) -> dict[str, Any]:
    return node | {key: value for key, value in SMALLER.items() if key in node}


def quick(node: dict[str, Any]) -> dict[str, Any]:
    few = smaller(node) | ({"fit": node["fit"] | {"max_epochs": 2}} if "fit" in node else {})
    return with_held(few, quick)


def models(name: str, kind: str) -> bool:
    return why_not(section(name), SPECS[kind]) is None


CASES = [(name, kind) for name in NAMES for kind in SPECS if models(name, kind)]
life = pytest.mark.parametrize(("name", "kind"), CASES)
REAL_CASES = [(name, kind) for name, kind in CASES if kind in REAL]
real_life = pytest.mark.parametrize(("name", "kind"), REAL_CASES)


def build(name: str, spec: LatentSpec) -> Prior:
    """The prior that `prior=name` gives, wrappers included."""
    torch.manual_seed(0)
    return construct_prior(sized(section(name), NUM), spec)


def posteriors(num: int, spec: LatentSpec, seed: int) -> LatentDataset:
    """q(z|x_i) around a bent, uncentred cloud whose dimensions have different scales."""
    rng = np.random.default_rng(seed)
    loc = rng.normal(size=(num, spec.num_dims))
    loc[:, 0] += 1.5 * np.sign(rng.normal(size=num))
    loc[:, 1] = 0.4 * loc[:, 1] + 0.3 * np.abs(loc[:, 0]) + 1.0
    log_std = rng.normal(-1.2, 0.2, size=loc.shape)
    params = {"loc": np.float32(loc).reshape(-1, *spec.shape), "log_std": np.float32(log_std).reshape(-1, *spec.shape)}
    return LatentDataset(spec, "diagonal_normal", params)


def discrete(num: int, spec: LatentSpec, seed: int) -> LatentDataset:
    """Codes each of which is mostly the one before it, plus one; or bits of which neighbours mostly differ."""
    rng = np.random.default_rng(seed)
    sizes = [size for (h, w), size in zip(spec.grids, spec.num_codes, strict=True) for _ in range(h * w)] or [2] * 5
    z = np.zeros((num, spec.num_dims), np.int64)
    for t, size in enumerate(sizes):
        fresh = rng.random(num) < (1.0 if t == 0 else 0.3)
        z[:, t] = np.where(fresh, rng.integers(size, size=num) ** 2 // size, (z[:, t - 1] + 1) % size)
    if spec.support is Support.BITS:
        return LatentDataset(spec, "bits", {"logits": (6.0 * z - 3.0).astype(np.float32)})
    return LatentDataset(spec, "codes", {"codes": z.astype(spec.dtype("codes"))})


def data(kind: str, num: int, seed: int) -> LatentDataset:
    return (posteriors if kind in REAL else discrete)(num, SPECS[kind], seed)


def run_for(prior: Prior) -> FitRun:
    """Two epochs, where it learns by gradients."""
    learner = innermost(prior)
    settings = {"max_epochs": 2} if isinstance(learner, GradientPrior) else {}
    fit = lightning_fit(trainer_settings(), [])
    run = FitRun(torch.device("cpu"), 0, lambda figures, step: None, fit, settings)
    if isinstance(prior, Learned):
        learned = copy.deepcopy(prior.inner)
        learned.fit(data("vector", NUM, 1), data("vector", 200, 2), run)
        run = replace(run, learned=learned.state_dict())
    return with_encoder(run, prior.spec) if prior.needs_encoder else run


def with_encoder(run: FitRun, spec: LatentSpec) -> FitRun:
    """The run with images of 4 x 4 pixels, and an encoder of them that has learned nothing."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, spec.num_dims, generator=generator)

    def encode(x: Tensor) -> DiagonalNormal:
        loc = (x.flatten(1) - 0.5) @ weight
        return DiagonalNormal(loc.view(-1, *spec.shape), (loc.tanh() - 1).view(-1, *spec.shape))

    def images(rows: Tensor) -> Tensor:
        return torch.rand(10_000, 1, 4, 4, generator=torch.Generator().manual_seed(1))[rows]

    return replace(run, encoder=encode, images=images)


@functools.cache
def fitted(name: str, kind: str) -> Prior:
    prior = build(name, SPECS[kind])
    report = prior.fit(data(kind, NUM, 1), data(kind, 200, 2), run_for(prior))
    assert report.seconds >= 0
    return prior


RING = SPECS["vector"]
REACH, CELLS = 6.0, 400
"""A grid over the ring."""


def ring(num: int, seed: int) -> LatentDataset:
    """Points at a distance of 2, give or take 0.3, from the origin."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * math.pi, num), rng.normal(2, 0.3, num)
    loc = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return LatentDataset(RING, "delta", {"loc": loc.astype(np.float32)})


def ring_run(**settings: object) -> FitRun:
    fit = lightning_fit(trainer_settings(), [])
    asked = {"batch_size": 256, "learning_rate": 5e-3, "average": 0.98, "precision": "32-true", **settings}
    return FitRun(torch.device("cpu"), 0, lambda figures, step: None, fit, asked)


@torch.no_grad()
def on_grid(prior: Prior) -> tuple[Tensor, Tensor, float]:
    """Points [G, 2], log-densities [G] float64 there, and the area of a cell."""
    axis = torch.linspace(-REACH, REACH, CELLS)
    points = torch.cartesian_prod(axis, axis)
    log_prob = torch.cat([prior.log_prob(block) for block in points.split(2**15)])
    return points, log_prob.double(), float(axis[1] - axis[0]) ** 2
