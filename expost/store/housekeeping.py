"""stage=store: what is in the store, who needs it, whether it is intact; and room again.

`store.gc=true` shows and removes what no run needs, what dead writers left half done, what was kept of training that no
run's folder speaks of, and what is in quarantine and is in the store again, intact. What lies in quarantine and nowhere
else stays. It refuses while a job is at work, whose inputs nobody has written down yet, and while a report or a
manifest cannot be read.

A run needs an artifact if its folder under `paths.root` is there and made the artifact, or if a JSON file in that
folder names its key (`report.json` names all that it was made from, `begun-STAGE.json` what the run began to make), or
if something that it needs was made from it. To let go of what a run made, delete the run's folder and collect.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expost.base.command import typed_program
from expost.base.disk import in_bytes
from expost.base.errors import UserError
from expost.config.schema import Config
from expost.store import manifest, training_states
from expost.store.artifacts import Artifact, Store

NAMED = re.compile(r"\b[0-9a-f]{20}\b", re.ASCII)
RUNS = ("*", "sweeps/*/*")
SHOWN = 2  # names of runs in a row
ROW = "{:<11}{:<21}{:>10}  {:>7}  {}"
READ_ONLY = "nobody that can be asked in a store that is read only"


@dataclass(frozen=True)
class Entry:
    """An artifact, or what is kept of the training of one that is not finished, as the listing shows it.

    Attributes:
        stage, key, folder: which one, and where.
        num_bytes: of all of its files.
        age_seconds: since it was finished, or since something was kept last.
        runs: those that need it.
        kept: how far its training is: epoch 12 of 300; None of an artifact.
        readable: False where its manifest is damaged.
    """

    stage: str
    key: str
    folder: Path
    num_bytes: int
    age_seconds: float
    runs: list[str]
    kept: str | None = None
    readable: bool = True

    @property
    def name(self) -> str:
        return f"{'' if self.kept is None else 'what is kept of '}{self.stage}/{self.key}"

    @property
    def row(self) -> str:
        words = ", ".join(self.runs[-SHOWN:]) or "no run"
        words += f" and {len(self.runs) - SHOWN} more" if len(self.runs) > SHOWN else ""
        words = words if self.kept is None else f"kept up to {self.kept}; {words}"
        words += "" if self.readable else "; manifest.json is damaged: store.verify=true"
        return ROW.format(self.stage, self.key, in_bytes(self.num_bytes), _age(self.age_seconds), words)


def references_in(root: Path) -> tuple[dict[str, frozenset[str]], list[Path]]:
    """Every run, as its folder lies under `root`, with the keys in its JSON files; and those that cannot be read."""
    keys_by_run: dict[str, frozenset[str]] = {}
    unreadable = []
    for folder in sorted(path for pattern in RUNS for path in root.glob(pattern) if path.is_dir()):
        if folder.is_symlink() or folder.name.startswith(".") or folder in (root / "store", root / "sweeps"):
            continue
        keys: set[str] = set()
        for path in folder.glob("*.json"):
            try:
                keys |= set(NAMED.findall(path.read_bytes().decode("latin-1")))
            except OSError:
                unreadable.append(path)
        keys_by_run[folder.relative_to(root).as_posix()] = frozenset(keys)
    return keys_by_run, unreadable


def runs_by_key(
    artifacts: Iterable[tuple[Artifact, dict[str, Any] | None]], keys_by_run: Mapping[str, frozenset[str]]
) -> dict[str, list[str]]:
    """Key of an artifact -> runs that need it, by name; beside each artifact its manifest, None where it is damaged."""
    upstream: dict[str, set[str]] = {}
    made: dict[str, set[str]] = {}
    for artifact, facts in artifacts:
        named = NAMED.findall(json.dumps(facts["ingredients"])) if facts else []
        upstream.setdefault(artifact.key, set()).update(named)
        if facts and facts.get("run") is not None:
            made.setdefault(facts["run"], set()).add(artifact.key)
    needs: dict[str, list[str]] = {key: [] for key in upstream}
    for run, keys in sorted(keys_by_run.items()):
        reached: set[str] = set()
        ahead = {*keys, *made.get(run, ())}
        while ahead:
            reached |= (ahead := ahead & upstream.keys())
            ahead = set().union(*(upstream[key] for key in ahead)) - reached
        for key in reached:
            needs[key].append(run)
    return needs


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # somebody has removed it meanwhile
            total += path.lstat().st_size if path.is_file() else 0
    return total


@dataclass(frozen=True)
class Inventory:
    """Attributes:
    store: whose.
    artifacts: by stage and key.
    kept: of stages that are not finished.
    unreadable: files that may say who needs what, and cannot be read.
    """

    store: Store
    artifacts: list[Entry]
    kept: list[Entry]
    unreadable: list[Path]

    @classmethod
    def of(cls, store: Store, root: Path) -> "Inventory":
        """What is in `store`, and which runs below `root` need it."""
        now = time.time()
        artifacts = [(artifact, manifest.read(artifact.path)) for artifact in store.artifacts()]
        keys_by_run, unreadable = references_in(root)
        needs = runs_by_key(artifacts, keys_by_run)
        finished, kept = [], []
        for artifact, facts in artifacts:
            path, key = artifact.path, artifact.key
            age = now - (float(facts["finished"]) if facts else path.stat().st_mtime)
            size = folder_bytes(path)
            finished.append(Entry(artifact.stage, key, path, size, age, needs[key], readable=facts is not None))
        for stage, key, path in store.resumables():
            words = next((state.words for state in training_states.states_in(path)), "nothing")
            runs = sorted(run for run, keys in keys_by_run.items() if key in keys)
            kept.append(Entry(stage, key, path, folder_bytes(path), now - path.stat().st_mtime, runs, words))
        return cls(store, finished, kept, unreadable)


def keep_house(config: Config) -> None:
    """List; with `store.verify`, hash everything again; with `store.gc`, remove what nobody needs.

    Raises:
        UserError: something is damaged; or the store cannot be read, or cleared now.
    """
    root = config.paths.root
    store = Store(root / "store")
    try:
        if not store.root.is_dir():
            raise UserError(f"there is no store in {root}; make one with {typed_program()}, or set paths.root=DIR")
        complaint = verify(store) if config.store.verify else None
        inventory = Inventory.of(store, root)
        show(inventory)
        if config.store.gc and complaint is None:
            collect(inventory)
    except OSError as error:
        place = error.filename or store.root
        raise UserError(f"{place}: {error.strerror}; mend that or set paths.root=DIR") from error
    if complaint is not None:
        raise UserError(complaint)


def verify(store: Store) -> str | None:
    """Hash every file again; name and move aside what is damaged; one line about it, or None."""
    artifacts, num_bytes, broken = store.artifacts(), 0, []

    def put_aside(what: str, folder: Path, names: list[str], inode: int | None) -> None:
        for name in names:
            print(f"{'damaged':<11}{folder.parent.name}/{folder.name}/{name}", flush=True)
        broken.extend([what] if names else [])
        try:
            if names and inode is not None and (aside := store.quarantine(folder, names[0], inode)):
                print(f"{'':<11}moved to {aside}", flush=True)
        except UserError as error:  # of a store that is read only all damage is to be named
            print(f"{'':<11}{error}", flush=True)

    for artifact in artifacts:
        inode: int | None = None
        try:
            inode = artifact.path.stat().st_ino
            names, stray_names = list(manifest.altered_files(artifact.path)), list(manifest.strays(artifact.path))
        except FileNotFoundError:  # moved aside by a job meanwhile
            continue
        except OSError as error:
            names, stray_names, inode = [f"{error.filename or ''} ({error.strerror})"], [], None
        num_bytes += folder_bytes(artifact.path)
        put_aside(f"{artifact.stage}/{artifact.key}", artifact.path, names, inode)
        for name in stray_names:
            print(f"{'stray':<11}{artifact.stage}/{artifact.key}/{name}: no part of it", flush=True)
    for stage, key, folder in store.resumables():
        with _owner(store, stage, key) as owner:  # who makes the artifact changes what is kept of it
            num_bytes += folder_bytes(folder)
            names = list(training_states.damaged_files(folder)) if owner in (None, READ_ONLY) else []
            put_aside(f"what is kept of {stage}/{key}", folder, names, folder.stat().st_ino)
    print(f"{'verified':<11}{len(artifacts)} artifacts, {in_bytes(num_bytes)}: {len(broken)} damaged", flush=True)
    if not broken:
        return None
    them = "; ".join(broken[:SHOWN]) + (f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else "")
    return f"{len(broken)} of {len(artifacts)} artifacts are damaged: {them}; the same commands make them again"


@contextmanager
def _owner(store: Store, stage: str, key: str) -> Iterator[str | None]:
    """Who makes this artifact; None: nobody, nor begins to inside the block."""
    with ExitStack() as stack:
        try:
            owner = stack.enter_context(store.key_lock(stage, key).hold_if_free())
        except OSError:
            owner = READ_ONLY
        yield owner


def show(inventory: Inventory) -> None:
    """The listing, and what could be removed."""
    store, artifacts = inventory.store, inventory.artifacts
    print(ROW.format("stage", "key", "size", "age", "needed by"))
    for entry in artifacts:
        print(entry.row)
    for path in store.unfinished_folders():
        stage, key = path.parent.name, path.name[1:21]
        with _owner(store, stage, key) as owner:
            state = f"being made by {owner}" if owner else "unfinished, of a dead process"
        print(ROW.format(stage, key, in_bytes(folder_bytes(path)), "", state))
    for entry in inventory.kept:
        print(entry.row)
    for path in store.quarantined_folders():
        print(f"{'quarantine':<11}{path.name}  {in_bytes(folder_bytes(path))}")
    for path in inventory.unreadable:
        print(f"{'unreadable':<11}{path}")
    free = [entry for entry in artifacts if not entry.runs]
    total, freed = (in_bytes(sum(entry.num_bytes for entry in entries)) for entries in (artifacts, free))
    print(f"{'total':<11}{len(artifacts)} artifacts, {total}; no run needs {len(free)} of them, {freed}", flush=True)


def collect(inventory: Inventory) -> None:
    """Show what nobody needs, and remove it.

    Raises:
        UserError: a job is at work, or what is needed cannot be known.
    """
    store = inventory.store
    _refuse_doubt(inventory)
    free = [entry for entry in [*inventory.artifacts, *inventory.kept] if not entry.runs]
    again = [path for path in store.quarantined_folders() if _is_back(store, path)]
    doomed = [(entry.name, entry.folder) for entry in free]
    doomed += [(f"{path.parent.name}/{path.name}", path) for path in [*store.unfinished_folders(), *again]]
    total = sum(folder_bytes(path) for _, path in doomed)
    print(f"{'gc':<11}removing {len(doomed)} folders, {in_bytes(total)}", flush=True)
    for name, path in doomed:
        print(f"{'':<11}{name}  {in_bytes(folder_bytes(path))}", flush=True)
    for entry in free:
        with store.key_lock(entry.stage, entry.key).hold_if_free() as owner:
            if owner is None and entry.kept is None:
                with suppress(FileNotFoundError):  # a job has moved it aside meanwhile
                    os.replace(entry.folder, entry.folder.with_name(f".{entry.key}.removed"))  # nobody sees half of it
                store.sweep(entry.stage, entry.key)
            elif owner is None:
                shutil.rmtree(entry.folder)
    for path in store.unfinished_folders():
        stage, key = path.parent.name, path.name[1:21]
        with store.key_lock(stage, key).hold_if_free() as owner:
            if owner is None:
                store.sweep(stage, key)
    for path in again:
        shutil.rmtree(path)
    left = [path for _, path in doomed if path.exists()]
    print(f"{'gc':<11}removed {len(doomed) - len(left)}; {len(left)} are in use and stay", flush=True)


def _refuse_doubt(inventory: Inventory) -> None:
    if damaged := next((entry for entry in inventory.artifacts if not entry.readable), None):
        raise UserError(f"{damaged.name} is damaged, so what it needs is not known; run store.verify=true first")
    if path := next(iter(inventory.unreadable), None):
        raise UserError(f"{path} cannot be read, so what it needs is not known; mend or move that folder first")
    store = inventory.store
    for path in sorted((store.root / ".locks").glob("*.owner")):
        stage, _, key = path.stem.rpartition("-")
        with store.key_lock(stage, key).hold_if_free() as owner:
            if owner is not None:
                raise UserError(f"{stage}/{key} is being made by {owner}; use store.gc=true when no job is at work")


def _is_back(store: Store, aside: Path) -> bool:
    """Whether what was moved aside has been made again and is intact."""
    name = re.fullmatch(r"(?:\.?resume-)?(.+)-([0-9a-f]{20})-\d+", aside.name)
    return name is not None and store.is_intact(Artifact(name[1], name[2], store.root / name[1] / name[2]))


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
