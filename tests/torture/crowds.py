"""Eight processes, one store, one VAE: it is trained once; when its trainer is killed, one of the others takes over."""

import json
import random
import re
import time
from collections.abc import Mapping
from pathlib import Path

from pool import LONGEST_SECONDS, Attempt, Plan, Tally
from recipe import Reference, comparable, difference, leftovers

from expost.store.artifacts import Store

FULL = 10
SIZE = 8
TRAINED = re.compile(r"^vae +done in ", re.M)


def crowds(plan: Plan, known: Mapping[str, Reference]) -> Tally:
    tally = Tally()
    for number in plan.numbers(FULL):
        said = _crowd(plan, known["mixture"], number)
        tally.tried += 1
        tally.held += said is None
        if said is not None:
            print(f"{'not held':<13}crowd {number}, seed {plan.seed}: {said}", flush=True)
    return tally


def _crowd(plan: Plan, reference: Reference, number: int) -> str | None:
    """One crowd; its trainer is killed so many times as `number` modulo three says."""
    draw = random.Random(f"{plan.seed} crowd {number}")
    folder, num_kills = plan.root / f"crowd-{number}", number % 3
    words = (*reference.words, "stage=vae")
    crowd = [Attempt(folder, words) for _ in range(SIZE)]
    killed: list[Attempt] = []
    for _ in range(num_kills):
        trainer = _trainer(folder, [attempt for attempt in crowd if attempt not in killed])
        if trainer is None:
            break
        time.sleep(draw.random() * reference.seconds[0] / 10)
        if trainer.poll() is None:
            trainer.kill()
            killed.append(trainer)
    ends = [attempt.wait() for attempt in crowd if attempt not in killed]
    ends.append(Attempt(folder, words).wait())  # who comes last finds all done, and clears away what the dead left
    if wrong := [end for end in ends if end.code or end.err]:
        return f"{len(wrong)} ended otherwise: {wrong[0].code}: {wrong[0].err[-500:]}"
    trained = sum(bool(TRAINED.search(end.out)) for end in ends) + _finished(killed)
    if trained != 1:
        return f"trained {trained} times"
    expected = {name: content for name, content in reference.content.items() if name.startswith("vae/")}
    unlike = difference(expected, comparable(Store(folder / "runs/store")))
    return f"other content in {unlike}" if unlike else leftovers(folder)


def _finished(killed: list[Attempt]) -> int:
    """How many of those that were killed had already said that they were done."""
    return sum(bool(TRAINED.search(attempt.ended.out)) for attempt in killed if attempt.ended)


def _trainer(folder: Path, crowd: list[Attempt]) -> Attempt | None:
    """Who holds the lock; None when all is done."""
    started = time.monotonic()
    while time.monotonic() - started < LONGEST_SECONDS and any(attempt.poll() is None for attempt in crowd):
        for path in folder.glob("runs/store/.locks/vae-*.owner"):
            try:
                process = json.loads(path.read_text(encoding="utf-8"))["process"]
            except (OSError, ValueError):
                continue
            if found := [attempt for attempt in crowd if attempt.process == process]:
                return found[0]
        time.sleep(0.005)
    return None
