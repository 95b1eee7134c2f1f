"""Bars and clocks on the terminal for whatever takes longer than two seconds; silence elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from expost.config.schema import Trainer

DELAY_SECONDS = 2.0


def show_progress(settings: Trainer) -> bool:
    """Bars are drawn on a terminal only, unless the user says otherwise."""
    return sys.stderr.isatty() if settings.progress == "auto" else settings.progress


def bar(label: str, shown: bool, items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm bar in this project's manner: on stderr, after two seconds, gone when it is done."""
    return tqdm(
        items,
        desc=label,
        disable=not shown,
        delay=DELAY_SECONDS,
        leave=False,
        file=sys.stderr,
        dynamic_ncols=True,
        **options,
    )


@contextmanager
def counting(label: str, shown: bool, log: Callable[..., None]) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """`log` with a bar that counts its calls and shows the last figures: for loops that report each round."""
    with bar(label, shown, unit="round") as counter:

        def log_round(figures: Mapping[str, float], step: int) -> None:
            counter.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
            counter.update()
            log(figures, step)

        yield log_round


@contextmanager
def clock(label: str, shown: bool) -> Iterator[None]:
    """Seconds since the block began, for work that cannot say how far it is."""
    if not shown:
        yield
        return
    over = threading.Event()
    started = time.perf_counter()

    def tick() -> None:
        if over.wait(DELAY_SECONDS):
            return
        while not over.wait(0.5):
            sys.stderr.write(f"\r{label}: {time.perf_counter() - started:.0f} s ")
            sys.stderr.flush()
        sys.stderr.write("\r" + " " * (len(label) + 12) + "\r")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
