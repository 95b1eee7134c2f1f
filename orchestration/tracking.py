"""Where figures go: one W&B run a stage, grouped by experiment, and CSV files always.

A figure has one name in a CSV file, for example `val_loss` or `final/seconds`, and the same name behind its stage in
W&B, `vae/val_loss`: a workspace that nobody arranged shows one section a stage. Curves are drawn over `epoch`, one pass
over the data, which an iteration of EM is too; of what is measured on held-out data the summary keeps the smallest
value beside the last.
"""

import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities import rank_zero_only

from evaluation.row_names import BASELINES
from orchestration.kept import Keeper
from orchestration.schema import Logger as LoggerSettings

STEP = "epoch"
FINAL = "final/"
"""Before the names of figures that a stage has one of, when it is done."""


def logged_in() -> bool:
    """Whether the user has a W&B key on this machine."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode(settings: LoggerSettings) -> str:
    """`WANDB_MODE` wins, then `logger.mode`; `auto` is online exactly where the user is logged in."""
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    if settings.mode == "auto":
        return "online" if logged_in() else "offline"
    return settings.mode


def wandb_name(stage: str, name: str) -> str:
    """What the figure `name` of `stage` is called in W&B."""
    return name if name.startswith(f"{stage}/") else f"{stage}/{name}"


def with_one_name(figures: Mapping[str, Any], prior: str) -> dict[str, Any]:
    """Figures `ROW/FIGURE` with the row of the learned prior called `learned`, whatever `prior` is called.

    A chart compares runs by the name of a figure: `mixture/rate_nats` and `autoregressive/rate_nats` would be two.
    """
    if prior in BASELINES:
        return dict(figures)
    own = f"{prior}/"
    return {f"learned/{k.removeprefix(own)}" if k.startswith(own) else k: value for k, value in figures.items()}


class WandbFigures(Logger):
    """Lightning's figures into a W&B run that is already open.

    Lightning's own logger counts optimiser steps, and defines its axis only in a run that it has opened itself.

    Args:
        run: open; closed by whoever opened it.
        stage: before every name.
    """

    def __init__(self, run: Any, stage: str) -> None:
        super().__init__()
        self.run, self.stage = run, stage
        run.define_metric(STEP, hidden=True)
        for pattern, summary in (("train_*", "last"), ("val_*", "last,min")):
            run.define_metric(wandb_name(stage, pattern), step_metric=STEP, summary=summary)

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return str(self.run.id)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        axis = {} if step is None else {STEP: step}
        self.run.log({**{wandb_name(self.stage, name): value for name, value in metrics.items()}, **axis})

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The resolved config is in the run from its beginning."""


@dataclass
class Tracker:
    """Loggers of one stage; Lightning writes to `loggers`, everything else calls the methods.

    `keeper` has what an earlier attempt at the stage has kept, and keeps for the next one; None: nothing is kept.
    """

    loggers: list[Logger] = field(default_factory=list)
    wandb_run: Any = None
    stage: str = ""
    keeper: Keeper | None = None

    def earlier_seconds(self) -> float:
        """What earlier attempts at the stage took to the state from which this one continues."""
        return 0.0 if self.keeper is None else self.keeper.earlier_seconds

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(dict(figures), step=step)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Final figures of the stage: the last line of the CSV file, a bar and a line of the summary in W&B."""
        numbers = {
            f"{FINAL}{name}": float(value)
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name != STEP
        }
        for logger in self.loggers if numbers else ():
            logger.log_metrics(numbers)

    def table(self, name: str, columns: Sequence[str | int], rows: list[list[Any]]) -> None:
        if self.wandb_run is not None:
            import wandb

            table = wandb.Table(columns=list(columns), data=rows)
            self.wandb_run.log({wandb_name(self.stage, name): table})

    def pictures(self, pictures: Mapping[str, Path]) -> None:
        if self.wandb_run is not None:
            import wandb

            shown = {wandb_name(self.stage, name): wandb.Image(str(path)) for name, path in pictures.items()}
            self.wandb_run.log(shown)

    def lineage(self, made: tuple[str, str], used: Mapping[str, str], path: Path) -> None:
        """Say in W&B what this stage made (kind, key) and from what: references by path, nothing is uploaded.

        `use_artifact` needs a server, so offline the inputs are metadata of the output alone.
        """
        if self.wandb_run is None:
            return
        import wandb

        kind, key = made
        artifact = wandb.Artifact(f"{kind}-{key}", type=kind, metadata={"inputs": dict(used)})
        artifact.add_reference(path.resolve().as_uri(), checksum=False)
        self.wandb_run.log_artifact(artifact)


@contextmanager
def tracking(
    settings: LoggerSettings,
    folder: Path,
    stage: str,
    group: str,
    config: Mapping[str, Any],
    identity: Mapping[str, str] | None = None,
) -> Iterator[Tracker]:
    """Open the loggers of one stage in `folder` and close them whatever happens, with the exit code.

    Args:
        settings: which loggers.
        folder: of the run.
        stage, group, config: what W&B calls the run, and what it shows of it.
        identity: W&B settings that make it a run that somebody else has announced.
    """
    loggers: list[Logger] = [CSVLogger(save_dir=str(folder), name="", version=stage, flush_logs_every_n_steps=1)]
    run = None
    if settings.wandb and wandb_mode(settings) != "disabled":
        run = _open_wandb(settings, folder, stage, group, config, identity or {})
        loggers.append(WandbFigures(run, stage))
    exit_code = 1
    try:
        yield Tracker(loggers, run, stage)
        exit_code = 0
    finally:
        # Of a stage that failed, its own error is told, and not that its figures could not be written either.
        with nullcontext() if exit_code == 0 else suppress(OSError):
            loggers[0].finalize("success" if exit_code == 0 else "failed")
        if run is not None:
            run.finish(exit_code=exit_code)


def _open_wandb(
    settings: LoggerSettings,
    folder: Path,
    stage: str,
    group: str,
    config: Mapping[str, Any],
    identity: Mapping[str, str],
) -> Any:
    for name, sub in {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache", "WANDB_CONFIG_DIR": "config"}.items():
        os.environ[name] = str(folder.resolve() / "wandb" / sub)  # each job of a sweep has its own
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=settings.project,
        group=group,
        job_type=stage,
        name=f"{stage}-{group}",
        config=dict(config),
        dir=str(folder),
        mode=cast("Literal['online', 'offline']", wandb_mode(settings)),
        reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off", **cast("dict[str, Any]", identity)),
    )
