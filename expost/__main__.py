"""Where the program starts: `--help` alone is answered at once, all else by `expost.cli` when that is imported."""

import os
import string
import sys

from omegaconf import OmegaConf

from expost.base import streams
from expost.base.command import remember_program
from expost.base.places import CONF


def main() -> int:
    """Run what the command line says; the exit code."""
    streams.open_streams()
    try:
        if sys.argv[1:] in (["--help"], ["-h"]):
            code = 0
            remember_program()
            print(help_text())
        else:
            from expost.cli import run  # Hydra, and the schema of the configuration: what `--help` does without

            code = run()
        sys.stdout.flush()
        return code
    except streams.Unheard as lost:
        return streams.end(lost)


def help_text() -> str:
    """What Hydra prints for `--help`, which composes the configuration and reads every group twice for it."""
    template = OmegaConf.load(CONF / "config.yaml").hydra.help.template
    groups = {}
    for folder, _, files in os.walk(CONF):
        choices = sorted(file.removesuffix(".yaml") for file in files if file.endswith(".yaml"))
        groups[os.path.relpath(folder, CONF)] = ", ".join(choices)
    lines = [f"{group}: {choices}\n" for group, choices in sorted(groups.items()) if group != "." and choices]
    return string.Template(template).substitute(APP_CONFIG_GROUPS="".join(lines))


if __name__ == "__main__":
    sys.exit(main())
