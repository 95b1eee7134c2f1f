"""The terminal: what tables are printed on, and what no library prints."""

import logging
import os
import shutil
import sys
import warnings

from rich.console import Console

FILE_WIDTH = 120
"""Characters a line where nobody's terminal says: in a file or a cluster's log, tables need not be narrow."""
HEIGHT = 25


class Terminal(Console):
    """Standard output, for which `expost.base.streams` spells what its encoding lacks."""

    @property
    def encoding(self) -> str:
        return "utf-8"


def new_console() -> Console:
    """Standard output, as wide as the terminal or as the variable COLUMNS says; a terminal that is dumb as well."""
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size((FILE_WIDTH, HEIGHT)).columns if is_known else FILE_WIDTH
    return Terminal(highlight=False, width=width, height=HEIGHT)


def be_quiet() -> None:
    """No warning, tip or deprecation message of a library reaches the user of a run."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # worker processes
    warnings.simplefilter("ignore")
    turn_loggers_down()


def turn_loggers_down() -> None:
    """Only errors of libraries are logged. torch and Lightning turn theirs up again when they are imported."""
    for name in ("pytorch_lightning", "lightning_fabric", "torch", "wandb", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("hydra", "opentelemetry"):  # the one logs what it then raises, the other that W&B's server is away
        logging.getLogger(name).setLevel(logging.CRITICAL)
