"""`experiment=mnist_vq` against its targets: discrete latents, a transformer over them, on two cores.

    python benchmarks/mnist_vq.py --data DIR [--root NEWDIR]

Runs the experiment from nothing, as a user does; then the reference VAE, whose *reconstructions* the samples are to
beat in the same features. Prints one table; exits with 1 when a target is missed. Takes about 20 minutes. The target
against the pixelcnn is that of `equal_time.py`.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from child import Measured, machine, pipeline
from reference import Line, told

MINUTES = 15.0


def run(root: Path, data: Path, *words: str) -> tuple[Measured, dict[str, Any]]:
    """One run and its report."""
    measured = pipeline(f"data.root={data}", f"paths.root={root}", *words)
    return measured, json.loads((root / "latest" / "report.json").read_text())


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
        Line("codes used, % (test images)", 100 * used, ">=", 90),
        Line("transformer below unigram, % of its nats", nats_below("unigram"), ">=", 15),
        Line("gap closed against uniform codes, %", closed("uniform"), ">=", 97),
        Line("gap closed against unigram codes, %", closed("unigram"), ">=", 93),
        Line("Frechet distance, against the reference VAE's", learned["frechet_distance"], "<", limit),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, help="where the runs stay; default: nowhere")
    options = parser.parse_args()
    data = options.data.absolute()
    print(f"{machine()} at the start", flush=True)
    kept = (
        contextlib.nullcontext(options.root) if options.root else tempfile.TemporaryDirectory(prefix="expost-mnist-vq-")
    )
    with kept as folder:
        root = Path(folder).absolute()
        experiment, report = run(root, data, "experiment=mnist_vq")
        _, reference = run(root, data, "experiment=mnist_reference", "prior=standard_normal")
        table = lines(experiment, report, reference)
    return told(table)


if __name__ == "__main__":
    sys.exit(main())
