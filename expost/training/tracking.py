"""Where figures go: one W&B run a stage, grouped by experiment, and CSV files always.

A figure has one name in a CSV file, for example `val_loss` or `final/seconds`, and the same name behind its stage in
W&B, `vae/val_loss`: a workspace that nobody arranged shows one section a stage. Curves are drawn over `epoch`, one pass
over the data, which an iteration of EM is too; of what is measured on held-out data the summary keeps the smallest
value beside the last.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expost.base.runtime import loading
from expost.config.schema import Logger as LoggerSettings
from expost.evaluation.row_names import BASELINES
from expost.store.training_states import TrainingStates
from expost.training.wandb_run import STEP, Say, WandbRun, open_run, wandb_mode, wandb_name

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

FINAL = "final/"
"""Before the names of figures that a stage has one of, when it is done."""


def with_one_name(figures: Mapping[str, Any], prior: str) -> dict[str, Any]:
    """Figures `ROW/FIGURE` with the row of the learned prior called `learned`, whatever `prior` is called.

    A chart compares runs by the name of a figure: `mixture/rate_nats` and `autoregressive/rate_nats` would be two.
    """
    if prior in BASELINES:
        return dict(figures)
    own = f"{prior}/"
    return {f"learned/{k.removeprefix(own)}" if k.startswith(own) else k: value for k, value in figures.items()}


@dataclass
class Tracker:
    """Loggers of one stage; Lightning writes to `loggers`, everything else calls the methods.

    `states` are what an earlier attempt at the stage has kept, and this one keeps for the next; None: nothing is kept.
    """

    loggers: list["Logger"] = field(default_factory=list)
    wandb_run: WandbRun | None = None
    stage: str = ""
    states: TrainingStates | None = None

    def earlier_seconds(self) -> float:
        """What earlier attempts at the stage took to the state from which this one continues."""
        return 0.0 if self.states is None else self.states.earlier_seconds

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

            shown = wandb_name(self.stage, name)
            self.wandb_run.tell(lambda run: run.log({shown: wandb.Table(columns=list(columns), data=rows)}))

    def pictures(self, pictures: Mapping[str, Path]) -> None:
        if self.wandb_run is not None:
            import wandb

            shown = {wandb_name(self.stage, name): str(path) for name, path in pictures.items()}
            self.wandb_run.tell(lambda run: run.log({name: wandb.Image(path) for name, path in shown.items()}))

    def lineage(self, output: tuple[str, str], inputs: Mapping[str, str], path: Path) -> None:
        """Say in W&B what this stage made (kind, key) and from what: references by path, nothing is uploaded.

        `use_artifact` needs a server, so offline the inputs are metadata of the output alone.
        """
        if self.wandb_run is None:
            return
        import wandb

        def refer(run: Any) -> None:
            kind, key = output
            artifact = wandb.Artifact(f"{kind}-{key}", type=kind, metadata={"inputs": dict(inputs)})
            artifact.add_reference(path.resolve().as_uri(), checksum=False)
            run.log_artifact(artifact)

        self.wandb_run.tell(refer)


@contextmanager
def tracking(
    settings: LoggerSettings,
    folder: Path,
    stage: str,
    group: str,
    config: Mapping[str, Any],
    say: Say,
    identity: Mapping[str, str] | None = None,
) -> Iterator[Tracker]:
    """Open the loggers of one stage in `folder` and close them whatever happens, with the exit code.

    Args:
        settings: which loggers.
        folder: of the run.
        stage, group, config: what W&B calls the run, and what it shows of it.
        say: takes a line where W&B fails.
        identity: W&B settings that make it a run that somebody else has announced.

    Raises:
        UserError: W&B cannot be used as it is set up.
    """
    run: WandbRun | None = None
    with loading("pytorch_lightning"):  # takes seconds: only where figures are written
        from pytorch_lightning.loggers import CSVLogger

        from expost.training.loggers import WandbFigures

        loggers: list[Logger] = [CSVLogger(save_dir=str(folder), name="", version=stage, flush_logs_every_n_steps=1)]
        if settings.wandb and wandb_mode(settings) != "disabled":
            run = open_run(settings, folder, stage, group, config, identity or {}, say)
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
            run.tell(lambda run: run.finish(exit_code=exit_code))
