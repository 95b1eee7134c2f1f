"""Where figures go: one W&B run a stage, grouped by experiment, and CSV files always."""

import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from orchestration.schema import Logger as LoggerSettings


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


@dataclass
class Tracker:
    """Loggers of one stage; Lightning writes to `loggers`, everything else calls the methods."""

    loggers: list[Logger] = field(default_factory=list)
    wandb_run: Any = None

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(dict(figures), step=step)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Final figures of the stage: the last line of the CSV file, and the run's summary in W&B."""
        numbers = {k: float(v) for k, v in figures.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for logger in self.loggers:
            if isinstance(logger, CSVLogger) and numbers:
                logger.log_metrics({f"final/{name}": value for name, value in numbers.items()})
        if self.wandb_run is not None:
            self.wandb_run.summary.update(dict(figures))

    def table(self, name: str, columns: Sequence[str | int], rows: list[list[Any]]) -> None:
        if self.wandb_run is not None:
            import wandb

            self.wandb_run.log({name: wandb.Table(columns=list(columns), data=rows)})

    def pictures(self, pictures: Mapping[str, Path]) -> None:
        if self.wandb_run is not None:
            import wandb

            self.wandb_run.log({name: wandb.Image(str(path)) for name, path in pictures.items()})

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
    settings: LoggerSettings, folder: Path, stage: str, group: str, config: Mapping[str, Any]
) -> Iterator[Tracker]:
    """Open the loggers of one stage in `folder` and close them whatever happens, with the exit code."""
    loggers: list[Logger] = [CSVLogger(save_dir=str(folder), name="", version=stage)]
    run = None
    if settings.wandb and wandb_mode(settings) != "disabled":
        run = _open_wandb(settings, folder, stage, group, config)
        loggers.append(WandbLogger(experiment=run))
    exit_code = 1
    try:
        yield Tracker(loggers, run)
        exit_code = 0
    finally:
        loggers[0].finalize("success" if exit_code == 0 else "failed")
        if run is not None:
            run.finish(exit_code=exit_code)


def _open_wandb(settings: LoggerSettings, folder: Path, stage: str, group: str, config: Mapping[str, Any]) -> Any:
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
        settings=wandb.Settings(silent=True, console="off"),
    )
