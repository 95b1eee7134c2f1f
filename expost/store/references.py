"""Who needs what is in the store: from what run folders say, and from what artifacts say that they were made from.

A run needs an artifact if its folder under `paths.root` is there and made the artifact, or if a JSON file in that
folder names its key (`report.json` names all that it was made from, `begun-STAGE.json` what the run began to make), or
if something that it needs was made from it.
To let go of what a run made, delete the run's folder and collect.
"""

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expost.store import manifest
from expost.store import training_states as kept
from expost.store.artifacts import Artifact, Store

NAMED = re.compile(rb"\b[0-9a-f]{20}\b")
RUNS = ("*", "sweeps/*/*")


@dataclass(frozen=True)
class Entry:
    """One artifact as the listing shows it.

    Attributes:
        artifact: where it is.
        num_bytes: of all of its files.
        age_seconds: since it was finished.
        upstream: keys of what it was made from.
        made_by: the run's folder; None where that is not known.
        readable: False where its manifest is damaged.
    """

    artifact: Artifact
    num_bytes: int
    age_seconds: float
    upstream: frozenset[str]
    made_by: str | None
    readable: bool

    @property
    def name(self) -> str:
        return f"{self.artifact.stage}/{self.artifact.key}"


def listed(store: Store) -> list[Entry]:
    """One entry an artifact, by stage and key."""
    return [_entry(artifact) for artifact in store.artifacts()]


def _entry(artifact: Artifact) -> Entry:
    facts = manifest.read(artifact.path)
    finished = artifact.path.stat().st_mtime if facts is None else float(facts["finished"])
    return Entry(
        artifact,
        folder_bytes(artifact.path),
        time.time() - finished,
        frozenset(_strings({} if facts is None else facts["ingredients"])),
        None if facts is None else facts.get("run"),
        facts is not None,
    )


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


@dataclass(frozen=True)
class References:
    """What run folders say.

    Attributes:
        named: run, as its folder lies under `paths.root` -> keys that it names.
        unreadable: files that should say so, and cannot be read.
    """

    named: Mapping[str, frozenset[str]]
    unreadable: tuple[Path, ...]


def references_in(root: Path) -> References:
    """Every folder of a run under `root`, with the keys in its JSON files."""
    named: dict[str, frozenset[str]] = {}
    unreadable = []
    for folder in sorted(path for pattern in RUNS for path in root.glob(pattern) if path.is_dir()):
        if folder.is_symlink() or folder.name.startswith(".") or folder in (root / "store", root / "sweeps"):
            continue
        keys: set[str] = set()
        for path in folder.glob("*.json"):
            try:
                keys |= {key.decode() for key in NAMED.findall(path.read_bytes())}
            except OSError:
                unreadable.append(path)
        named[folder.relative_to(root).as_posix()] = frozenset(keys)
    return References(named, tuple(unreadable))


def needed_by(entries: Iterable[Entry], named: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Key -> runs that need it, by name."""
    by_key: dict[str, list[Entry]] = {}
    made: dict[str, set[str]] = {}
    for entry in entries:
        by_key.setdefault(entry.artifact.key, []).append(entry)
        if entry.made_by is not None:
            made.setdefault(entry.made_by, set()).add(entry.artifact.key)
    needs: dict[str, list[str]] = {key: [] for key in by_key}
    for run, keys in sorted(named.items()):
        reached: set[str] = set()
        ahead = [*keys, *made.get(run, ())]
        while ahead:
            key = ahead.pop()
            if key in by_key and key not in reached:
                reached.add(key)
                ahead += [upstream for entry in by_key[key] for upstream in entry.upstream]
        for key in reached:
            needs[key].append(run)
    return needs


@dataclass(frozen=True)
class Unfinished:
    """What is kept of the training of a stage that is not finished.

    Attributes:
        stage, key, folder: whose, where.
        words: how far it is: epoch 12 of 300.
        num_bytes, age_seconds: of its files.
        runs: those that began it and whose folders are there.
    """

    stage: str
    key: str
    folder: Path
    words: str
    num_bytes: int
    age_seconds: float
    runs: list[str]


def unfinished(store: Store, named: Mapping[str, frozenset[str]]) -> list[Unfinished]:
    """One entry a stage that is not finished and has kept something."""
    found = []
    for stage, key, folder in store.resumable():
        states = kept.states(folder)
        words = states[0].words if states else "nothing"
        age = time.time() - folder.stat().st_mtime
        runs = sorted(run for run, keys in named.items() if key in keys)
        found.append(Unfinished(stage, key, folder, words, folder_bytes(folder), age, runs))
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # somebody has removed it meanwhile
            total += path.lstat().st_size if path.is_file() else 0
    return total
