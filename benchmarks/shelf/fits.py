"""How long the fits of the reference VAE's priors take, beside those of an earlier checkout.

    python -m benchmarks.shelf.fits CHECKOUT --data DIR [--rounds 3] [--epochs 3]

Each checkout trains the reference VAE for a few epochs, of the same seed, and from then on the two take turns, a new
seed of the prior in each round: wall seconds of `stage=prior` by its manifest, whatever a checkout does within it (the
look at the latents and the comparison with a Gaussian are part of this one's). A ratio is the median of the ratios of
rounds. Exits with 1 when one misses its target.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.child import HERE, machine, pipeline
from benchmarks.startup import commit, processor

TARGET = 1.15
PRIORS = {
    "mixture of 50": ("prior=mixture",),
    "mixture of 100": ("prior=mixture", "prior.num_components=100"),
    "autoregressive, 4 epochs": ("prior=autoregressive", "prior.fit.max_epochs=4"),
}
"""Name -> words."""


def fit_seconds(checkout: Path, words: tuple[str, ...]) -> float:
    """What the fit took that `words` ask for.

    Raises:
        SystemExit: the command failed, or found the fit in its store.
    """
    measured = pipeline("stage=prior", *words, checkout=checkout)
    if not re.search(r"^prior .*done in ", measured.output, re.MULTILINE):
        raise SystemExit(f"nothing was fitted:\n{measured.output}")
    manifest = measured.artifact("prior") / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="an earlier checkout of the project")
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of the VAE")
    options = parser.parse_args()
    checkouts = (HERE, options.checkout.resolve())
    seconds = {(name, checkout): [] for name in PRIORS for checkout in checkouts}
    vae = ("experiment=mnist_reference", f"data.root={options.data.absolute()}", f"trainer.max_epochs={options.epochs}")
    with tempfile.TemporaryDirectory(prefix="expost-fits-") as folder:
        runs = {checkout: (*vae, f"paths.root={folder}/{i}") for i, checkout in enumerate(checkouts)}
        for checkout in checkouts:
            pipeline("stage=encode", *runs[checkout], checkout=checkout)
        for seed in range(options.rounds):
            for name, words in PRIORS.items():
                for checkout in checkouts:
                    more = (*runs[checkout], *words, f"seeds.prior={seed}")
                    seconds[name, checkout].append(fit_seconds(checkout, more))
    print(f"{processor()}; {machine()}; medians of {options.rounds}")
    print(f"this is {commit(HERE)}, the other one {commit(checkouts[1])}\n")
    heads = "".join(f"{side:>8}{'(min - max)':>18}" for side in ("this", "other"))
    print(f"{'fit, seconds':28}{heads}{'ratio':>8}{'target':>8}")
    missed = False
    for name in PRIORS:
        ours, theirs = (seconds[name, checkout] for checkout in checkouts)
        ratio = statistics.median(own / other for own, other in zip(ours, theirs, strict=True))
        missed |= ratio > TARGET
        cells = "".join(
            f"{statistics.median(row):8.2f}{f'({min(row):.2f} - {max(row):.2f})':>18}" for row in (ours, theirs)
        )
        print(f"{name:28}{cells}{ratio:8.3f}{TARGET:8.2f}  {'reached' if ratio <= TARGET else 'MISSED'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
