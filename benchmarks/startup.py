"""What a command costs that has nothing to do: processor seconds, beside those of an earlier checkout.

    python -m benchmarks.startup CHECKOUT [--repeats 5]

Four commands on the embedded digits with debug=fast: `stage=report` and `stage=all` of a run whose every stage is in
the store, `--help`, and a sweep of 12 such runs in one process. Each checkout first fills a store of its own; then the
two take turns. User and system seconds of the process and of those that it waits for; medians. Exits with 1 when a
ratio misses its target.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.child import HERE, machine, pipeline

JOB = ("debug=fast", "logger=csv")
SWEEP = ("-m", *JOB, "prior=gaussian,mixture,autoregressive", "seed=0,1,2,3")
COMMANDS = {
    "stage=report": ((*JOB, "stage=report"), 0.35),
    "stage=all": (JOB, 0.35),
    "--help": (("--help",), 0.7),
    "-m, 12 jobs": (SWEEP, 0.35),
}
"""Name -> words, and at most which share of the other checkout's seconds."""
ABILITIES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor() -> str:
    """The processor and what it can do that torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [name for name in ABILITIES if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', 'unknown processor')}: {', '.join(flags) or 'none of ' + ', '.join(ABILITIES)}"


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    return done.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="an earlier checkout of the project")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    checkouts = (HERE, options.checkout.resolve())
    seconds = {(name, checkout): [] for name in COMMANDS for checkout in checkouts}
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="expost-startup-") as folder:
        roots = {checkout: f"paths.root={folder}/{i}" for i, checkout in enumerate(checkouts)}
        for checkout in checkouts:
            for words in (JOB, SWEEP):  # made here, found from here on
                pipeline(*words, roots[checkout], checkout=checkout)
        for _ in range(options.repeats):
            for name, (words, _) in COMMANDS.items():
                for checkout in checkouts:
                    measured = pipeline(*words, *[roots[checkout]] * (name != "--help"), checkout=checkout)
                    if " done in " in measured.output:
                        raise SystemExit(f"{name} found a stage missing and made it:\n{measured.output}")
                    seconds[name, checkout].append(measured.cpu_seconds)
    print(f"{processor()}; {machine()}; medians of {options.repeats}")
    print(f"this is {commit(HERE)}, the other one {commit(checkouts[1])}\n")
    heads = "".join(f"{side:>8}{'(min - max)':>16}" for side in ("this", "other"))
    print(f"{'processor seconds':20}{heads}{'ratio':>8}{'target':>8}")
    missed = False
    for name, (_, target) in COMMANDS.items():
        medians = [statistics.median(seconds[name, checkout]) for checkout in checkouts]
        ranges = [f"({min(seconds[name, c]):.2f} - {max(seconds[name, c]):.2f})" for c in checkouts]
        ratio = medians[0] / medians[1]
        missed |= ratio > target
        cells = "".join(f"{median:8.2f}{spread:>16}" for median, spread in zip(medians, ranges, strict=True))
        print(f"{name:20}{cells}{ratio:8.3f}{target:8.2f}  {'reached' if ratio <= target else 'MISSED'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
