"""What a process asks of the C libraries below torch, memory that it keeps, threads that wait for work, and of Python.

glibc hands what a step of training frees at the end of its heap back to the kernel, and the next step pays for every
page anew: a tenth to a fifth of a small transformer's step.

OpenMP's threads meet at the end of each of a step's hundred small kernels. One that goes to sleep there wakes too late
for the next; one that spins on and on, while another process holds the core of the last to come, makes a small net's
step on a busy machine take twice as long. One that spins for some ten microseconds and then sleeps loses nothing on a
busy machine, and on an idle one gains most of what spinning on would.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28
"""Free memory that a process holds on to at most, at the end of its heap."""
OWN_PAGES_BYTES = 2**25
"""Blocks from this size on have pages of their own, which are handed back at once; glibc accepts no more."""

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables that say how idle threads wait."""
SPINS = 10_000
"""Turns that a thread waits awake, of GNU's OpenMP, which torch for Linux carries. Measured from 1,000 to 100,000:
fewer than 5,000 gain less on an idle machine, 100,000 lose on a busy one."""


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let idle threads of what starts in `environment` spin briefly before they sleep, unless it says how they wait.

    It is read when torch is loaded. Other OpenMP than GNU's reads the first of both variables alone, and sleeps.
    """
    if not any(name in environment for name in WAITING):
        environment.update(zip(WAITING, ("PASSIVE", str(SPINS)), strict=True))


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB that it has freed. Elsewhere than with glibc nothing happens."""
    if MALLOPT is not None:
        MALLOPT(M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
        MALLOPT(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextmanager
def loading(module: str) -> Iterator[None]:
    """Load `module`, and what comes with it, without the search for cyclic garbage, which passes over it from then on.

    The modules of torch, Lightning and W&B make half a million objects that stay. Each of them is a reason for the next
    search, and all of them are searched: a quarter to a third of the seconds that loading takes. Where the module is
    there already nothing happens, since what a stage has left behind must still be found.
    """
    if module in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
