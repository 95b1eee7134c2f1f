"""Loggers as Lightning wants them: into a W&B run that is open, and from one rank of several to its parent."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from expost.training.wandb_run import STEP, WandbRun, wandb_name


class WandbFigures(Logger):
    """Lightning's figures into a W&B run that is already open.

    Lightning's own logger counts optimiser steps, and defines its axis only in a run that it has opened itself.

    Args:
        run: open; closed by whoever opened it.
        stage: before every name.
    """

    def __init__(self, run: WandbRun, stage: str) -> None:
        super().__init__()
        self.run, self.stage = run, stage
        run.tell(self._define)

    def _define(self, run: Any) -> None:
        run.define_metric(STEP, hidden=True)
        for pattern, summary in (("train_*", "last"), ("val_*", "last,min")):
            run.define_metric(wandb_name(self.stage, pattern), step_metric=STEP, summary=summary)

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return self.run.id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        figures = {wandb_name(self.stage, name): value for name, value in metrics.items()}
        axis = {} if step is None else {STEP: step}
        self.run.tell(lambda run: run.log(figures | axis))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The resolved config is in the run from its beginning."""


class Relay(Logger):
    """Figures of a rank to its parent, which has the run's loggers."""

    name = "relay"
    version = 0

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.tell = tell

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.tell({"log": {name: float(value) for name, value in metrics.items()}, "step": step})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The parent has the configuration."""
