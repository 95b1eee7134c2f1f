"""stage=plan: what every stage will cost in disk, memory and time, before anything runs.

A process of its own probes the pipeline's own stages for a minute (`expost.plan.server`); from a few of their
steps follows what all of them cost (`expost.costs.costs`). Nothing that was probed is kept.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from expost.base import scratch
from expost.base.errors import UserError
from expost.base.places import PROJECT
from expost.base.terminal import new_console
from expost.costs.costs import Cost, costs_of
from expost.costs.fork import Facts
from expost.costs.table import notes_of, terminal_plan
from expost.job import Run
from expost.training.progress import clock

PLAN_KEYS = {"stages", "total", "probed"}
TAKEN = "taken: "
"""Starts the line of the probing process that says what was taken of the data."""


def run_plan(run: Run) -> None:
    """Print the plan and write it to `plan.out`, or into the run's folder.

    Raises:
        UserError: the configuration cannot be run, or the plan cannot be written.
    """
    target = run.config.plan.out or run.folder / "plan.json"
    check_target(target)
    facts = probe(run)
    costs = costs_of(run.config, facts)
    notes = notes_of(run.config, costs, facts)
    console = new_console()
    console.print()
    console.print(terminal_plan(costs, facts, notes, console.width))
    console.print()
    try:
        target.write_text(json.dumps(as_json(costs, facts, notes), indent=2), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; set plan.out=FILE.json") from error
    run.say("plan", str(target))
    words = tuple(word for word in run.command.overrides if not word.startswith("plan."))
    run.say("next", replace(run.command, overrides=words).line("all"))


def check_target(target: Path) -> None:
    """Refuse to replace what is no earlier plan, before any probing.

    Raises:
        UserError: something else is there.
    """
    if os.path.isdir(target) or (os.path.isfile(target) and not _is_plan(target)):
        raise UserError(f"plan.out={target} is there already and is no plan; give another name, or remove it")


def _is_plan(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() >= PLAN_KEYS


def probe(run: Run) -> Facts:
    """What the probing process measured.

    Raises:
        UserError: the configuration cannot be run.
    """
    place = scratch.folder()
    with tempfile.TemporaryDirectory(prefix="plan-", dir=place) as folder, clock("probing", run.shows_progress):
        job, result = Path(folder) / "job.json", Path(folder) / "result.json"
        told = {"choices": run.command.choices, "overrides": run.command.overrides}
        job.write_text(json.dumps({"config": run.config.model_dump(mode="json"), **told}), encoding="utf-8")
        command = [sys.executable, "-m", "expost.plan.server", str(job), str(result), str(os.getpid())]
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(command, env=environment, text=True, encoding="utf-8", **pipes) as process:
            assert process.stdout is not None
            rest = []
            for line in process.stdout:  # what was taken of the data is said at once, before all that takes long
                if line.startswith(TAKEN):
                    run.say("data", line.removeprefix(TAKEN).rstrip("\n"))
                else:
                    rest.append(line)
        if process.returncode or not result.is_file():
            raise RuntimeError(f"the probing process ended with {process.returncode}:\n{''.join(rest)}")
        facts: Facts = json.loads(result.read_text(encoding="utf-8"))
    if "mistake" in facts:
        raise UserError(facts["mistake"])
    return facts


def as_json(costs: list[Cost], facts: Facts, notes: list[str]) -> Facts:
    """The table, what it was computed from, and its notes."""
    stages = {cost.stage: asdict(cost) | {"files": dict(cost.files), "disk_bytes": cost.disk_bytes} for cost in costs}
    total = {
        "disk_bytes": sum(cost.disk_bytes for cost in costs),
        "memory_bytes": max(cost.memory_bytes for cost in costs),
        "seconds": sum(cost.seconds for cost in costs),
    }
    return {"stages": stages, "total": total, "probed": facts, "notes": notes}
