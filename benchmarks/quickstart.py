"""What a newcomer waits for: `python pipeline.py` on the embedded digits, and `--help`. Prints one table.

    python -m benchmarks.quickstart [--repeats 3] [--against CHECKOUT]

Each run starts from nothing: a new paths.root, so every stage is made. Medians. With `--against` an earlier checkout
runs in turn (the target is against d4dc000): the ratio of their seconds, and what each says of its test images, over as
many seeds as there are repeats. Exits with 1 when a target is missed, or where the bound of this one is worse.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import HERE, Measured, machine, pipeline
from benchmarks.startup import commit, processor

RUN_SECONDS, RUN_GIB, HELP_SECONDS = 60.0, 1.5, 1.5
SHARE = 0.6
"""Of an earlier checkout's seconds, at most."""
FIGURES = {"iwae_nats": "importance-weighted bound, nats", "frechet_distance": "Frechet distance"}
"""Of the learned prior; less is better."""


@dataclass(frozen=True)
class Run:
    """A first run: what it cost, and its learned prior's figures."""

    measured: Measured
    figures: dict[str, float]


def fresh_run(checkout: Path, seed: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="expost-quickstart-") as root:
        measured = pipeline(f"paths.root={root}", f"seed={seed}", checkout=checkout)
        report = Path(root) / "latest" / "report.json"
        if not report.is_file():
            raise SystemExit(f"no report was written:\n{measured.output}")
        row = json.loads(report.read_text(encoding="utf-8"))["rows"]["mixture"]
    return Run(measured, {name: row[name] for name in FIGURES})


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):10.2f}{f'({min(values):.2f} - {max(values):.2f})':>18}"


def print_targets(runs: list[Run], helps: list[Measured]) -> bool:
    """The table of this checkout alone; whether all targets are reached."""
    rows = [
        ("pipeline.py, wall seconds", [run.measured.seconds for run in runs], RUN_SECONDS),
        ("pipeline.py, peak GiB", [run.measured.peak_gib for run in runs], RUN_GIB),
        ("--help, wall seconds", [run.seconds for run in helps], HELP_SECONDS),
    ]
    print(f"{'':34}{'median':>10}{'(min - max)':>18}{'target':>10}")
    for name, values, target in rows:
        state = "reached" if statistics.median(values) <= target else "MISSED"
        print(f"{name:34}{spread(values)}{target:10.1f}  {state}")
    return all(statistics.median(values) <= target for _, values, target in rows)


def print_comparison(runs: list[Run], others: list[Run]) -> bool:
    """This checkout beside another; whether it takes the share of the seconds that it may, at no worse a bound."""
    pairs = list(zip(runs, others, strict=True))
    ratio = statistics.median(own.measured.seconds / other.measured.seconds for own, other in pairs)
    print(f"\n{'':34}{'this':>10}{'':18}{'other':>10}")
    for name, title in FIGURES.items():
        print(f"{title:34}" + "".join(spread([run.figures[name] for run in side]) for side in (runs, others)))
    sides = "".join(spread([run.measured.seconds for run in side]) for side in (runs, others))
    print(f"{'wall seconds':34}{sides}{ratio:10.3f} of them; at most {SHARE}")
    worse = statistics.median(own.figures["iwae_nats"] - other.figures["iwae_nats"] for own, other in pairs) > 0
    return ratio <= SHARE and not worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, help="an earlier checkout of the project")
    options = parser.parse_args()
    print(f"{processor()}; {machine()}; medians of {options.repeats}")
    checkouts = [HERE, *([] if options.against is None else [options.against.resolve()])]
    print(f"this is {commit(HERE)}" + "".join(f", the other one {commit(other)}" for other in checkouts[1:]))
    runs: dict[Path, list[Run]] = {checkout: [] for checkout in checkouts}
    for seed in range(options.repeats):
        for checkout in checkouts:
            runs[checkout].append(fresh_run(checkout, seed))
    reached = print_targets(runs[HERE], [pipeline("--help") for _ in range(options.repeats)])
    for checkout in checkouts[1:]:
        reached &= print_comparison(runs[HERE], runs[checkout])
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
