"""Lightning glue of stage 1: one objective, its figures, its optimiser. No maths."""

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from stage1_vae.objective import Objective, Terms
from stage1_vae.vae import VAE

SCHEDULES_DONE = 2**31
"""The step that validation looks from: a loss whose weights still warm up would make the first epochs the best."""


class TrainingError(RuntimeError):
    """Training cannot go on; one line that says where it broke and what to try."""


@dataclass
class Means:
    """Running means of named figures, kept on the device until they are read."""

    totals: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, figures: dict[str, Tensor]) -> None:
        self.count += 1
        for name, value in figures.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value

    def read(self, prefix: str) -> dict[str, float]:
        means = {f"{prefix}{name}": (total / self.count).item() for name, total in self.totals.items()}
        self.totals, self.count = {}, 0
        return means


def figures_of(terms: Terms) -> dict[str, Tensor]:
    """Batch means of an objective's terms, in nats per image."""
    figures = {"loss": terms.loss.detach(), "distortion_nats": terms.distortion.detach().mean()}
    if terms.rate is not None:
        figures["rate_nats"] = terms.rate.detach().mean()
    return figures | {name: value.detach() for name, value in terms.extras.items()}


class Step(nn.Module):
    """x [B, C, H, W], step -> Terms: all that a training step computes, so that it can be compiled as one graph."""

    def __init__(self, vae: VAE, objective: Objective, bf16: bool) -> None:
        super().__init__()
        self.vae, self.objective, self.bf16 = vae, objective, bf16

    def forward(self, x: Tensor, step: int | Tensor) -> Terms:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.objective(self.vae, x, step)

    def compile_if_possible(self) -> None:
        """Compile in place, or stay eager where the machine has no C++ compiler: small nets lose a tenth by that."""
        try:
            torch.compile(_probe)(torch.ones(2))
        except torch._dynamo.exc.TorchDynamoException:
            return
        self.compile(dynamic=False)


def _probe(x: Tensor) -> Tensor:
    return x + 1


class VAEModule(pl.LightningModule):
    """Trains `vae` on `objective`.

    Args:
        vae, objective: what is trained, on what.
        lr, weight_decay: of Adam (decoupled weight decay where it is not zero).
        schedule: `constant` or `cosine`, down to zero at the last step.
        warmup_steps: optimiser steps over which the learning rate rises.
        seed: of the noise; each epoch reseeds, so that an epoch draws the same whatever ran before it.
        batch_size: of a full batch; any other goes the eager way, since each new size would be compiled anew.
        bf16: run the nets in bfloat16 where autocast allows it. The module does this itself: inside the compiled step
            it costs nothing, and Lightning's own precision plugin adds a tenth to a small step.
        compiled: compile the whole step; without a C++ compiler the step runs as it is.
    """

    def __init__(
        self,
        vae: VAE,
        objective: Objective,
        lr: float,
        weight_decay: float,
        schedule: str,
        warmup_steps: int,
        seed: int,
        batch_size: int,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.step = Step(vae, objective, bf16)
        if compiled:
            self.step.compile_if_possible()
        self.lr, self.weight_decay, self.schedule, self.warmup_steps = lr, weight_decay, schedule, warmup_steps
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self._train, self._val = Means(), Means()

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> Tensor:
        x, _ = batch
        full = len(x) == self.batch_size
        now = torch.tensor(self.global_step)
        terms = self.step(x, now) if full else self.step.forward(x, now)
        if not torch.isfinite(terms.loss):
            raise TrainingError(self._diagnosis(terms, x))
        self._train.add(figures_of(terms))
        return terms.loss

    def validation_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> None:
        x, _ = batch
        terms = self.step.forward(x, SCHEDULES_DONE)
        if not torch.isfinite(terms.loss):
            raise TrainingError(self._diagnosis(terms, x))
        self._val.add(figures_of(terms))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking or self._val.count == 0:
            return
        figures = self._val.read("val_")
        self._record(figures)
        self.log("val_loss", figures["val_loss"], logger=False, batch_size=1)  # what early stopping watches

    def on_train_epoch_end(self) -> None:
        self._record(self._train.read("train_"))

    def _record(self, figures: dict[str, float]) -> None:
        """Add to the history of this epoch and tell the loggers."""
        epoch = self.current_epoch
        if not self.history or self.history[-1]["epoch"] != epoch:
            self.history.append({"epoch": epoch})
        self.history[-1] |= figures
        for logger in self.trainer.loggers:
            logger.log_metrics(figures, step=epoch)

    def _diagnosis(self, terms: Terms, x: Tensor) -> str:
        suspects: dict[str, Tensor | None] = {"the images": x}  # causes before their effects
        suspects |= {f"parameter {name}": value for name, value in self.step.vae.named_parameters()}
        suspects |= {"the rate": terms.rate, "the distortion": terms.distortion}
        guilty = [name for name, value in suspects.items() if value is not None and not torch.isfinite(value).all()]
        where = guilty[0] if guilty else "the loss"
        return (
            f"{where} became NaN or infinite at step {self.global_step} (epoch {self.current_epoch}); "
            "try a smaller trainer.lr or trainer.gradient_clip=1"
        )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW if self.weight_decay else torch.optim.Adam
        chosen = optimizer(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if self.schedule == "constant" and not self.warmup_steps:
            return {"optimizer": chosen}
        total = max(1, int(self.trainer.estimated_stepping_batches))

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
            fall = 0.5 * (1 + torch.cos(torch.tensor(step / total * torch.pi)).item())
            return rise * (fall if self.schedule == "cosine" else 1.0)

        scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, factor)
        return {"optimizer": chosen, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
