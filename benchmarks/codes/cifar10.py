"""`experiment=cifar10_vq2` cut to an epoch of each stage: a proof on a processor that all of a GPU's recipe runs.

    python -m benchmarks.codes.cifar10 --data DIR [--root runs/bench/cifar10] [--out docs/measured/cifar10_vq2.md]

`DIR` is CIFAR-10 as a folder of images. Every figure of the report must be finite: exits with 1 otherwise.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from benchmarks.child import machine, pipeline
from benchmarks.codes.mnist_vq import number

SHORTENED = ("trainer.max_epochs=1", "prior.fit.max_epochs=1", "evaluation.num_samples=2000")
COLUMNS = {
    "latent_nll_nats": "-log P(codes), nats",
    "bits_per_dim": "bits per dimension",
    "frechet_distance": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a folder of images")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/cifar10"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    places = (f"data.root={options.data.absolute()}", f"paths.root={options.root.absolute()}")
    taken = pipeline("experiment=cifar10_vq2", *places, *SHORTENED, "logger=csv")
    report = json.loads((options.root / "latest" / "report.json").read_text(encoding="utf-8"))
    rows = {name: row for name, row in report["rows"].items() if name != "train_against_test"}
    values = [row[key] for row in rows.values() for key in COLUMNS if row.get(key) is not None]
    is_finite = all(math.isfinite(value) for value in values)
    lines = [
        f"| {name.replace('_', ' ')} | {' | '.join(number(row.get(key)) for key in COLUMNS)} |"
        for name, row in rows.items()
    ]
    section = "\n\n".join(
        [
            "## cifar10_vq2, shortened",
            "CIFAR-10 as a folder of images, 4x4 and 8x8 codes of two codebooks of 512, a transformer over both; one "
            f"seed, one epoch of each stage. {report['num_samples']:,} samples against "
            f"{report['reference']}, in {report['features']}; nats an image over {report['num_bound_images']:,} test "
            "images, exact. One epoch is a proof that all of it runs, not a figure to compare: the full recipe is for "
            "a GPU and has not been run.",
            f"    python pipeline.py experiment=cifar10_vq2 data.root=DIR {' '.join(SHORTENED)}",
            "\n".join([f"| prior | {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * len(COLUMNS)}", *lines]),
            f"- {len(values)} figures, {'all finite' if is_finite else 'NOT all finite'}; "
            f"{taken.cpu_seconds / 60:.0f} minutes of processor time, {taken.peak_gib:.1f} GiB at most; "
            f"{report['provenance']['hardware']}; torch {report['provenance']['torch']}; {machine()} at the end.",
        ]
    )
    print(section)
    if options.out:
        options.out.write_text(section + "\n", encoding="utf-8")
    return 0 if is_finite else 1


if __name__ == "__main__":
    sys.exit(main())
