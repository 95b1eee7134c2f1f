"""The terminal that tables are printed on."""

import os
import shutil
import sys

from rich.console import Console

FILE_WIDTH = 120
"""Characters a line where nobody's terminal says: in a file or a cluster's log, tables need not be narrow."""
HEIGHT = 25


class Terminal(Console):
    """Standard output, for which `orchestration.streams` spells what its encoding lacks."""

    @property
    def encoding(self) -> str:
        return "utf-8"


def new_console() -> Console:
    """Standard output, as wide as the terminal or as the variable COLUMNS says; a terminal that is dumb as well."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size((FILE_WIDTH, HEIGHT)).columns if told else FILE_WIDTH
    return Terminal(highlight=False, width=width, height=HEIGHT)
