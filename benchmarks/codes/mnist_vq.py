"""`experiment=mnist_vq` against its targets: discrete latents, a transformer over them, on two cores.

    python -m benchmarks.codes.mnist_vq --data DIR [--root NEWDIR] [--out FILE.md]

Runs the experiment from nothing, as a user does; then the reference VAE, whose *reconstructions* the samples are to
beat in the same features. Prints two tables; exits with 1 when a target is missed. Takes a quarter of an hour to forty
minutes. The target against the pixelcnn is that of `equal_time.py`.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import Measured, machine, pipeline
from benchmarks.reference import Line, print_table

MINUTES = 15.0
FEWER_STEPS = ("prior.fit.max_steps=2574", "prior.fit.learning_rate=0.005")
"""Six epochs of the transformer at five times the rate of its file: the same nats in three quarters of the time."""


def run(root: Path, data: Path, *words: str) -> tuple[Measured, dict[str, Any]]:
    """One run and its report."""
    measured = pipeline(f"data.root={data}", f"paths.root={root}", *words)
    return measured, json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))


def lines(experiment: Measured, report: dict[str, Any], reference: dict[str, Any]) -> list[Line]:
    """What the experiment and the reference VAE alone decide."""
    if report["provenance"]["features"] != reference["provenance"]["features"]:
        raise SystemExit("the two runs were judged in other features: their distances have no common scale")
    rows = report["rows"]
    learned, best = rows["transformer"], rows["reconstructions"]["frechet_distance"]

    def nats_below(floor: str) -> float:
        return 100 * (1 - learned["latent_nll_nats"] / rows[floor]["latent_nll_nats"])

    def closed(floor: str) -> float:
        worst = rows[floor]["frechet_distance"]
        return 100 * (worst - learned["frechet_distance"]) / (worst - best)

    used = min(book["used_share"] for book in report["surgery"]["codes"]["books"])
    limit = reference["rows"]["reconstructions"]["frechet_distance"]
    return [
        Line("whole run, minutes", experiment.seconds / 60, "<=", MINUTES),
        Line("codes used, % (training images)", 100 * used, ">=", 90),
        Line("transformer below unigram, % of its nats", nats_below("unigram"), ">=", 15),
        Line("gap closed against uniform codes, %", closed("uniform"), ">=", 97),
        Line("gap closed against unigram codes, %", closed("unigram"), ">=", 93),
        Line("Frechet distance, against the reference VAE's", learned["frechet_distance"], "<", limit),
    ]


def section(report: dict[str, Any], reference: dict[str, Any], table: Sequence[Line]) -> str:
    """The part of docs/RESULTS.md."""
    columns = ("latent_nll_nats", "bits_per_dim", "frechet_distance", "precision", "recall", "coverage")
    shown = [name for name in report["rows"] if name != "train_against_test"]
    figures = [
        f"| {name.replace('_', ' ')} | " + " | ".join(figure(report["rows"][name], key) for key in columns) + " |"
        for name in shown
    ]
    targets = [
        f"| {line.name} | {line.value:.4g} | {line.relation} {line.target:.4g} | "
        f"{'reached' if line.reached else 'MISSED'} |"
        for line in table
    ]
    classes, made = report["classes"], report["provenance"]
    return "\n".join(
        [
            "## mnist_vq\n",
            "MNIST, 4x4 codes of a codebook of 1,024, a transformer over them that draws a class first, p(z) = sum of "
            f"p(y) p(z given y), {' '.join(FEWER_STEPS)}; seed {made['seeds']['vae']}. "
            f"{report['num_samples']:,} samples against test images, "
            "in 64 features of the set's own classifier; nats an image over "
            f"{report['num_bound_images']:,} test images, exact. ± is the standard deviation over resampled images.\n",
            "    python -m benchmarks.codes.mnist_vq --data DIR\n",
            "| prior | -log P(codes), nats | bits per dimension | Frechet distance | precision | recall | coverage |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *figures,
            "\n| target | measured | | |\n|---|---:|---|---|",
            *targets,
            f"\n- Class accuracy of samples {number(classes['samples']['value'])}, of reconstructions "
            f"{number(classes['reconstructions']['value'])}, of test images {number(classes['test_images']['value'])}.",
            "- Reference: `experiment=mnist_reference`, 50 epochs, the same features; its reconstructions reach "
            f"{figure(reference['rows']['reconstructions'], 'frechet_distance')}.",
            f"- {made['hardware']}; torch {made['torch']}; commit {made['commit']}; {machine()} at the end.",
        ]
    )


def figure(row: dict[str, Any], key: str) -> str:
    """One of a row, with its spread where it is an estimate from samples."""
    spread = row["spread"].get(key) if key == "frechet_distance" else None
    return number(row[key]) + (f" ± {spread:.3f}" if spread else "")


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, help="where the runs stay; default: nowhere")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    data = options.data.absolute()
    print(f"{machine()} at the start", flush=True)
    kept = (
        contextlib.nullcontext(options.root) if options.root else tempfile.TemporaryDirectory(prefix="expost-mnist-vq-")
    )
    with kept as folder:
        root = Path(folder).absolute()
        experiment, report = run(root, data, "experiment=mnist_vq", *FEWER_STEPS)
        _, reference = run(root, data, "experiment=mnist_reference", "prior=standard_normal")
        table = lines(experiment, report, reference)
    words = section(report, reference, table)
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words + "\n", encoding="utf-8")
    return print_table(table)


if __name__ == "__main__":
    sys.exit(main())
