"""The command line inside the test's own process: real runs without importing torch once more for each.

`run_here` is what a shell does: fresh arguments, a folder to stand in, two streams and an exit code.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from expost.__main__ import main
from expost.base.places import CONF

PROJECT = Path(__file__).resolve().parents[2]
SMALL = ("debug=fast", "trainer.val_every=2", "prior.num_components=5", "net.hidden=[32]", "logger=csv")
"""A whole run of the real configuration in a few seconds."""
STAGES = ["vae", "latents", "prior", "features", "evaluation"]
"""What it makes, in order."""


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit code, both streams."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()

    def stages(self, word: str) -> list[str]:
        """The stages whose line on the terminal says `word` (done, skipped, ...); of a sweep, of all of its jobs."""
        return [re.sub(r"^\[\d+\] ", "", line).split()[0] for line in self.out.splitlines() if word in line]


def composed(*words: str) -> DictConfig:
    """The configuration that the command line `WORDS` stands for."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words))


def run_here(folder: Path, *words: str) -> Result:
    """`python pipeline.py WORDS` in `folder`, in this process."""
    argv, place, environment = sys.argv, Path.cwd(), dict(os.environ)
    out, err = io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    try:
        os.chdir(folder)
        sys.argv = ["pipeline.py", *words]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    finally:
        sys.argv = argv
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
    return Result(code, out.getvalue(), err.getvalue())


def run_outside(folder: Path, *words: str, **environment: str) -> Result:
    """The same as a process of its own."""
    done = subprocess.run(
        [sys.executable, str(PROJECT / "pipeline.py"), *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        encoding="utf-8",
    )
    return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def ctrl_c_is_heard() -> Iterator[None]:
    """By processes started in the block, as from a terminal: tests that run in the background are deaf to it, and what
    they start would be too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def assert_refused(
    result: Result, folder: Path, *parts: str, before: Sequence[Path] = (), data_was_read: bool = False
) -> None:
    """One line on stderr that tells all of `parts`, exit code 2, and nothing in `folder` but what was there before.

    Where the mistake is found after the images were read, the line that says what was taken of them stands alone.
    """
    assert result.code == 2, result
    assert len(result.lines) == 1 and result.lines[0].startswith("error: "), result.err
    assert "Traceback" not in result.err + result.out
    lines = result.out.splitlines()
    assert not lines if not data_was_read else len(lines) == 1 and lines[0].startswith("data ")
    for words in parts:
        assert words in result.err, result.err
    assert sorted(folder.rglob("*")) == sorted(before)


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/latest/report.json").read_text(encoding="utf-8"))


def keys(folder: Path, stage: str) -> set[str]:
    """Keys of the stored outputs of one stage."""
    return {path.name for path in (folder / "runs/store" / stage).glob("[!.]*")}
