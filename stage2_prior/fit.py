"""The one training loop of stage 2: minimise `prior.loss` over fresh z ~ q(z|x).

Every epoch draws new z for every image, so what is fitted is the aggregate posterior and not a noisy copy of it.
Optimiser: AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019) with a linear warm-up and a cosine
to zero. What is measured, kept and returned is a running average of the weights (Polyak & Juditsky, 1992), at the epoch
where it is best on draws of the validation set that stay the same throughout. Where the loss is in nats, and
`max_tokens` is no limit, what the prior begins as counts too: one that begins near the Gaussian of the latents ends no
worse than there.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from stage1_vae.latents import DiagonalNormal, LatentDataset, Posterior, Support
from stage1_vae.machine import is_bf16_faster, seed_generators
from stage1_vae.ranks import ALONE, Ranks
from stage1_vae.rows import spread_rows
from stage2_prior.fitting import Density, FitReport, FitRun, FitSettings, PriorError, Stopwatch
from stage2_prior.held_out import check_finite, report

Batch = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Draws, labels or rows, and the parameters of the posteriors that they are of; empty where those are not normal."""
DRAW_AHEAD = 16
"""Batches that are drawn at once: one indexing operation for all of them."""
HELD_OUT_BYTES = 2**26
"""Draws of the validation set that are kept in memory."""


class Learner(Density, Protocol):
    """What the loop asks of a prior, a module: `stage2_prior.prior.GradientPrior`."""

    num_classes: int
    loss_is: str

    def prepare(self, train: LatentDataset) -> None: ...
    def train(self) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, device: torch.device) -> Self: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def loss_of_draws(self, z: Tensor, context: Tensor | None, posterior: DiagonalNormal | None) -> Tensor: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class FreshBatches:
    """One epoch after another of batches, each z ~ q(z|x) drawn anew, in random order.

    Several ranks draw the same, and each keeps its share of every batch: what they fit together is what one would.

    Args:
        latents: the training set.
        size: of a batch, of all ranks together, who divide it without rest.
        ranks: of whom this is one.
        steps: batches of an epoch; None: all that are full.
    """

    def __init__(self, latents: LatentDataset, size: int, ranks: Ranks = ALONE, steps: int | None = None) -> None:
        self.latents, self.size, self.ranks = latents, size, ranks
        self.steps = max(1, len(latents) // size) if steps is None else steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        labels = self.latents.labels
        num = len(self) * self.size  # the ragged rest waits for another epoch
        for rows, posterior in self.latents.epoch(DRAW_AHEAD * self.size, num=num):
            context = rows if labels is None else labels[rows]
            yield from in_batches(posterior, posterior.sample(), context, self.size, self.ranks.share)


class FixedDraws:
    """The same draws of the validation set each time, in blocks.

    Args:
        latents: the validation set.
        num: draws, at least; a smaller set is drawn repeatedly, unless all draws of a latent are the same. Of one whose
            draws pass 64 MiB, as many rows as fit there are drawn, evenly spread.
        size: of a block.
        ranks: of whom each keeps its share of every block.
        limit: draws, at most; None: no other limit.
    """

    def __init__(
        self, latents: LatentDataset, num: int, size: int, ranks: Ranks = ALONE, limit: int | None = None
    ) -> None:
        num = num if limit is None else min(num, limit)
        most = max(num, HELD_OUT_BYTES // (4 * latents.spec.num_dims)) if limit is None else limit
        repeats = 1 if latents.is_certain else max(1, math.ceil(num / len(latents)))
        rows = spread_rows(len(latents), most).repeat(repeats)
        labels = rows if latents.labels is None else latents.labels[rows]
        posterior = latents.posterior(rows)
        self.blocks = list(in_batches(posterior, posterior.sample(), labels, size, ranks.share))

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.blocks)


def in_batches(
    posterior: Posterior, z: Tensor, context: Tensor, size: int, share: Callable[[int], slice]
) -> Iterator[Batch]:
    """Draws and what they are of, [N, ...], by `size`: of each batch the rows that a rank keeps."""
    params = {"loc": posterior.loc, "log_std": posterior.log_std} if isinstance(posterior, DiagonalNormal) else {}
    for start in range(0, len(z), size):
        batch = slice(start, start + size)
        kept = share(len(z[batch]))
        yield z[batch][kept], context[batch][kept], {name: values[batch][kept] for name, values in params.items()}


class PriorTraining(LightningModule):
    """Glue between a prior and Lightning; the running average, the best of it, and when to stop."""

    def __init__(
        self,
        prior: Learner,
        held_out: FixedDraws,
        settings: FitSettings,
        run: FitRun,
        labelled: bool,
        watch: Stopwatch,
    ) -> None:
        super().__init__()
        self.held_out = held_out
        self.prior = prior.train()
        self.unregistered = {"average": copy.deepcopy(prior).eval()}  # in a dict: Lightning must not train or save it
        self.settings, self.fit_run, self.labelled, self.watch = settings, run, labelled, watch
        self.best_of_epochs = math.inf  # patience is with these; what the fit begins as may be better than all
        self.curve: list[dict[str, float]] = []
        self.best, self.best_state, self.best_epoch = math.inf, copy.deepcopy(prior.state_dict()), 0
        self.stopped = ""
        self.train_losses: list[Tensor] = []
        self.val_losses: list[Tensor] = []

    @property
    def average(self) -> Learner:
        return self.unregistered["average"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = self.average.state_dict()
        checkpoint["best"] = {"value": self.best, "epoch": self.best_epoch, "state": self.best_state}
        checkpoint["best_of_epochs"] = self.best_of_epochs
        checkpoint["curve"], checkpoint["seconds"] = self.curve, self.watch.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.average.load_state_dict(checkpoint["average"])
        best = checkpoint["best"]
        self.best, self.best_epoch, self.best_state = best["value"], best["epoch"], best["state"]
        self.best_of_epochs = checkpoint["best_of_epochs"]
        self.curve = checkpoint["curve"]
        self.watch.go_on_from(checkpoint["seconds"])

    def on_fit_start(self) -> None:
        self.average.to(self.device)
        is_unlimited = self.settings.max_tokens is None  # a limit leaves no look to spare
        if not self.curve and self.prior.loss_is == "nats" and is_unlimited:
            self.best = self._first_value()

    @torch.no_grad()
    def _first_value(self) -> float:
        """The held-out figure before the first step; infinite where it is none."""
        batches = (self.transfer_batch_to_device(batch, self.device, 0) for batch in self.held_out if len(batch[0]))
        losses = [self._losses(self.average, batch).double() for batch in batches]
        value = self.fit_run.ranks.mean(torch.cat(losses))
        return value if math.isfinite(value) else math.inf

    def on_train_start(self) -> None:
        for row in self.curve:  # of an earlier attempt, so that the loggers' curves are whole
            self.fit_run.log({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))

    def on_train_epoch_start(self) -> None:
        seed_generators(self.fit_run.seed * 1_000_003 + self.current_epoch, self.device)  # whatever ran before

    def configure_gradient_clipping(self, *_: object, **__: object) -> None:
        # Lightning's own clipping refuses fused optimisers under mixed precision; bfloat16 needs no unscaling.
        torch.nn.utils.clip_grad_norm_(self.prior.parameters(), self.settings.clip)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        parameters = list(self.prior.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.learning_rate, fused=True)
        total = int(self.trainer.estimated_stepping_batches)
        warm = max(1, round(self.settings.warmup * total))

        def factor(step: int) -> float:
            return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _losses(self, prior: Learner, batch: Batch) -> Tensor:
        z, labels, params = batch
        return prior.loss_of_draws(z, labels if self.labelled else None, DiagonalNormal(**params) if params else None)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self._losses(self.prior, batch).mean()
        if not torch.isfinite(loss):
            scaled = self.prior.spec.support is Support.REAL  # codes and bits have no scale
            raise PriorError(
                f"the loss of the prior is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}): "
                "lower prior.fit.learning_rate"
                + (", or standardise the latents with prior.wrap=[standardize]" if scaled else "")
            )
        self.train_losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        step = self.global_step
        decay = min(self.settings.average, step / (step + 10))  # the first weights are soon forgotten
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.prior.parameters()), 1 - decay)

    def validation_step(self, batch: Batch, index: int) -> None:
        if len(batch[0]):  # of a block with fewer latents than ranks, some have none
            self.val_losses.append(self._losses(self.average, batch).double())

    def on_validation_epoch_end(self) -> None:
        ranks = self.fit_run.ranks
        value = ranks.mean(torch.cat(self.val_losses))
        self.val_losses.clear()
        if self.trainer.sanity_checking:
            return
        what = "nll_nats" if self.prior.loss_is == "nats" else "loss"
        figures = {f"train_{what}": ranks.mean(torch.stack(self.train_losses)), f"val_{what}": value}
        self.train_losses.clear()
        self.curve.append({"epoch": self.current_epoch, **figures})
        self.fit_run.log(figures, self.current_epoch)
        if value < self.best_of_epochs:
            self.best_of_epochs, self.best_epoch = value, self.current_epoch
        if value < self.best:
            self.best = value
            self.best_state = copy.deepcopy(self.average.state_dict())
        seconds, limit = ranks.first(self.watch.seconds), self.settings.max_seconds
        if self.current_epoch - self.best_epoch >= self.settings.patience:
            self.stopped = (
                f"stopped after epoch {self.current_epoch + 1}: best held-out figure at {self.best_epoch + 1}"
            )
        elif limit is not None and seconds > limit:
            self.stopped = f"stopped after epoch {self.current_epoch + 1} at the limit of {limit:g} seconds"
        self.trainer.should_stop |= bool(self.stopped)  # a watcher may have asked for it too


def fit_by_gradient(prior: Learner, train: LatentDataset, val: LatentDataset, run: FitRun) -> FitReport:
    """Minimise `prior.loss` on `train` and leave in `prior` the averaged weights that are best on `val`.

    Reproducible: the same seed gives the same weights. Torch's global generator is left as it was found.

    Raises:
        PriorError: for unknown settings, latents that are not finite, or a loss that becomes NaN or infinite.
    """
    watch = Stopwatch()
    settings = FitSettings.of(run)
    check_finite(train, "training")
    check_finite(val, "validation")
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(run.seed)
        course = settings.course(len(train), train.spec.num_dims, run.ranks)
        held_out = FixedDraws(val, settings.val_draws, 4096, run.ranks, course.held_out)
        prior.prepare(train)
        batches = FreshBatches(train, course.batch_size, run.ranks, course.steps)
        module = PriorTraining(prior, held_out, settings, run, labelled=prior.num_classes > 0, watch=watch)
        precision = settings.precision
        if precision == "auto":
            precision = "bf16-mixed" if is_bf16_faster(run.device) else None
        options = {} if precision is None else {"precision": precision}  # else the run's own
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # inside Lightning, with newer torch
            run.lightning_fit(module, batches, held_out, max_epochs=course.epochs, **options)
        prior.to(run.device).load_state_dict(module.best_state)
        prior.eval()
    notes = [module.stopped] if module.stopped else []
    if module.curve and module.best < min(row.get("val_nll_nats", -math.inf) for row in module.curve):
        notes.append("no epoch was better on held-out latents than where the network began, which is what is kept")
    return report(prior, train, val, run, watch.seconds, module.curve, notes, settings.max_tokens)
