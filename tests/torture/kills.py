"""SIGKILL at random moments of stage=all: the same command completes, and all is as if nobody had killed anything."""

import random
import shutil
from collections.abc import Mapping
from functools import partial

from pool import Attempt, Plan, Tally, side_by_side
from recipe import Reference, comparable, difference, leftovers

from expost.store.artifacts import Store

FULL = 100
NEW_SHARE = 0.2
"""Of the attempts that are new processes."""
AGAIN_SHARE = 0.3
"""Of the restarts that are killed too."""
EARLIEST = 2**-10
"""Of the undisturbed time: a command that is done by then does nothing."""


def kills(plan: Plan, known: Mapping[str, Reference]) -> Tally:
    names = list(known)
    numbers = plan.numbers(FULL)
    return side_by_side(plan, ((f"kill {n}", partial(kill, plan, known[names[n % len(names)]], n)) for n in numbers))


def kill(plan: Plan, reference: Reference, number: int) -> str | None:
    """One fresh store, one kill or more, and a restart that nobody disturbs; what did not hold."""
    draw = random.Random(f"{plan.seed} kill {number}")
    folder = plan.root / f"kill-{number}"
    moments: list[str] = []
    latest = 1.0  # of the time that the command takes undisturbed
    while not moments or (draw.random() < AGAIN_SHARE and len(moments) < 5):
        anew = draw.random() < NEW_SHARE
        moment = latest * draw.random() * reference.seconds[anew]
        when = f"{moment:.3f} s of {'a new process' if anew else 'a fork'}"
        end = Attempt(folder, reference.words, anew).wait(moment)
        if end.killed:
            moments.append(when)
            continue
        if end.code or end.err:
            return f"to be killed at {[*moments, when]}: ended by itself with {end.code}: {end.err[-500:]}"
        if moments:  # the work of the killed ones is complete
            break
        shutil.rmtree(folder)
        latest /= 2  # nobody was killed: the machine is less busy than it was
        if latest < EARLIEST:
            return f"was to be killed at {when} and was quicker"
    end = Attempt(folder, reference.words, anew=draw.random() < NEW_SHARE).wait()
    said = None
    if end.code or end.err:
        said = f"the restart ended with {end.code}: {end.err[-500:]}"
    elif unlike := difference(reference.content, comparable(Store(folder / "runs/store"))):
        said = f"other content in {unlike}"
    elif left := leftovers(folder):
        said = f"left behind: {left}"
    if said is None:
        shutil.rmtree(folder)
        return None
    return f"killed at {moments}: {said}"
