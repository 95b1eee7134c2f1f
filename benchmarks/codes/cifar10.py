"""`experiment=cifar10_vq2` cut to an epoch of each stage: a proof on a processor that all of a GPU's recipe runs.

    python -m benchmarks.codes.cifar10 --data DIR [--out docs/measured/cifar10_vq2.md]

`DIR` is CIFAR-10 as a folder of images. Every figure of the report must be finite: exits with 1 otherwise.
"""

import argparse
import json
import sys
import tempfile
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

UNRATED = ("aggregate_draws", "reconstructions")


def expected(row: str) -> list[str]:
    """What a row has where all is finite: images that no prior drew cost no nats, and infinity is written as none."""
    return [key for key in COLUMNS if row not in UNRATED or key not in ("latent_nll_nats", "bits_per_dim")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a folder of images")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="expost-cifar10-") as root:  # seconds and memory are of a run from nothing
        places = (f"data.root={options.data.absolute()}", f"paths.root={root}")
        taken = pipeline("experiment=cifar10_vq2", *places, *SHORTENED, "logger=csv")
        report = json.loads((Path(root) / "latest" / "report.json").read_text(encoding="utf-8"))
    rows = {name: row for name, row in report["rows"].items() if name != "train_against_test"}
    lacking = [f"{name}: {key}" for name, row in rows.items() for key in expected(name) if row.get(key) is None]
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
            f"- {'Not finite: ' + ', '.join(lacking) if lacking else 'Every figure is finite'}; "
            f"{taken.cpu_seconds / 60:.0f} minutes of processor time, {taken.peak_gib:.1f} GiB at most; "
            f"{report['provenance']['hardware']}; torch {report['provenance']['torch']}; {machine()} at the end.",
        ]
    )
    print(section)
    if options.out:
        options.out.write_text(section + "\n", encoding="utf-8")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
