"""Training that continues from the last epoch end that was kept: of Lightning's loop, and of loops that are not its.

Nothing that is loaded here can run code: checkpoints are looked through before (see `expost.store.checkpoints`) and
read with `weights_only=True` and nothing added to what that allows, states of other loops are safetensors.
"""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from expost.store.checkpoints import read_checkpoint
from expost.store.safe import UnsafeError
from expost.store.training_states import Keeper, State, states
from stage1_vae.ranks import ALONE, Ranks

CHECKPOINT, TENSORS = "ckpt", "safetensors"
OF = "kept_for"
"""Where a state says whose it is."""


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
    """Keeps Lightning's checkpoint at the ends of epochs, as often as `keeper` finds cheap.

    A `Checkpoint`, so that Lightning calls it behind all else that happens at the end of an epoch. With several ranks
    the first decides and writes; the others come along, because gathering what is written is the work of all.
    """

    def __init__(self, keeper: Keeper, ranks: Ranks) -> None:
        self.keeper, self.ranks = keeper, ranks

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.keeper.starts()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[OF] = self.keeper.name

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        if trainer.should_stop or done >= total:  # the artifact follows at once
            return
        if self.ranks.first(self.keeper.is_due):
            self.keeper.keep("epoch", done, total, CHECKPOINT, trainer.save_checkpoint, seal=self.ranks.rank == 0)


def checkpoint_of(keeper: Keeper, module: pl.LightningModule, ranks: Ranks) -> State | None:
    """The checkpoint from which `module` continues, the same on all ranks; None: training starts at its beginning."""
    return _furthest(keeper, CHECKPOINT, lambda path: _complaint(path, keeper.name, module), ranks)


def _furthest(keeper: Keeper, kind: str, complaint: Callable[[Path], str | None], ranks: Ranks) -> State | None:
    """What rank 0 finds, on all ranks."""
    found = keeper.find(kind, complaint) if ranks.rank == 0 else None
    done = ranks.first(-1 if found is None else found.done)
    if ranks.rank > 0 and done >= 0:
        found = next(state for state in states(keeper.folder) if state.done == done)
    if found is not None:
        keeper.say(f"continues after {found.words}")
    return found


def _complaint(path: Path, name: str, module: pl.LightningModule) -> str | None:
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


class LoopStates:
    """What a fit without Lightning's loop keeps between its iterations; `stage2_prior.prior.Kept` as fits see it."""

    def __init__(self, keeper: Keeper, ranks: Ranks = ALONE) -> None:
        self.keeper, self.ranks = keeper, ranks
        keeper.starts()

    def save(self, done: int, total: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        if self.ranks.rank > 0 or not self.keeper.is_due:  # all have the same state
            return
        metadata = {OF: self.keeper.name, "facts": json.dumps(facts)}
        whole = {name: value.contiguous().clone() for name, value in tensors.items()}  # no two may share their memory
        content = save(whole, metadata)  # where safetensors writes a file itself, a kill leaves another one beside it
        self.keeper.keep("iteration", done, total, TENSORS, lambda path: path.write_bytes(content))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        found = _furthest(self.keeper, TENSORS, lambda path: _foreign(path, self.keeper.name), self.ranks)
        if found is None:
            return None
        with safe_open(found.path, framework="pt") as file:
            names = file.keys()  # the file itself cannot be walked through
            return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["facts"])


def _foreign(path: Path, name: str) -> str | None:
    """Why the state at `path` cannot be continued from; None: it can."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        facts = json.loads(metadata.get("facts", "null"))
    except (SafetensorError, ValueError, RecursionError):
        return "is no safetensors file"
    return None if metadata.get(OF) == name and isinstance(facts, dict) else "belongs to something else"
