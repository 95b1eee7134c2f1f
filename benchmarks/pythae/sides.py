"""The driver's half of an interleaved comparison: processes that live through all of it and work a round when told to.

Each side runs by its own interpreter, with the same torch, threads and OpenMP settings, and a round of one is seconds
from a round of the other. `rounds.py` is the worker's half.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expost.base.runtime import WAITING, wait_briefly

PYTHAE, TORCH = "0.1.2", "2.13.0"


@dataclass
class Side:
    """A worker process and what it was measured at."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def read(self, key: str) -> Any:
        """The value of `key` in the worker's next line."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            tail = "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-15:])
            raise SystemExit(f"{self.name} failed:\n{tail}")
        self.facts |= (said := json.loads(line))
        return said[key]

    def round(self) -> float:
        """Seconds of one round. The worker is waiting again when this returns."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds = self.read("seconds")
        self.read("ready")
        return seconds


def pythae_python(folder: Path) -> Path:
    """The interpreter of an environment with pythae in `folder`, which is built if it is not there."""
    python = folder / "bin" / "python"
    ask = f"from importlib.metadata import version as v; print(v('pythae') == '{PYTHAE}', v('torch').split('+')[0])"
    if python.exists():
        found = subprocess.run([python, "-c", ask], capture_output=True, text=True, encoding="utf-8")
        if found.stdout.split() == ["True", TORCH]:
            return python
    print(f"building an environment with pythae {PYTHAE} in {folder} (once; a few minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    # In one command: pythae alone would take the newest torch there is.
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", f"torch=={TORCH}", f"pythae=={PYTHAE}"]
    done = subprocess.run(install, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\npythae {PYTHAE} could not be installed into {folder}")
    return python


def start(name: str, command: list[str | Path], options: argparse.Namespace, scratch: Path) -> Side:
    """A worker that has loaded everything and waits for its first round."""
    same = {name: value for name, value in os.environ.items() if name not in WAITING}
    same |= {"OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
    if not options.spin:
        wait_briefly(same)
    log = scratch / f"{name}.log"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=scratch,
            env=same,
            encoding="utf-8",
        )
    side = Side(name, process, log)
    side.read("torch")
    side.read("ready")
    return side


def described(facts: dict[str, Any]) -> str:
    return f"{facts['name']} (torch {facts['torch']}, Python {facts['python']}, {facts['threads']} threads)"
