"""A full evaluation of one prior on MNIST: seconds of each part, and peak memory beyond the model.

    python -m benchmarks.judge.full_evaluation --data DIR [--root DIR]

The reference VAE and a mixture are made first, or found where --root has them; so is the feature net, which is trained
once a data set. Then `stage=evaluate` runs as a user runs it: 10,000 samples, an importance-weighted bound of 64
samples on 10,000 test images, surgery, all distances. Its memory is that of the command less that of the same command
with nothing to do but load data and models. Prints one table; exits with 1 when a target is missed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.child import machine, pipeline

TARGET_SECONDS, TARGET_GIB = 60.0, 2.0
LITTLE = ("evaluation.num_samples=200", "evaluation.num_bound_images=100", "evaluation.importance_samples=1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, help="paths.root whose store may hold the VAE; a scratch folder otherwise")
    parser.add_argument("words", nargs="*", help="more words of the configuration, as prior=autoregressive")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="expost-evaluation-") as scratch:
        root = options.root or Path(scratch)
        words = [
            "experiment=mnist_reference",
            f"data.root={options.data.absolute()}",
            f"paths.root={root}",
            *options.words,
        ]
        pipeline(*words, *LITTLE)  # makes the VAE, the prior and the feature net, or finds them
        loaded = pipeline(*words, "stage=prior")
        evaluated = pipeline(*words, "stage=evaluate", f"seeds.sample={int(time.time())}")  # never in the store
        report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    seconds = report["seconds"]
    print(f"{machine()}; {report['num_samples']:,} samples, IWAE-{report['importance_samples']}, {report['features']}")
    print(f"{'part':32}{'seconds':>10}")
    for part, spent in seconds.items():
        print(f"{part:32}{spent:10.1f}")
    rest = evaluated.seconds - sum(seconds.values())
    print(f"{'start, data, models, report':32}{rest:10.1f}")
    beyond = evaluated.peak_gib - loaded.peak_gib
    reached = evaluated.seconds < TARGET_SECONDS, beyond < TARGET_GIB
    verdicts = ["reached" if good else "MISSED" for good in reached]
    print(f"{'the whole command':32}{evaluated.seconds:10.1f}  under {TARGET_SECONDS:.0f} s: {verdicts[0]}")
    print(f"{'peak GiB beyond the model':32}{beyond:10.2f}  under {TARGET_GIB:.0f} GiB: {verdicts[1]}")
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
