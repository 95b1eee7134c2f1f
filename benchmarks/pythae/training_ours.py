"""Our side of the training: `stage1_vae.training.train.train` with the Lightning trainer that the pipeline builds.

    python training_ours.py {reference,wide_conv} IMAGES.npy BATCH_SIZE PRECISION COMPILE MEMORY_FORMAT

A round is one epoch, from its start to the end of its last step.
"""

import platform
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from rounds import Rounds
from torch import Tensor, nn

from expost.base.runtime import keep_freed_memory
from expost.cli import CONF
from expost.config.schema import Trainer
from expost.training.trainer import lightning_fit
from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.data.images import Domain, InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.machine import flushed_denormals
from stage1_vae.net import Encoder, Net
from stage1_vae.nets.mlp import MLP
from stage1_vae.nets.products import Convolution, TransposedConvolution
from stage1_vae.objectives.elbo import ELBO
from stage1_vae.training.train import train
from stage1_vae.vae import VAE

ENDLESS = 10**6


def block(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


class WideEncoder(Encoder):
    """Four strided convolutions down to one pixel of 1024 channels."""

    def __init__(self, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.features_shape, self.memory_format = (1024,), memory_format
        sizes = pairwise((1, 128, 256, 512, 1024))
        self.blocks = nn.Sequential(*(block(Convolution(n, m, 4, stride=2, padding=1), m) for n, m in sizes))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.contiguous(memory_format=self.memory_format)).flatten(1)  # [B, 1024]


class WideDecoder(nn.Module):
    """The way back: 4x4 maps of 1024 channels, then 7x7, 14x14, 28x28."""

    def __init__(self, latent_dim: int, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.memory_format = memory_format
        self.linear = nn.Linear(latent_dim, 1024 * 4 * 4)
        self.blocks = nn.Sequential(
            block(TransposedConvolution(1024, 512, 3, stride=2, padding=1), 512),
            block(TransposedConvolution(512, 256, 3, stride=2, padding=1, output_padding=1), 256),
            TransposedConvolution(256, 1, 3, stride=2, padding=1, output_padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        h = self.linear(z).view(-1, 1024, 4, 4)  # [B, 1024, 4, 4]
        return self.blocks(h.contiguous(memory_format=self.memory_format)).contiguous()  # [B, 1, 28, 28]


class WideConv(Net):
    """The layers of pythae's Encoder_Conv_VAE_MNIST and Decoder_Conv_AE_MNIST, for MNIST's shape alone."""

    def __init__(self, memory_format: torch.memory_format) -> None:
        self.memory_format = memory_format

    def encoder(self, image_shape: tuple[int, int, int]) -> Encoder:
        return WideEncoder(self.memory_format).to(memory_format=self.memory_format)

    def decoder(self, latent_shape: tuple[int, ...], output_shape: tuple[int, int, int]) -> nn.Module:
        return WideDecoder(latent_shape[0], self.memory_format).to(memory_format=self.memory_format)


NETS: dict[str, Callable[[torch.memory_format], Net]] = {"reference": lambda _: MLP((512,)), "wide_conv": WideConv}


class Timed(pl.Callback):
    """Makes each epoch a round."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.rounds.begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == trainer.num_training_batches - 1:
            self.rounds.end()


def main(net: str, images: str, batch_size: str, precision: str, compiled: str, memory_format: str) -> None:
    keep_freed_memory()  # as the command line
    facts = {"name": "expost", "torch": torch.__version__, "python": platform.python_version()}
    rounds = Rounds(facts | {"threads": torch.get_num_threads()})
    defaults = Trainer(**yaml.safe_load((CONF / "trainer" / "default.yaml").read_text(encoding="utf-8")))
    settings = defaults.model_copy(
        update={
            "max_epochs": ENDLESS,
            "max_steps": None,
            "val_every": ENDLESS,
            "precision": precision,
            "compile": compiled == "compile",
            "accelerator": "cpu",
        }
    )
    raw = torch.from_numpy(np.load(images, allow_pickle=False))
    split = InMemory(raw, torch.zeros(len(raw), dtype=torch.int64))
    preprocess = Preprocess(256, Domain.UNIT, "none", False)
    batches = Batches(split, preprocess, int(batch_size), shuffle=True, seed=0)
    val_batches = Batches(split, preprocess, int(batch_size), shuffle=False, seed=0)  # required, and never reached
    recipe = NETS[net](getattr(torch, memory_format))
    vae = VAE((1, 28, 28), recipe, partial(Gaussian, latent_dim=16), BernoulliLikelihood())
    fit = lightning_fit(settings, loggers=())

    def with_rounds(*what: Any, callbacks: Iterable[pl.Callback], **options: Any) -> None:
        fit(*what, callbacks=[*callbacks, Timed(rounds)], **options)

    with flushed_denormals():  # as stages are made
        train(vae, ELBO(), batches, val_batches, settings, with_rounds, seed=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
