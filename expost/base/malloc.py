"""Keeping freed memory for the next step.

glibc hands what a step of training frees at the end of its heap back to the kernel, and the next step pays for every
page anew: a tenth to a fifth of a small transformer's step.
"""

import ctypes
import sys

MALLOPT = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**28
"""Free memory that a process holds on to at most, at the end of its heap."""
OWN_PAGES_BYTES = 2**25
"""Blocks from this size on have pages of their own, which are handed back at once; glibc accepts no more."""


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB that it has freed. Elsewhere than with glibc nothing happens."""
    if MALLOPT is not None:
        MALLOPT(M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
        MALLOPT(M_TRIM_THRESHOLD, KEPT_BYTES)
