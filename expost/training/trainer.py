"""The Lightning fit that both stages borrow; it continues from the last epoch end that was kept, as other loops do.

Nothing that is loaded here can run code: checkpoints are looked through before (see `expost.store.checkpoints`) and
read with `weights_only=True` and nothing added to what that allows, states of other loops are safetensors.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.model_helpers import is_overridden
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from expost.base.terminal import turn_loggers_down
from expost.config.schema import Trainer
from expost.store.checkpoints import read_checkpoint
from expost.store.safe import UnsafeError
from expost.store.training_states import TrainingState, TrainingStates, states_in
from expost.training.devices import device_of
from expost.training.progress import bar, show_progress
from stage1_vae.ranks import ALONE, Ranks
from stage2_prior.fitting import FitStates

turn_loggers_down()  # which Lightning has turned up
CHECKPOINT, TENSORS = "ckpt", "safetensors"
OF = "kept_for"
"""Where a state says whose it is."""


def lightning_fit(
    settings: Trainer,
    loggers: Iterable[Logger],
    label: str | None = None,
    overrides: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
    states: TrainingStates | None = None,
    watchers: Iterable[pl.Callback] = (),
) -> Callable[..., None]:
    """What runs Lightning's training loop with this run's hardware and loggers.

    It takes a module, its training and validation batches, and any other keyword of `pytorch_lightning.Trainer`; with
    `resumable=False` it leaves `states` as they are.

    Args:
        settings: the `trainer:` section.
        loggers: figures go to all of them.
        label: of a bar that counts epochs; None: no bar.
        overrides: keywords that win over what a stage asks for (two batches under stage=check).
        ranks: the processes that fit together; this is one of them.
        states: take the ends of epochs, and training continues from the last one; None: neither.
        watchers: callbacks beside those that a stage asks for.
    """
    bars = [EpochBar(label)] if label is not None and show_progress(settings) else []

    def fit(
        module: pl.LightningModule,
        batches: Iterable[Any],
        val_batches: Iterable[Any],
        *,
        callbacks: Iterable[pl.Callback] = (),
        resumable: bool = True,
        **keywords: Any,
    ) -> None:
        kept = states if resumable else None
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
        trainer = base(callbacks=[*callbacks, *bars, *ends, *watchers], **{**keywords, **(overrides or {})})
        state = None
        if kept is not None:
            state = _furthest_state(kept, CHECKPOINT, partial(_checkpoint_complaint, kept.name, module), ranks)
        place = None if state is None else state.path
        trainer.fit(module, batches, val_batches, ckpt_path=place, weights_only=True)

    return fit


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


class EpochBar(pl.Callback):
    """One bar for all epochs: most epochs here are shorter than a glance, and a bar redrawn each step costs time."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar = bar(self.label, True, total=trainer.max_epochs, initial=trainer.current_epoch, unit="epoch")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.update()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


class InPlace(TorchCheckpointIO):
    """Writes a checkpoint where it is told to.

    Lightning's own writes into the system's temporary folder first, where there may be no room, and where a process
    that is killed leaves what it has written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()  # torch does not say which error it met where it writes a file itself
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())


class EpochEnds(Checkpoint):
    """Keeps Lightning's checkpoint at the ends of epochs, as often as `states` finds cheap.

    A `Checkpoint`, so that Lightning calls it behind all else that happens at the end of an epoch. With several ranks
    the first decides and writes; the others come along, because gathering what is written is the work of all.
    """

    def __init__(self, states: TrainingStates, ranks: Ranks) -> None:
        self.states, self.ranks = states, ranks

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.states.start()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[OF] = self.states.name

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        if trainer.should_stop or done >= total:  # the artifact follows at once
            return
        if self.ranks.first(self.states.is_due):
            self.states.keep("epoch", done, total, CHECKPOINT, trainer.save_checkpoint, seal=self.ranks.rank == 0)


def _furthest_state(
    states: TrainingStates, kind: str, complaint: Callable[[Path], str | None], ranks: Ranks
) -> TrainingState | None:
    """The state that rank 0 finds to continue from, on all ranks; None: training starts at its beginning."""
    state = states.find(kind, complaint) if ranks.rank == 0 else None
    done = ranks.first(-1 if state is None else state.done)
    if ranks.rank > 0 and done >= 0:
        state = next(state for state in states_in(states.folder) if state.done == done)
    if state is not None:
        states.say(f"continues after {state.words}")
    return state


def _checkpoint_complaint(name: str, module: pl.LightningModule, path: Path) -> str | None:
    """Why the checkpoint at `path` cannot be continued from; None: it can."""
    try:
        checkpoint = read_checkpoint(path.parent, path.name, max_bytes=path.stat().st_size)  # any that was kept
    except UnsafeError:
        return "is no checkpoint that is safe to read"
    if checkpoint.get(OF) != name:
        return "belongs to something else"
    weights, expected = checkpoint.get("state_dict"), module.state_dict()
    if not isinstance(weights, dict) or weights.keys() != expected.keys():
        return "has other parameters"
    shapes = {key: value.shape for key, value in weights.items() if isinstance(value, Tensor)}
    return None if shapes == {key: value.shape for key, value in expected.items()} else "has other shapes"


class LoopStates(FitStates):
    """What a fit without Lightning's loop keeps between iterations, in files."""

    def __init__(self, states: TrainingStates, ranks: Ranks = ALONE) -> None:
        self.states, self.ranks = states, ranks
        states.start()

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        if self.ranks.rank > 0 or not self.states.is_due:  # all have the same state
            return
        metadata = {OF: self.states.name, "facts": json.dumps(facts)}
        whole = {name: value.contiguous().clone() for name, value in tensors.items()}  # no two may share their memory
        content = save(whole, metadata)  # where safetensors writes a file itself, a kill leaves another one beside it
        self.states.keep("iteration", done, total, TENSORS, lambda path: path.write_bytes(content))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        state = _furthest_state(self.states, TENSORS, partial(_tensors_complaint, self.states.name), self.ranks)
        if state is None:
            return None
        with safe_open(state.path, framework="pt") as file:
            names = file.keys()  # the file itself cannot be walked through
            return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["facts"])


def _tensors_complaint(name: str, path: Path) -> str | None:
    """Why the state at `path` cannot be continued from; None: it can."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        facts = json.loads(metadata.get("facts", "null"))
    except (SafetensorError, ValueError, RecursionError):
        return "is no safetensors file"
    return None if metadata.get(OF) == name and isinstance(facts, dict) else "belongs to something else"
