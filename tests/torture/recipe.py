"""What is run, and how two stores are compared: whole runs on the digits of a size for debugging."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool import Attempt, Plan

from expost.store import manifest
from expost.store.artifacts import Store

COMMON = (
    "debug=fast",
    "logger=csv",
    "net.hidden=[32]",
    "trainer.max_epochs=60",
    "trainer.keep_share=1",  # as often as training itself takes: kills are to meet kept states
    "evaluation.num_samples=128",
    "evaluation.num_bound_images=64",
)
RECIPES = {
    "autoregressive": (
        *COMMON,
        "prior=autoregressive",
        "prior.hidden=[32,32]",
        "prior.fit.max_epochs=25",
        "prior.fit.precision=32-true",
    ),
    "mixture": (*COMMON, "prior=mixture", "prior.num_components=20", "prior.num_restarts=2", "prior.tol=0"),
}

TIMES = {"fit_seconds", "samples_per_second", "seconds"}
"""Figures that are wall-clock times."""
PROVENANCE = {"started", "finished", "run", "checksum"}
"""What a manifest says of the run that made the artifact."""
OF_THE_MACHINE = "circumstances.json"
"""Commit, hardware and versions at the time."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        words: its command.
        folder: where it ran.
        seconds: how long it took as a fork, and as a new process.
        content: of its store, comparable.
    """

    words: tuple[str, ...]
    folder: Path
    seconds: tuple[float, float]
    content: Mapping[str, bytes]


def references(plan: Plan) -> dict[str, Reference]:
    """One undisturbed run a recipe, made twice, which must agree.

    Raises:
        SystemExit: it fails, or two do not agree: there is nothing to compare with.
    """
    found = {}
    for name, words in RECIPES.items():
        folders = [plan.root / f"reference-{name}-{how}" for how in ("forked", "new")]
        ends = [Attempt(folder, words, anew=how == 1).wait() for how, folder in enumerate(folders)]
        for end in ends:
            if end.code or end.err:
                raise SystemExit(f"the undisturbed run of {name} ended with {end.code}: {end.err}")
        contents = [comparable(Store(folder / "runs/store")) for folder in folders]
        if unlike := difference(*contents):
            raise SystemExit(f"two undisturbed runs of {name} differ: {unlike}")
        found[name] = Reference(words, folders[0], (ends[0].seconds, ends[1].seconds), contents[0])
        print(
            f"{'undisturbed':<13}{name}: {ends[0].seconds:.1f} s, as a new process {ends[1].seconds:.1f} s", flush=True
        )
        shutil.rmtree(folders[1])
    return found


def comparable(store: Store) -> dict[str, bytes]:
    """Every file of every artifact, without times and provenance."""
    found = {}
    for artifact in store.artifacts():
        for path in sorted(artifact.path.rglob("*")):
            if path.is_file():
                found[path.relative_to(store.root).as_posix()] = _comparable(path)
    return found


def _comparable(path: Path) -> bytes:
    if path.name == OF_THE_MACHINE:
        return b""
    if path.suffix != ".json":
        return path.read_bytes()
    facts = json.loads(path.read_text(encoding="utf-8"))
    if path.name == manifest.MANIFEST:
        facts = {k: v for k, v in facts.items() if k not in PROVENANCE} | {"files": sorted(facts["files"])}
    return json.dumps(_without_times(facts), sort_keys=True).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def difference(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> str | None:
    """The first files that differ, by name; None: none does."""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or None


def leftovers(folder: Path) -> str | None:
    """What a dead process has left under `folder` that nobody needs; None: nothing."""
    store = Store(folder / "runs/store")
    found = [
        *store.unfinished_folders(),
        *store.quarantined_folders(),
        *(store.root / ".resume").glob("*"),
        *(store.root / ".locks").glob("*.owner"),
        *(folder / "runs").glob(".*"),
        *(folder / "tmp").iterdir(),
    ]
    return ", ".join(str(path.relative_to(folder)) for path in found) or None
