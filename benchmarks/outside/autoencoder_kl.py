"""A small AutoencoderKL of diffusers, trained on CIFAR-10, as stage 1: what its own N(0, I) costs, and a learned prior.

    python -m benchmarks.outside.autoencoder_kl --data DIR [--folder FOLDER] [--out docs/measured/autoencoder_kl.md]

`benchmarks.outside.autoencoder_kl_training` trains and saves the model with diffusers alone, unless FOLDER holds one;
then one command goes from that folder to a report. Latents are the model's own scaled ones, 4x8x8. Takes an hour on one
core; exits with 1 where the learned prior does not beat N(0, I) in nats and in Frechet distance.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.child import machine, measured, pipeline

DATA = ("data=image_folder", "data.size=32", "data.mode=rgb")
PRIOR = ("prior=transformer", "prior.width=64", "prior.depth=2", "prior.num_heads=2")
LENGTH = ("prior.fit.max_steps=400", "prior.fit.batch_size=64")
JUDGED = ("evaluation.num_samples=1000", "evaluation.num_bound_images=500", "evaluation.importance_samples=16")
FIGURES = ("rate_nats", "elbo_nats", "iwae_nats", "frechet_distance", "precision", "recall", "two_sample_accuracy")


def run(root: Path, folder: Path, data: Path) -> dict[str, Any]:
    """The report of the one command."""
    words = ("vae=diffusers", f"vae.path={folder}", *DATA, f"data.root={data}", *PRIOR, *LENGTH, *JUDGED)
    pipeline(*words, f"paths.root={root}")
    report: dict[str, Any] = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    return report


def cell(value: float | None, figure: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if figure.endswith(("nats", "distance")) else f"{value:.3f}"


def section(report: dict[str, Any], folder: Path, where: str) -> str:
    """The part of docs/RESULTS.md."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    channels = ", ".join(map(str, config["block_out_channels"]))
    rows = [
        f"| {name.replace('_', ' ')} | {' | '.join(cell(row.get(figure), figure) for figure in FIGURES)} |"
        for name, row in report["rows"].items()
    ]
    command = " ".join([*DATA, "data.root=DIR", *PRIOR, *LENGTH, *JUDGED])
    made = report["provenance"]
    return "\n".join(
        [
            "## An AutoencoderKL of diffusers\n",
            f"CIFAR-10 as a folder of images; a small AutoencoderKL (channels {channels}; latents 4x8x8, times its "
            f"scaling_factor {config['scaling_factor']:.3f}), trained by diffusers and torch alone for 600 steps of 64 "
            "with a KL weight of 0.001, so that its latents are far from N(0, I); one seed. Nothing of it is trained "
            f"here. {report['num_samples']:,} samples; nats an image over {report['num_bound_images']:,} test images. "
            "A short fit: a proof that one command does it, not the best that the prior can do.\n",
            "    python -m benchmarks.outside.autoencoder_kl --data DIR",
            f"    python pipeline.py vae=diffusers vae.path=FOLDER {command}\n",
            "| prior | rate, nats | -ELBO | -IWAE | Frechet distance | precision | recall | two-sample accuracy |",
            f"|---|{'---:|' * len(FIGURES)}",
            *rows,
            f"\n- {made['date']}; {made['hardware']}; torch {made['torch']}; {where}. The fit of the prior took "
            f"{report['rows']['transformer']['fit_seconds']:.0f} s.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a folder of images")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/autoencoder_kl/model"), help="of the model")
    parser.add_argument(
        "--root", type=Path, default=Path("runs/bench/autoencoder_kl/runs"), help="where the run is kept"
    )
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    where, folder, data = machine(), options.folder.absolute(), options.data.absolute()
    if not (folder / "config.json").is_file():
        words = ["--data", str(data), "--folder", str(folder)]
        print(measured([sys.executable, "-m", "benchmarks.outside.autoencoder_kl_training", *words], os.environ).output)
    report = run(options.root.absolute(), folder, data)
    words_of_report = section(report, folder, where)
    print(words_of_report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words_of_report + "\n", encoding="utf-8")
    base, learned = report["rows"]["standard_normal"], report["rows"]["transformer"]
    return 0 if all(learned[figure] < base[figure] for figure in ("rate_nats", "frechet_distance")) else 1


if __name__ == "__main__":
    sys.exit(main())
