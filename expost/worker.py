"""A process that is one rank of a stage: `python -m expost.worker`, started by `expost.ranks.parent` alone.

It takes its order from the first line of standard input and ends when the rest of that input does, which is when its
parent is gone. What it says goes to the parent through what was its standard output; what a library prints there goes
to standard error instead.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from expost.base.runtime import keep_freed_memory
from expost.ranks.messages import Ending, Order

WAIT = timedelta(days=1)
"""In a collective: a rank that dies ends the others through its parent, so that whoever waits has a reason."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its ranks
    parent, lock = os.fdopen(os.dup(1), "wb"), threading.Lock()
    os.dup2(2, 1)

    def tell(message: Mapping[str, Any]) -> None:
        with lock:
            parent.write(json.dumps(message).encode() + b"\n")
            parent.flush()

    order = Order(**json.loads(sys.stdin.buffer.readline()))
    keep_freed_memory()
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        tell({"done": carry_out(order, tell)})
        os._exit(0)  # what is left of the libraries' own endings can hang
    except BaseException as error:
        tell({"ending": asdict(Ending.of(error))})
        os._exit(1)  # others wait in a collective that this one has left; nothing here is worth a tidy end


def end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def carry_out(order: Order, tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Make this rank's part of the stage; its final figures. `tell` sends a line to the parent."""
    from expost import pipeline
    from expost.base.command import Command
    from expost.base.terminal import be_quiet
    from expost.config.schema import Config
    from expost.job import Job
    from expost.ranks.rendezvous import connect
    from expost.store.artifacts import Store
    from expost.training.loggers import Relay
    from expost.training.tracking import Tracker

    be_quiet()
    config = Config.model_validate(order.config)
    folder = connect(order, config.trainer, WAIT)
    job = Job(
        config,
        Command(),
        Store(Path(order.store)),
        order.overrides,
        quiet=order.quiet or order.rank > 0,
        max_images=order.max_images,
        rank=order.rank,
        world=order.world,
        relay=tell,
    )
    tracker = Tracker([Relay(tell)] if order.rank == 0 else [])
    return dict(pipeline.take_part(order.stage, order.key, job, folder, tracker, keeps=not order.quiet))


if __name__ == "__main__":
    main()
