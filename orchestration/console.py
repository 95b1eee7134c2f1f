"""The terminal that tables are printed on."""

import os
import sys

from rich.console import Console

FILE_WIDTH = 120
"""Characters a line where nobody's terminal says: in a file or a cluster's log, tables need not be narrow."""


def new_console() -> Console:
    """Standard output, as wide as the terminal or as the variable COLUMNS says."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if told else FILE_WIDTH)
