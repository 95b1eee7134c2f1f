"""Where this package, its configurations and what stands beside it are."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf"
"""In a checkout a link to the folder beside the package; installed, a folder of the package."""
PROJECT = PACKAGE.parent
"""The folder that a process of its own needs on its path, to import what this one does."""


def python_path() -> str:
    """`PYTHONPATH` of such a process."""
    paths = [str(PROJECT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(paths))
