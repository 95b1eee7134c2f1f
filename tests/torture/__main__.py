"""make torture: faults injected into real runs, and what the store promises checked after each.

    python tests/torture [--share 0.2] [--seed 0] [--workers 2] [--only kills,corruptions,crowds,disks] [--number N]

The last line says how many of each were tried and how many held; the exit code is 0 only if all held. Every fault is
drawn from the seed and its number alone, both of which are printed where one does not hold: `--only kills --number 17`
does the 17th again. The folders of those that did not hold stay, and are named.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: forked children compute in one thread, as new processes
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> int:
    asked = parse()
    started = time.monotonic()
    from corruptions import corruptions
    from crowds import crowds
    from disks import full_disks
    from kills import kills
    from pool import Plan, preload
    from recipe import references

    root = Path(tempfile.mkdtemp(prefix="torture-"))
    print(f"{'seed':<13}{asked.seed}; folder {root}", flush=True)
    preload()
    plan = Plan(root, asked.seed, asked.share, asked.workers, asked.number)
    known = references(plan)
    families = {"kills": kills, "corruptions": corruptions, "crowds": crowds, "disks": full_disks}
    tallies = {}
    for family, injure in families.items():
        if family in asked.only:
            begun = time.monotonic()
            tallies[family] = injure(plan, known)
            print(f"{family:<13}{tallies[family].words}, {time.monotonic() - begun:.0f} s", flush=True)
    all_held = all(tally.tried == tally.held and tally.tried for tally in tallies.values())
    plan.clear(keep=not all_held)
    summary = ", ".join(f"{name} {tally.words}" for name, tally in tallies.items())
    print(f"torture: {summary}; {time.monotonic() - started:.0f} s; {'all held' if all_held else 'NOT ALL HELD'}")
    return 0 if all_held else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/torture")
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="faults that are tried side by side")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=["kills", "corruptions", "crowds", "disks"]
    )
    parser.add_argument("--number", type=int, help="one fault of the family instead of all")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
