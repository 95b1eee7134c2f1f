"""Averaged weights, and with them every statistic of batches that belongs to weights.

Weights are averaged exponentially, and the decay is warmed up, so that a short run's average is not the weights of its
first steps:

    d_t = min(decay, (1 + t) / (10 + t)),   a <- d_t a + (1 - d_t) w

of t averaged steps (`num_updates` of TensorFlow's `tf.train.ExponentialMovingAverage`). After n steps the first one
counts less than 10! / n^9, and the average reaches back over a ninth of the run until `decay` is reached.

An averaged encoder makes other features than the raw one, so what follows features by batches is not to be taken from
the raw one either: running means and variances of batch normalisation, counts and sums of codebooks, moments of latents
(Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018, section 3.2, pass the data
once more; here they are averaged with the same decay, which costs no pass and no other order of images). What moves by
batches and is none of these is refused: nobody can say which weights it belongs to.
"""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _SpectralNorm

from stage1_vae.statistics import BatchStatistics
from stage1_vae.training.module import TrainingError, VAEModule


class Averages(WeightAveraging):
    """Validates, and keeps in the end, the averages of what a `VAEModule` trains.

    Args:
        decay: of the average, once it is warmed up.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, avg_fn=self._mixed)
        self.decay = decay
        self.share = 1.0
        """Of the raw weights, in the average of this step."""
        self.at_start: dict[str, Tensor] = {}

    def _mixed(self, average: Tensor, raw: Tensor, num_averaged: Tensor | int) -> Tensor:
        return torch.lerp(average, raw, self.share)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, VAEModule)
        self.at_start = {name: value.clone() for name, value in _unclaimed(module.step.vae)}

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *batch: Any) -> None:
        """
        Raises:
            TrainingError: a buffer has moved by the batch that no class claims.
        """
        assert isinstance(module, VAEModule) and self._average_model is not None
        if self.at_start:
            self._check_claimed(module)
        num = trainer.global_step - 1  # of steps before this one
        self.share = 1 - min(self.decay, (1 + num) / (10 + num)) if num else 1.0
        averages = [value.clone() for value in _statistics(self._average_model.module)]
        super().on_train_batch_end(trainer, module, *batch)  # makes the buffers those of the raw model
        for value, average in zip(_statistics(self._average_model.module), averages, strict=True):
            value.copy_(torch.lerp(average, value, self.share))
        for part in self._average_model.module.modules():
            if isinstance(part, BatchStatistics):
                part.settle_statistics()

    def _check_claimed(self, module: VAEModule) -> None:
        """Look once, behind the first step."""
        moved = [name for name, value in _unclaimed(module.step.vae) if not torch.equal(value, self.at_start[name])]
        self.at_start = {}
        if moved:
            raise TrainingError(
                f"trainer.ema_decay={self.decay:g}: {', '.join(moved[:3])} of this VAE is moved by batches and would "
                "be kept beside averaged weights that it does not belong to: set trainer.ema_decay=null, or let its "
                "class derive from stage1_vae.statistics.BatchStatistics and name it"
            )


def _statistics(module: nn.Module) -> Iterator[Tensor]:
    """What batches move, in the order of modules."""
    for part in module.modules():
        yield from (value for name in _claimed(part) if (value := getattr(part, name)) is not None)


def _claimed(part: nn.Module) -> tuple[str, ...]:
    if isinstance(part, _BatchNorm):
        return ("running_mean", "running_var")
    return part.statistics if isinstance(part, BatchStatistics) else ()


def _unclaimed(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers of real numbers that no class claims; a number by itself counts steps, and is the raw model's, as are the
    directions of spectral norms, which follow weights."""
    for place, part in module.named_modules():
        if isinstance(part, _SpectralNorm):
            continue
        for name, value in part.named_buffers(recurse=False):
            is_kept = name not in part._non_persistent_buffers_set and value.is_floating_point() and value.ndim > 0
            if is_kept and name not in _claimed(part):
                yield f"{place}.{name}".strip("."), value
