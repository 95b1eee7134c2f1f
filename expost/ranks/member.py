"""What a rank knows of its stage: where it writes, what it says, and how it meets the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.loggers import Logger

from expost.config.schema import Trainer
from expost.ranks.messages import Order
from expost.ranks.rendezvous import join, wait_for_all
from expost.training.devices import device_of
from expost.training.tracking import Tracker
from stage2_prior.ranks import Ranks

Tell = Callable[[Mapping[str, Any]], None]


class Relay(Logger):
    """Figures to the parent, which has the run's loggers."""

    name = "relay"
    version = 0

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self.tell = tell

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.tell({"log": {name: float(value) for name, value in metrics.items()}, "step": step})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The parent has the configuration."""


@dataclass
class Member:
    """One rank's part in making one artifact.

    Attributes:
        order: what it was told.
        folder: where the artifact's files go.
        tracker: takes figures; of rank 0 to the parent, of the others nowhere.
        tell: says something to the parent.
        figures: what making it gave back.
    """

    order: Order
    folder: Path
    tracker: Tracker
    tell: Tell
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ranks(self) -> Ranks:
        return Ranks(self.order.rank, self.order.world)

    def make(self, stage: str, key: str, make: Callable[[Path, Tracker], Mapping[str, Any] | None]) -> None:
        """Make this rank's part of the ordered stage; whatever is before it is there already.

        Raises:
            RuntimeError: this rank would make something else than what was ordered.
        """
        if stage != self.order.stage:
            return
        if key != self.order.key:
            raise RuntimeError(f"rank {self.order.rank} would make {stage}/{key} and not {self.order.key}")
        self.figures = dict(make(self.folder, self.tracker) or {})


def connect(order: Order, settings: Trainer, wait: timedelta) -> Path:
    """Meet the other ranks; the folder that all write to.

    Args:
        order: who this is, and where they meet.
        settings: the `trainer:` section.
        wait: longest time in a collective.

    Raises:
        UserError: machine 0 does not come, cannot be reached, or is gone; or others do not come.
    """
    on_gpu = device_of(settings).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(order.local_rank)
    store, folder = join(order)
    wait_for_all(store, order)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore(order.key, store),
        rank=order.rank,
        world_size=order.world,
        timeout=wait,
    )
    return folder
