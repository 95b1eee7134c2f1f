"""A density in two dimensions that no Gaussian is: a ring, and a grid over it."""

import math

import numpy as np
import torch
from torch import Tensor
from training_run import settings as trainer_settings

from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitRun
from stage2_prior.prior import Prior

SPEC = LatentSpec((2,))
REACH, CELLS = 6.0, 400


def ring(num: int, seed: int) -> LatentDataset:
    """Points at a distance of 2, give or take 0.3, from the origin."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * math.pi, num), rng.normal(2, 0.3, num)
    loc = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return LatentDataset(SPEC, "delta", {"loc": loc.astype(np.float32)})


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
