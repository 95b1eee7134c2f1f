"""What a newcomer waits for: `python pipeline.py` on the embedded digits, and `--help`. Prints one table.

    python -m benchmarks.quickstart [--repeats 3]

Each run starts from nothing: a new paths.root, so every stage is made. Medians. Exits with 1 when a target is missed.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.child import Measured, machine, pipeline

RUN_SECONDS, RUN_GIB, HELP_SECONDS = 60.0, 1.5, 1.5


def fresh_run() -> Measured:
    with tempfile.TemporaryDirectory(prefix="expost-quickstart-") as root:
        measured = pipeline(f"paths.root={root}")
        if not (Path(root) / "latest" / "report.json").is_file():
            raise SystemExit(f"no report was written:\n{measured.output}")
        return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine()}, medians of {options.repeats}")
    runs = [fresh_run() for _ in range(options.repeats)]
    helps = [pipeline("--help") for _ in range(options.repeats)]
    rows = [
        ("pipeline.py, wall seconds", [run.seconds for run in runs], RUN_SECONDS),
        ("pipeline.py, peak GiB", [run.peak_gib for run in runs], RUN_GIB),
        ("--help, wall seconds", [run.seconds for run in helps], HELP_SECONDS),
    ]
    print(f"{'':28}{'median':>10}{'(min - max)':>18}{'target':>10}")
    for name, values, target in rows:
        median, spread = statistics.median(values), f"({min(values):.2f} - {max(values):.2f})"
        print(f"{name:28}{median:10.2f}{spread:>18}{target:10.1f}  {'reached' if median <= target else 'MISSED'}")
    return 0 if all(statistics.median(values) <= target for _, values, target in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
