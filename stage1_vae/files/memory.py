"""How much memory there is to take."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_bytes() -> int:
    """What this process can still take without swapping, in bytes: of the machine, within a container's limit."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):  # only Linux says more
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    for path in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            found = min(found, int(Path(path).read_text(encoding="utf-8")))
    return found
