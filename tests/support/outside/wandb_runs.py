"""W&B runs: opened as a stage opens them, and such as keep what they are given, without a server and without a file."""

from pathlib import Path
from typing import Any

import pytest
import wandb

from expost.config.schema import Logger
from expost.training.wandb_run import open_run

KEY = "0123456789" * 4
SETTINGS = Logger(wandb=True, project="expost", mode="auto")


class FakeRun:
    """Takes what a W&B run takes and remembers it."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.logged: list[dict[str, Any]] = []
        self.artifacts: list[Any] = []
        self.defined: dict[str, dict[str, Any]] = {}
        self.id = f"run{id(self)}"
        self.exit_code: int | None = None

    def log(self, figures: dict[str, Any]) -> None:
        self.logged.append(figures)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def define_metric(self, name: str, **how: Any) -> None:
        self.defined[name] = how

    def finish(self, exit_code: int = 0) -> None:
        assert self.exit_code is None, "finished twice"
        self.exit_code = exit_code

    @property
    def last(self) -> dict[str, Any]:
        """The last value of everything that was logged."""
        return {name: value for figures in self.logged for name, value in figures.items()}


def take_runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Every run that is opened from now on, in place of W&B's own."""
    opened: list[FakeRun] = []

    def init(**asked: Any) -> FakeRun:
        assert all(run.exit_code is not None for run in opened), "two runs at once would share a step axis"
        opened.append(FakeRun(asked))
        return opened[-1]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return opened


def opened(folder: Path, said: list[str]) -> Any:
    """A run as a stage opens it, in `folder`; what it says goes to `said`."""
    return open_run(SETTINGS, folder, "vae", "group", {}, {}, said.append)
