"""Whose code a file is."""

import sysconfig
from pathlib import Path

INSTALLED = {"site-packages", "dist-packages"}
"""Folders of libraries, of whichever interpreter."""
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_own(path: Path) -> bool:
    """Whether a file is no library's: releases of those have numbers."""
    return not INSTALLED.intersection(path.parts) and not any(library in path.parents for library in LIBRARIES)
