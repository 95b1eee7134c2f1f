"""What a rank knows of its stage: where it writes, what it says, and how it meets the others."""

from collections.abc import Callable, Mapping
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
