"""Lightning glue of stage 1: one objective, its figures, its optimiser. No maths."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim.lr_scheduler import LRScheduler

from stage1_vae.codes.codebook import Codebook
from stage1_vae.codes.usage import EpochFigures
from stage1_vae.errors import ExpostError
from stage1_vae.machine import seed_generators
from stage1_vae.objective import SCHEDULES_DONE, Objective, Terms
from stage1_vae.ranks import ranks_here
from stage1_vae.training.settings import Settings
from stage1_vae.vae import VAE


class TrainingError(ExpostError, RuntimeError):
    """Training cannot go on; one line that says where it broke and what to try."""


@dataclass
class Means:
    """Running means of named figures, kept on the device until they are read."""

    totals: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, figures: dict[str, Tensor], weight: int = 1) -> None:
        self.count += weight
        for name, value in figures.items():
            value = value * weight if weight != 1 else value
            self.totals[name] = self.totals[name] + value if name in self.totals else value

    def read(self, prefix: str) -> dict[str, float]:
        """The means, of all ranks together where there are several: each reads the same and decides alike."""
        totals, count, ranks = self.totals, torch.tensor(self.count), ranks_here()
        if ranks.world > 1:
            summed = ranks.sum(torch.stack([*totals.values(), count.to(next(iter(totals.values())))]).double())
            totals, count = dict(zip(totals, summed[:-1], strict=True)), summed[-1]
        means = {f"{prefix}{name}": (total / count).item() for name, total in totals.items()}
        self.totals, self.count = {}, 0
        return means


class Step(nn.Module):
    """x [B, C, H, W], step -> Terms and their batch means in nats per image: one compiled graph."""

    def __init__(self, vae: VAE, objective: Objective, bf16: bool) -> None:
        super().__init__()
        self.vae, self.objective, self.bf16 = vae, objective, bf16

    def forward(self, x: Tensor, step: int | Tensor) -> tuple[Terms, dict[str, Tensor]]:
        # A context of autocast costs a small step 1 %, also where it is not enabled.
        with torch.autocast(x.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            terms = self.objective(self.vae, x, step)
        figures = {"loss": terms.loss.detach(), "distortion_nats": terms.distortion.detach().mean()}
        if terms.rate is not None:
            figures["rate_nats"] = terms.rate.detach().mean()
        return terms, figures | {name: value.detach() for name, value in terms.extras.items()}

    def eager(self, x: Tensor, step: int | Tensor) -> tuple[Terms, dict[str, Tensor]]:
        """The same without compilation: a size that comes once is not worth it."""
        return self(x, step) if isinstance(self, FSDPModule) else self.forward(x, step)  # FSDP hooks onto calls

    def compile_if_possible(self) -> None:
        """Compile in place, or stay eager where the machine has no C++ compiler: small nets lose a tenth by that."""
        try:
            torch.compile(lambda x: x + 1)(torch.ones(2))
        except torch._dynamo.exc.TorchDynamoException:
            return
        self.compile(dynamic=False)


class VAEModule(pl.LightningModule):
    """Trains `vae` on `objective`, a stretch of batches at a time (see `stage1_vae.training.train`).

    Args:
        vae, objective: what is trained, on what.
        settings: how.
        total_steps: optimiser steps of the whole run, for the schedule.
        seed: of the noise; each epoch reseeds, so that an epoch draws the same whatever ran before it, and
            every rank its own.
        batch_size: of a full batch; any other goes the eager way, since each new size would be compiled anew.
    """

    def __init__(
        self, vae: VAE, objective: Objective, settings: Settings, total_steps: int, seed: int, batch_size: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one call of training_step is many steps
        self.step = Step(vae, objective, settings.precision == "bf16")
        if settings.compile and objective.compiles:
            self.step.compile_if_possible()
        self.settings, self.total_steps, self.seed, self.batch_size = settings, total_steps, seed, batch_size
        self.history: list[dict[str, float]] = []
        self._train, self._val = Means(), Means()
        self._books = [part for part in vae.modules() if isinstance(part, Codebook)]  # that have not started yet

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def on_train_start(self) -> None:
        for row in self.history:  # of an earlier attempt, so that the loggers' curves are whole
            self._tell({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))

    def configure_model(self) -> None:
        """Under Lightning's strategy for it, cut parameters, gradients and optimiser state up over the ranks (FSDP2).

        The step is one unit: its parameters are whole while it runs, and only then.
        """
        mesh = self.device_mesh
        if mesh is not None and not isinstance(self.step, FSDPModule):
            fully_shard(self.step, mesh=mesh["data_parallel"])

    def on_train_epoch_start(self) -> None:
        seed_generators(self.seed * 1_000_003 + self.current_epoch + self.global_rank * 2**40, self.device)

    def on_train_batch_start(self, batch: Iterable[tuple[Tensor, Tensor | None]], batch_idx: int) -> int | None:
        # Lightning's own `max_steps` repeats a batch where training continues from the end of an epoch.
        return -1 if self._is_over else None

    @property
    def _is_over(self) -> bool:
        return self.settings.max_steps is not None and self.global_step >= self.settings.max_steps

    def training_step(self, batch: Iterable[tuple[Tensor, Tensor | None]], batch_idx: int) -> None:
        optimizer = cast(LightningOptimizer, self.optimizers())
        scheduler = cast(LRScheduler | None, self.lr_schedulers())
        in_ranks = ranks_here().world > 1
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        backward = self.manual_backward if in_ranks else Tensor.backward  # Lightning's costs a small step 2 %
        for x, _ in batch:
            if self._is_over:
                return
            loss = self._loss(x)
            for parameter in parameters:  # a tenth of what the optimiser's own way of it costs
                parameter.grad = None
            backward(loss)
            if self.settings.gradient_clip is not None:
                nn.utils.clip_grad_norm_(self.parameters(), self.settings.gradient_clip)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        self._average_statistics()

    def _average_statistics(self) -> None:
        """Give all ranks the same running statistics: each has seen other images."""
        ranks = ranks_here()
        if ranks.world == 1:
            return
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                for statistic in (layer.running_mean, layer.running_var):
                    if statistic is not None:
                        statistic.copy_(ranks.sum(statistic.clone()) / ranks.world)

    def _loss(self, x: Tensor) -> Tensor:
        """The loss of one batch, its figures counted."""
        self.step.objective.before_step(self.global_step)
        now = torch.tensor(self.global_step)
        compiled = len(x) == self.batch_size and self._has_started()
        terms, figures = self.step(x, now) if compiled else self.step.eager(x, now)
        self._check_finite(terms, x)
        self._train.add(figures)
        return terms.loss

    def _has_started(self) -> bool:
        """Whether all codebooks have seen the first batch, on which they are laid out: no work for a compiled step."""
        if self._books:
            self._books = [book for book in self._books if not book.has_started]
        return not self._books

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        x, _ = batch
        if not len(x):  # of a last batch with fewer images than ranks
            return
        terms, figures = self.step.eager(x, SCHEDULES_DONE)
        self._check_finite(terms, x)
        self._val.add(figures, weight=len(x) if ranks_here().world > 1 else 1)  # shares of a batch differ by an image

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking or self._val.count == 0:
            return
        figures = self._val.read("val_")
        self._record(figures)
        self.log("val_loss", figures["val_loss"], logger=False, batch_size=1)  # what early stopping watches

    def on_train_epoch_end(self) -> None:
        figures = self._train.read("train_")
        for module in self.step.vae.modules():
            if isinstance(module, EpochFigures):
                figures |= module.read()
        self._record(figures)

    def _record(self, figures: dict[str, float]) -> None:
        """Add to the history of this epoch and tell the loggers."""
        epoch = self.current_epoch
        if not self.history or self.history[-1]["epoch"] != epoch:
            self.history.append({"epoch": epoch})
        self.history[-1] |= figures
        self._tell(figures, epoch)

    def _tell(self, figures: dict[str, float], epoch: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=epoch)

    def _check_finite(self, terms: Terms, x: Tensor) -> None:
        if math.isfinite(terms.loss.item()):
            return
        suspects: dict[str, Tensor | None] = {"the images": x}  # causes before their effects
        suspects |= {f"parameter {name}": value for name, value in self.step.vae.named_parameters()}
        suspects |= {f"parameter {name} of the objective": p for name, p in self.step.objective.named_parameters()}
        suspects |= {"the rate": terms.rate, "the distortion": terms.distortion}
        guilty = [name for name, value in suspects.items() if value is not None and not torch.isfinite(value).all()]
        where = guilty[0] if guilty else "the loss"
        raise TrainingError(
            f"{where} became NaN or infinite at step {self.global_step} (epoch {self.current_epoch}); "
            "try a smaller trainer.lr or trainer.gradient_clip=1"
        )

    def configure_optimizers(self) -> Any:
        settings = self.settings
        optimizer_class = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
        optimizer = optimizer_class(self.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        if settings.schedule == "constant" and not settings.warmup_steps:
            return {"optimizer": optimizer}

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
            fall = 0.5 * (1 + math.cos(min(1.0, step / self.total_steps) * math.pi))
            return rise * (fall if settings.schedule == "cosine" else 1.0)

        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}


class BestWeights(pl.Callback):
    """Keeps the weights of the lowest validation loss and puts them back at the end: what early stopping is for.

    Stands behind weight averaging in the list of callbacks, so that it sees the weights that are validated.
    """

    def __init__(self) -> None:
        self.best = float("inf")
        self.weights: dict[str, Tensor] = {}
        self.validated: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.validated = {name: value.clone() for name, value in module.state_dict().items()}

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if not trainer.sanity_checking and loss < self.best:
            self.best = loss
            self.weights = self.validated

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.weights:
            module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.weights = state["best"], state["weights"]
