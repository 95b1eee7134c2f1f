"""The masked network against the transformer on latents that are vectors, fitted for about equally long.

    python -m benchmarks.codes.vectors --data DIR [--root runs/bench/vectors] [--out FILE.md]

What `prior=autoregressive` chooses for vectors rests on this. Both priors are as their configuration has them but for
the number of epochs, and are fitted to the latents of one VAE, `experiment=mnist_reference`, one after the other.
Prints one table; exits with 1 when the masked network's rate is not the lower one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

EPOCHS = {"autoregressive": 20, "transformer": 2}
"""So that both fits take about two minutes on two cores."""
NAMES = {"autoregressive": "masked network", "transformer": "transformer"}


def run(root: Path, data: Path, prior: str) -> dict[str, Any]:
    """The report of one prior on the VAE that is in `root`, or is trained now."""
    words = ("experiment=mnist_reference", f"prior={prior}", f"prior.fit.max_epochs={EPOCHS[prior]}")
    pipeline(*words, f"data.root={data}", f"paths.root={root}")
    return json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))


def section(reports: dict[str, dict[str, Any]], where: str) -> str:
    """The part of docs/RESULTS.md."""
    first = next(iter(reports.values()))
    rows = [
        f"| {NAMES[prior]} | {EPOCHS[prior]} | {row['fit_seconds']:.0f} | {row['rate_nats']:.2f} | "
        f"{row['latent_nll_nats']:.2f} | {row['frechet_distance']:.2f} | {row['samples_per_second']:,.0f} | "
        f"{row['num_parameters']:,} |"
        for prior, row in ((prior, report["rows"][prior]) for prior, report in reports.items())
    ]
    base = first["rows"]["standard_normal"]
    made = first["provenance"]
    return "\n".join(
        [
            "## Masked network and transformer on vectors\n",
            "MNIST, the latents of `experiment=mnist_reference`, one seed; what `prior=autoregressive` chooses for "
            f"vectors. Rate and -log p(z) over {first['num_bound_images']:,} test images, "
            f"{first['num_samples']:,} samples.\n",
            "    python -m benchmarks.codes.vectors --data DIR\n",
            "| prior | epochs | fit, seconds | rate, nats | -log p(z), nats | Frechet distance | samples a second "
            "| parameters |\n|---|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            f"| N(0, I) | - | - | {base['rate_nats']:.2f} | {base['latent_nll_nats']:.2f} | "
            f"{base['frechet_distance']:.2f} | - | 0 |",
            f"\n- {made['hardware']}; torch {made['torch']}; {where}.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/vectors"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    where = machine()
    reports = {prior: run(options.root.absolute(), options.data.absolute(), prior) for prior in EPOCHS}
    words = section(reports, where)
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words + "\n", encoding="utf-8")
    rates = {prior: report["rows"][prior]["rate_nats"] for prior, report in reports.items()}
    return 0 if rates["autoregressive"] < rates["transformer"] else 1


if __name__ == "__main__":
    sys.exit(main())
