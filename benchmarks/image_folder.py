"""Processor seconds to read a folder of images into memory, and whether another checkout reads the same.

    python -m benchmarks.image_folder --data FOLDER [--against CHECKOUT] [--rounds 5]

User and system seconds of `ImageFolder(FOLDER).load()`, without the imports, one process each; with `--against`, of
both checkouts in turn, round by round, and the ratio is of the medians. Exits with 1 when it is above 1.05, or when the
two make different fingerprints of the folder.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TARGET_RATIO = 1.05
CHILD = """
import resource, sys
from stage1_vae.data.image_folder import ImageFolder

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

started = spent()
data = ImageFolder(sys.argv[1], memory_limit_gib=64).load()
print(spent() - started, data.fingerprint, len(data.train) + len(data.val) + len(data.test))
"""


def read(checkout: Path, folder: Path) -> tuple[float, str, int]:
    """Processor seconds, fingerprint and number of images."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")
    seconds, fingerprint, num = done.stdout.split()
    return float(seconds), fingerprint, int(num)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    checkouts = {"this": HERE} | ({"other": options.against.resolve()} if options.against else {})
    found = {name: [] for name in checkouts}
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            found[name].append(read(checkout, options.data.resolve()))
    medians = {name: statistics.median(seconds for seconds, _, _ in rounds) for name, rounds in found.items()}
    print("| checkout | images | processor seconds, median | all rounds | fingerprint |\n|---|---:|---:|---|---|")
    for name, rounds in found.items():
        each = ", ".join(f"{seconds:.2f}" for seconds, _, _ in rounds)
        print(f"| {name} | {rounds[0][2]:,} | {medians[name]:.2f} | {each} | {rounds[0][1][:12]} |")
    if "other" not in medians:
        return 0
    ratio = medians["this"] / medians["other"]
    same = found["this"][0][1] == found["other"][0][1]
    print(f"\nratio {ratio:.3f} (at most {TARGET_RATIO}), {'the same' if same else 'DIFFERENT'} fingerprints")
    return int(ratio > TARGET_RATIO or not same)


if __name__ == "__main__":
    sys.exit(main())
