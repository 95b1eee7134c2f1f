"""Real training runs of small VAEs on the digits, for tests."""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor

from expost.config.schema import Trainer
from expost.store.training_states import TrainingStates
from expost.training.trainer import lightning_fit
from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.data.digits import Digits
from stage1_vae.data.images import ImageData, InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.objective import Objective
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.training.train import train
from stage1_vae.vae import VAE

DEFAULTS: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[2] / "conf/trainer/default.yaml"))
PREPROCESS = Preprocess(levels=17)
STEPS = 10  # an epoch of 1,257 images, 128 a batch


@cache
def digits() -> ImageData:
    return Digits().load()


def settings(**changes: Any) -> Trainer:
    return Trainer(**{**DEFAULTS, "accelerator": "cpu", "progress": False, "max_epochs": 3, "val_every": 1, **changes})


def make_vae(seed: int = 0, bottleneck: type = Gaussian, hidden: int = 64, latent_dim: int = 4) -> VAE:
    torch.manual_seed(seed)
    return VAE((1, 8, 8), MLP([hidden]), partial(bottleneck, latent_dim=latent_dim), BernoulliLikelihood())


def run(
    vae: VAE,
    objective: Objective | None = None,
    seed: int = 0,
    watchers: tuple[pl.Callback, ...] = (),
    train_images: InMemory | None = None,
    val_images: InMemory | None = None,
    preprocess: Preprocess = PREPROCESS,
    shuffle: bool = True,
    states: TrainingStates | None = None,
    **changes: Any,
) -> list[dict[str, float]]:
    """Train `vae` on the digits; its history."""
    data = digits()
    chosen: Any = settings(**changes)  # it says more than training asks for
    fit = lightning_fit(chosen, [], states=states)

    def fit_watched(*what: Any, callbacks: list[pl.Callback], **asked: Any) -> None:
        fit(*what, callbacks=[*callbacks, *watchers], **asked)

    batches = Batches(train_images or data.train, preprocess, chosen.batch_size, shuffle, seed)
    val_batches = Batches(val_images or data.val, preprocess, 500, shuffle=False, seed=0)
    return train(vae, objective or ELBO(), batches, val_batches, chosen, fit_watched, seed)


def weights(vae: VAE) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in vae.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Watch(pl.Callback):
    """Calls `look(vae, trainer)` after each optimiser step and keeps the answers."""

    def __init__(self, look: Callable[[VAE, pl.Trainer], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.seen.append(self.look(module.step.vae, trainer))


def gradient_norm(vae: VAE, trainer: pl.Trainer) -> float:
    return math.sqrt(sum(p.grad.square().sum().item() for p in vae.parameters() if p.grad is not None))


def learning_rate_after(vae: VAE, trainer: pl.Trainer) -> float:
    return trainer.optimizers[0].param_groups[0]["lr"]
