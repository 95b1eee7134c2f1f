"""What this machine computes on, and the Lightning fit that both stages borrow."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.model_helpers import is_overridden

from expost.base.errors import UserError
from expost.config.schema import Trainer
from expost.store.training_states import Keeper
from expost.training.progress import EpochBar, show_progress
from expost.training.resume import EpochEnds, InPlace, checkpoint_of
from stage1_vae.machine import has_native_bf16
from stage1_vae.ranks import ALONE, Ranks


def device_of(settings: Trainer) -> torch.device:
    """Where tensors of a stage live.

    Raises:
        UserError: a GPU was asked for and there is none.
    """
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu: no GPU here; use trainer.accelerator=cpu or auto")
    use_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    if use_gpu and settings.devices > (num := torch.cuda.device_count()):
        raise UserError(f"trainer.devices={settings.devices}: {num} GPU(s) here; use trainer.devices={num} or fewer")
    return torch.device("cuda" if use_gpu else "cpu")


def resolved_precision(settings: Trainer) -> str:
    """`settings.precision` with `auto` decided for this machine: "32" or "bf16"."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if has_native_bf16(device_of(settings)) else "32"


def placement(settings: Trainer, ranks: Ranks, can_shard: bool) -> dict[str, Any]:
    """What Lightning is told of ranks, whatever it would guess from the environment."""
    if ranks.world == 1:
        # A launcher's variables may have called this process another one; Lightning keeps its answer on the function.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
        return {"devices": 1, "plugins": [LightningEnvironment(), InPlace()]}
    strategy: Strategy = DDPStrategy(broadcast_buffers=False)  # the modules agree on theirs
    if can_shard and settings.strategy == "fsdp":
        strategy = ModelParallelStrategy(ranks.world, 1, save_distributed_checkpoint=False)
    return {
        "devices": settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": strategy,
        "plugins": [TorchElasticEnvironment(), InPlace()],  # RANK and its like, which are set for this process
        "use_distributed_sampler": False,  # the batches are shares already
    }


def lightning_fit(
    settings: Trainer,
    loggers: Iterable[Logger],
    label: str | None = None,
    overrides: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
    keeper: Keeper | None = None,
    watchers: Iterable[pl.Callback] = (),
) -> Callable[..., None]:
    """What runs Lightning's training loop with this run's hardware and loggers.

    It takes a module, its training and validation batches, and any other keyword of `pytorch_lightning.Trainer`; with
    `keeps=False` it leaves `keeper` alone.

    Args:
        settings: the `trainer:` section.
        loggers: figures go to all of them.
        label: of a bar that counts epochs; None: no bar.
        overrides: keywords that win over what a stage asks for (two batches under stage=check).
        ranks: the processes that fit together; this is one of them.
        keeper: ends of epochs are kept there, and training continues from the last one; None: neither.
        watchers: callbacks beside those that a stage asks for.
    """
    bars = [EpochBar(label)] if label is not None and show_progress(settings) else []
    forced = overrides or {}

    def fit(
        module: pl.LightningModule,
        batches: Iterable[Any],
        val_batches: Iterable[Any],
        *,
        callbacks: Iterable[pl.Callback] = (),
        keeps: bool = True,
        **asked: Any,
    ) -> None:
        kept = keeper if keeps else None
        base = partial(
            pl.Trainer,
            accelerator="gpu" if device_of(settings).type == "cuda" else "cpu",
            **placement(settings, ranks, can_shard=is_overridden("configure_model", module)),
            logger=list(loggers) or False,
            enable_checkpointing=kept is not None,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10**9,  # figures are written once an epoch, by the modules
        )
        ends = [] if kept is None else [EpochEnds(kept, ranks)]
        trainer = base(callbacks=[*callbacks, *bars, *ends, *watchers], **{**asked, **forced})
        found = None if kept is None else checkpoint_of(kept, module, ranks)
        place = None if found is None else found.path
        trainer.fit(module, batches, val_batches, ckpt_path=place, weights_only=True)

    return fit
