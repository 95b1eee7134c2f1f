"""stage=store: what is in the store, who needs it, whether it is intact; and room again.

`store.gc=true` shows and removes what no run needs, what dead writers left half done, what was kept of training that no
run's folder speaks of, and what is in quarantine and is in the store again, intact. What lies in quarantine and nowhere
else stays. It refuses while a job is at work, whose inputs nobody has written down yet, and while a report or a
manifest cannot be read.

A run needs an artifact if its folder under `paths.root` is there and made the artifact, or if a JSON file in that
folder names its key (`report.json` names all that it was made from, `begun-STAGE.json` what the run began to make), or
if something that it needs was made from it. To let go of what a run made, delete the run's folder and collect.
"""

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
from expost.base.errors import UserError
from expost.config.schema import Config
from expost.store import manifest, training_states
from expost.store.artifacts import Artifact, Store

NAMED = re.compile(rb"\b[0-9a-f]{20}\b")
RUNS = ("*", "sweeps/*/*")
REMOVED = "removed"
SHOWN = 2  # names of runs in a row


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


def entries_of(store: Store) -> list[Entry]:
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
                keys |= {key.decode() for key in NAMED.findall(path.read_bytes())}
            except OSError:
                unreadable.append(path)
        keys_by_run[folder.relative_to(root).as_posix()] = frozenset(keys)
    return keys_by_run, unreadable


def runs_by_key(entries: Iterable[Entry], keys_by_run: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Key -> runs that need it, by name."""
    by_key: dict[str, list[Entry]] = {}
    made: dict[str, set[str]] = {}
    for entry in entries:
        by_key.setdefault(entry.artifact.key, []).append(entry)
        if entry.made_by is not None:
            made.setdefault(entry.made_by, set()).add(entry.artifact.key)
    needs: dict[str, list[str]] = {key: [] for key in by_key}
    for run, keys in sorted(keys_by_run.items()):
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
class Resumable:
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


def resumables_of(store: Store, keys_by_run: Mapping[str, frozenset[str]]) -> list[Resumable]:
    """One entry a stage that is not finished and has kept something."""
    found = []
    for stage, key, folder in store.resumables():
        words = next((state.words for state in training_states.states_in(folder)), "nothing")
        age = time.time() - folder.stat().st_mtime
        runs = sorted(run for run, keys in keys_by_run.items() if key in keys)
        found.append(Resumable(stage, key, folder, words, folder_bytes(folder), age, runs))
    return found


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
    entries: artifacts.
    needs: key of an artifact -> runs that need it.
    resumables: what is kept of stages that are not finished.
    unreadable: folders that may say who needs what, and cannot be read.
    """

    store: Store
    entries: list[Entry]
    needs: Mapping[str, list[str]]
    resumables: list[Resumable]
    unreadable: list[Path]

    @classmethod
    def of(cls, store: Store, root: Path) -> "Inventory":
        """What is in `store`, and which runs below `root` need it."""
        entries = entries_of(store)
        keys_by_run, unreadable = references_in(root)
        return cls(store, entries, runs_by_key(entries, keys_by_run), resumables_of(store, keys_by_run), unreadable)

    @property
    def free_entries(self) -> list[Entry]:
        """What no run needs."""
        return [entry for entry in self.entries if not self.needs[entry.artifact.key]]


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
    for artifact in artifacts:
        try:
            inode = artifact.path.stat().st_ino
            names, strange = list(manifest.altered_files(artifact.path)), list(manifest.strays(artifact.path))
        except FileNotFoundError:  # moved aside by a job meanwhile
            continue
        except OSError as error:
            names, strange, inode = [f"{error.filename or ''} ({error.strerror})"], [], -1
        num_bytes += folder_bytes(artifact.path)
        for name in names:
            print(f"{'damaged':<11}{artifact.stage}/{artifact.key}/{name}", flush=True)
        if names:
            broken.append(f"{artifact.stage}/{artifact.key}")
            if inode >= 0:
                _move_aside(store, artifact.path, names[0], inode)
        for name in strange:
            print(f"{'stray':<11}{artifact.stage}/{artifact.key}/{name}: no part of it", flush=True)
    for stage, key, folder in store.resumables():
        with _idle(store, stage, key) as idle:
            num_bytes += folder_bytes(folder)
            for name in (names := list(training_states.damaged_files(folder)) if idle else []):
                print(f"{'damaged':<11}{folder.parent.name}/{folder.name}/{name}", flush=True)
            if names:
                broken.append(f"what is kept of {stage}/{key}")
                _move_aside(store, folder, names[0], folder.stat().st_ino)
    print(f"{'verified':<11}{len(artifacts)} artifacts, {_words(num_bytes)}: {len(broken)} damaged", flush=True)
    if not broken:
        return None
    them = "; ".join(broken[:SHOWN]) + (f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else "")
    return f"{len(broken)} of {len(artifacts)} artifacts are damaged: {them}; the same commands make them again"


@contextmanager
def _idle(store: Store, stage: str, key: str) -> Iterator[bool]:
    """Whether nobody makes this artifact, nor begins to inside the block: who does changes what is kept of it."""
    with ExitStack() as stack:
        try:
            owner = stack.enter_context(store.key_lock(stage, key).hold_if_free())
        except OSError:  # a store that can only be read, and where nobody writes
            owner = None
        yield owner is None


def _move_aside(store: Store, folder: Path, damage: str, inode: int) -> None:
    try:
        if aside := store.quarantine(folder, damage, inode):
            print(f"{'':<11}moved to {aside}", flush=True)
    except UserError as error:  # of a store that is read only all damage is to be named
        print(f"{'':<11}{error}", flush=True)


def show(inventory: Inventory) -> None:
    """The listing, and what could be removed."""
    store, entries, free = inventory.store, inventory.entries, inventory.free_entries
    print(f"{'stage':<11}{'key':<21}{'size':>10}  {'age':>7}  needed by")
    for entry in entries:
        words = _names(inventory.needs[entry.artifact.key])
        words += "" if entry.readable else "; manifest.json is damaged: store.verify=true"
        size, age = _words(entry.num_bytes), _age(entry.age_seconds)
        print(f"{entry.artifact.stage:<11}{entry.artifact.key:<21}{size:>10}  {age:>7}  {words}")
    for path in store.unfinished_folders():
        owner = _owner(store, path)
        state = f"being made by {owner}" if owner else "unfinished, of a dead process"
        print(f"{path.parent.name:<11}{path.name[1:21]:<21}{_words(folder_bytes(path)):>10}  {'':>7}  {state}")
    for rest in inventory.resumables:
        size, age = _words(rest.num_bytes), _age(rest.age_seconds)
        print(f"{rest.stage:<11}{rest.key:<21}{size:>10}  {age:>7}  kept up to {rest.words}; {_names(rest.runs)}")
    for path in store.quarantined_folders():
        print(f"{'quarantine':<11}{path.name}  {_words(folder_bytes(path))}")
    for unread in inventory.unreadable:
        print(f"{'unreadable':<11}{unread}")
    total, freed = sum(entry.num_bytes for entry in entries), sum(entry.num_bytes for entry in free)
    print(f"{'total':<11}{len(entries)} artifacts, {_words(total)}; no run needs {len(free)} of them, {_words(freed)}")
    print(flush=True, end="")


def collect(inventory: Inventory) -> None:
    """Show what nobody needs, and remove it.

    Raises:
        UserError: a job is at work, or what is needed cannot be known.
    """
    store, free = inventory.store, inventory.free_entries
    _refuse_doubt(inventory)
    _refuse_company(store)
    given_up = [rest for rest in inventory.resumables if not rest.runs]
    again = [path for path in store.quarantined_folders() if _is_back(store, path)]
    doomed = [
        *((entry.name, entry.artifact.path) for entry in free),
        *((f"what is kept of {rest.stage}/{rest.key}", rest.folder) for rest in given_up),
        *((f"{path.parent.name}/{path.name}", path) for path in [*store.unfinished_folders(), *again]),
    ]
    total = sum(folder_bytes(path) for _, path in doomed)
    print(f"{'gc':<11}removing {len(doomed)} folders, {_words(total)}", flush=True)
    for name, path in doomed:
        print(f"{'':<11}{name}  {_words(folder_bytes(path))}", flush=True)
    for entry in free:
        _remove(store, entry.artifact)
    for path in store.unfinished_folders():
        key = path.name[1:21]
        with store.key_lock(path.parent.name, key).hold_if_free() as owner:
            if owner is None:
                store.sweep(path.parent.name, key)
    for rest in given_up:
        with store.key_lock(rest.stage, rest.key).hold_if_free() as owner:
            if owner is None:
                shutil.rmtree(rest.folder)
    for path in again:
        shutil.rmtree(path)
    left = [path for _, path in doomed if path.exists()]
    print(f"{'gc':<11}removed {len(doomed) - len(left)}; {len(left)} are in use and stay", flush=True)


def _refuse_doubt(inventory: Inventory) -> None:
    if damaged := next((entry for entry in inventory.entries if not entry.readable), None):
        raise UserError(f"{damaged.name} is damaged, so what it needs is not known; run store.verify=true first")
    if path := next(iter(inventory.unreadable), None):
        raise UserError(f"{path} cannot be read, so what it needs is not known; mend or move that folder first")


def _refuse_company(store: Store) -> None:
    for path in sorted((store.root / ".locks").glob("*.owner")):
        stage, _, key = path.stem.rpartition("-")
        with store.key_lock(stage, key).hold_if_free() as owner:
            if owner is not None:
                raise UserError(f"{stage}/{key} is being made by {owner}; use store.gc=true when no job is at work")


def _owner(store: Store, unfinished: Path) -> str | None:
    stage, key = unfinished.parent.name, unfinished.name[1:21]
    try:
        with store.key_lock(stage, key).hold_if_free() as owner:
            return owner
    except OSError:  # a store that can only be read
        return "nobody that can be asked in a store that is read only"


def _is_back(store: Store, aside: Path) -> bool:
    """Whether what was moved aside has been made again and is intact."""
    name = re.fullmatch(r"(?:\.?resume-)?(.+)-([0-9a-f]{20})-\d+", aside.name)
    if name is None:
        return False
    place = store.root / name.group(1) / name.group(2)
    return place.is_dir() and next(manifest.damaged_files(place), None) is None


def _remove(store: Store, artifact: Artifact) -> None:
    """First out of sight in one step, then gone: nobody sees half of it."""
    with store.key_lock(artifact.stage, artifact.key).hold_if_free() as owner:
        if owner is None:
            with suppress(FileNotFoundError):  # a job has moved it aside meanwhile
                os.replace(artifact.path, artifact.path.with_name(f".{artifact.key}.{REMOVED}"))
            store.sweep(artifact.stage, artifact.key)


def _names(runs: list[str]) -> str:
    """A few names of runs; "no run" where there are none."""
    return ", ".join(runs[-SHOWN:]) + (f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else "") or "no run"


def _words(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
