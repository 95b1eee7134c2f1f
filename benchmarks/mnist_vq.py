"""`experiment=mnist_vq` against its targets: discrete latents, a transformer over them, on two cores.

    python benchmarks/mnist_vq.py --data DIR [--without-pixelcnn]

Runs the experiment from nothing, as a user does; then the reference VAE, whose *reconstructions* the samples are to
beat in the same features; then the pixelcnn on the same codes for as many epochs as take it at least as long as the
transformer had. Prints one table; exits with 1 when a target is missed. Takes about 40 minutes.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from child import Measured, machine, pipeline
from reference import Line

MINUTES = 15.0


def run(root: Path, data: Path, *words: str) -> tuple[Measured, dict[str, Any]]:
    """One run and its report."""
    measured = pipeline(f"data.root={data}", f"paths.root={root}", *words)
    return measured, json.loads((root / "latest" / "report.json").read_text())


def fit_of(root: Path, cls: str, max_epochs: int | None = None) -> dict[str, Any]:
    """What the fit of the one prior of class `cls` in the store says, or of the one with `max_epochs`."""
    for path in (root / "store" / "prior").glob("*/manifest.json"):
        prior = json.loads(path.read_text())["ingredients"]["prior"]
        if prior["_target_"].endswith(f".{cls}") and max_epochs in (None, prior["fit"]["max_epochs"]):
            return dict(json.loads((path.parent / "fit.json").read_text()))
    raise SystemExit(f"no {cls} in {root}")


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
        Line("samples' Frechet distance, against the", learned["frechet_distance"], "<", limit),
    ]


def against_pixelcnn(root: Path, data: Path) -> list[Line]:
    """Held-out nats of both priors after equal seconds of training, or up to an epoch more of them for the pixelcnn."""

    def pixelcnn(epochs: int) -> dict[str, Any]:
        words = (f"prior.fit.max_epochs={epochs}", f"prior.fit.patience={epochs}")
        pipeline(
            "experiment=mnist_vq", "prior=pixelcnn", "stage=prior", f"data.root={data}", f"paths.root={root}", *words
        )
        return fit_of(root, "PixelCNN", epochs)

    ours = fit_of(root, "Transformer")
    epochs = math.ceil(ours["seconds"] / pixelcnn(1)["seconds"])
    theirs = pixelcnn(epochs)
    print(f"pixelcnn: {epochs} epochs in {theirs['seconds']:.0f} s; transformer: {ours['seconds']:.0f} s")
    return [Line("transformer's nats, against pixelcnn's", ours["val_nll_nats"], "<", theirs["val_nll_nats"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--without-pixelcnn", action="store_true")
    options = parser.parse_args()
    data = options.data.absolute()
    print(f"{machine()} at the start", flush=True)
    with tempfile.TemporaryDirectory(prefix="expost-mnist-vq-") as folder:
        root = Path(folder)
        experiment, report = run(root, data, "experiment=mnist_vq")
        _, reference = run(root, data, "experiment=mnist_reference", "prior=standard_normal")
        table = lines(experiment, report, reference)
        table += [] if options.without_pixelcnn else against_pixelcnn(root, data)
    print(f"{machine()} at the end\n{'':44}{'measured':>10}{'target':>12}")
    for line in table:
        bound = f"{line.relation} {line.target:.4g}"
        print(f"{line.name:44}{line.value:10.2f}{bound:>12}  {'reached' if line.reached else 'MISSED'}")
    return 0 if all(line.reached for line in table) else 1


if __name__ == "__main__":
    sys.exit(main())
