"""Single bytes changed in a store: each is found and named by the verification that loading uses, none is lost."""

import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from pool import Attempt, Plan, Tally
from recipe import Reference

from expost.store import manifest
from expost.store import training_states as kept
from expost.store.artifacts import Store

FULL = 500


def corruptions(plan: Plan, known: Mapping[str, Reference]) -> Tally:
    """All files of a store with a finished run and what a killed one has kept."""
    folder = plan.root / "corrupted"
    words = known["autoregressive"].words
    shutil.copytree(known["autoregressive"].folder, folder)
    _leave_a_state(folder, (*words, "seed=1", "stage=vae", "trainer.max_epochs=100000", "trainer.max_steps=null"))
    store = Store(folder / "runs/store")
    folders = [artifact.path for artifact in store.artifacts()] + [place for _, _, place in store.resumables()]
    files = [path for place in folders for path in sorted(place.rglob("*")) if path.is_file() and path.stat().st_size]
    tally, hit = Tally(), set()
    for number in plan.numbers(FULL):
        draw = random.Random(f"{plan.seed} corruption {number}")
        # Half of them are spread over files, and not over bytes, so that small files are hit too.
        weights = None if number % 2 else [path.stat().st_size for path in files]
        path = draw.choices(files, weights)[0] if number >= len(files) else files[number]
        at, change = draw.randrange(path.stat().st_size), draw.randrange(1, 256)
        hit.add(path)
        said = _corrupted(store, next(place for place in folders if path.is_relative_to(place)), path, at, change)
        tally.tried += 1
        tally.held += said is None
        if said is not None:
            print(f"{'not held':<13}corruption {number}, seed {plan.seed}: {path}, byte {at}: {said}", flush=True)
    tally.remarks.append(f"in {len(hit)} of {len(files)} files")
    return tally


def _leave_a_state(folder: Path, words: tuple[str, ...]) -> None:
    """Kill a training as soon as it has kept an epoch."""
    attempt = Attempt(folder, words)
    while not list(folder.glob("runs/store/.resume/*/epoch-*")):
        if attempt.poll() is not None:
            raise SystemExit(f"a training that was to be killed ended: {attempt.ended}")
        time.sleep(0.005)
    attempt.kill()


def _corrupted(store: Store, folder: Path, path: Path, at: int, change: int) -> str | None:
    """Change one byte, look, and put all back; what did not hold."""
    intact = path.read_bytes()
    path.write_bytes(intact[:at] + bytes([intact[at] ^ change]) + intact[at + 1 :])
    name = path.relative_to(folder).as_posix()
    try:
        if folder.parent.name == ".resume":
            return _missed_state(store, folder, path)
        named = list(manifest.damaged_files(folder))
        if named != [name]:
            return f"named {named}"
        if store.find(folder.parent.name, folder.name) is not None:
            return "loaded"
        (aside,) = store.quarantined_folders()
        aside.rename(folder)
        return None
    finally:
        path.write_bytes(intact)


def _missed_state(store: Store, folder: Path, path: Path) -> str | None:
    if (named := list(kept.damaged_files(folder))) != [path.name]:
        return f"named {named}"
    states = kept.TrainingStates(folder, store.root / "quarantine", share=0)
    if states.find("ckpt", lambda path: None) is not None:
        return "loaded"
    (aside,) = store.quarantined_folders()
    (aside / path.name).rename(path)
    aside.rmdir()
    return None
