"""Normal and hyperspherical VAEs on dynamically binarised MNIST beside the published table, in Markdown.

    python -m benchmarks.objectives.hyperspherical --data DIR [--dims 2 5 10] [--vaes NAME ...] [--seeds 0 1 2]
                                                   [--epochs 300] [--out FILE.md]

Published: Davidson et al., "Hyperspherical Variational Auto-Encoders", 2018, table 1, mean and standard deviation over
ten runs: von Mises-Fisher posteriors on S^d, which is in R^{d+1}, beside N(0, I) in R^d; encoder of 256 and 128 ReLU
units, decoder turned about, batches of 64, Adam at 1e-3, the rate's weight warmed up over 100 epochs, early stopping;
log p(x) by 500 draws. Here posteriors are power spherical, `latent_dim` = d + 1; the same nets, batches, warm-up and
draws, a fixed number of epochs. Below the two bases stands what a prior learned afterwards brings: a mixture of
Gaussians, and one of power sphericals. log p(x) and distortion are bounds and estimates in nats a test image; rates are
exact under the bases, and estimates under mixtures. The store under `--root` keeps what was made already.

It exits with 1 where log p(x) under a base is more than its own and the published spread together, twice, below the
published figure.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

Row = dict[str, float]

STEPS_AN_EPOCH = 55_000 // 64
RECIPE = (
    "data=mnist",
    "data.binarize=dynamic",
    "likelihood=bernoulli",
    "net=mlp",
    "net.hidden=[256,128]",
    "trainer.max_steps=null",
    "trainer.batch_size=64",
    "evaluation.importance_samples=500",
    "logger=csv",
)
VAES = {
    "normal": ("gaussian", 0, "standard_normal", "mixture"),
    "hyperspherical": ("hyperspherical", 1, "uniform", "spherical_mixture"),
}
"""Name -> vae=, numbers of a latent beyond d, row of the base prior, prior that is learned afterwards."""
FIGURES = {"log p(x)": "iwae_nats", "distortion": "distortion_nats", "rate": "rate_nats"}
PUBLISHED = {
    ("normal", 2): ((-135.73, 0.83), (129.84, 0.91), (7.24, 0.11)),
    ("normal", 5): ((-110.21, 0.21), (100.16, 0.22), (12.82, 0.11)),
    ("normal", 10): ((-93.84, 0.30), (78.93, 0.30), (19.44, 0.14)),
    ("normal", 20): ((-88.90, 0.26), (71.29, 0.45), (23.50, 0.31)),
    ("normal", 40): ((-88.93, 0.30), (71.14, 0.56), (23.77, 0.49)),
    ("hyperspherical", 2): ((-132.50, 0.73), (126.43, 0.91), (7.28, 0.14)),
    ("hyperspherical", 5): ((-108.43, 0.09), (97.84, 0.13), (13.35, 0.06)),
    ("hyperspherical", 10): ((-93.16, 0.31), (77.03, 0.39), (20.67, 0.08)),
    ("hyperspherical", 20): ((-89.02, 0.31), (67.65, 0.43), (28.50, 0.22)),
    ("hyperspherical", 40): ((-90.87, 0.34), (67.75, 0.70), (33.50, 0.45)),
}
"""VAE and d -> log p(x), distortion and rate in nats, each with its standard deviation."""


def run(options: argparse.Namespace, name: str, d: int, seed: int) -> dict[str, Row]:
    """Row of the report -> log p(x), distortion and rate, of one run, made now or found in the store."""
    vae, beyond, base, prior = VAES[name]
    taken = pipeline(
        f"vae={vae}",
        *RECIPE,
        f"vae.bottleneck.latent_dim={d + beyond}",
        f"vae.objective.warmup_steps={options.warmup_epochs * STEPS_AN_EPOCH}",
        f"trainer.max_epochs={options.epochs}",
        f"evaluation.num_bound_images={options.images}",
        f"prior={prior}",
        f"data.root={options.data.absolute()}",
        f"paths.root={options.root.absolute()}",
        f"name=hyperspherical_{name}_{d}",
        f"seed={seed}",
        *options.words,
    )
    print(f"{name}, d = {d}, seed {seed}: {taken.seconds:.0f} s, {machine()}", file=sys.stderr, flush=True)
    report: dict[str, Any] = json.loads((options.root / "latest" / "report.json").read_text(encoding="utf-8"))
    rows = report["rows"]
    return {
        row: {figure: (-1 if figure == "log p(x)" else 1) * rows[row][key] for figure, key in FIGURES.items()}
        for row in (base, prior)
    }


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def lines(name: str, d: int, runs: Sequence[dict[str, Row]]) -> list[str]:
    """Rows of the table of one VAE at one dimension: under its base, as published, and under the learned prior."""
    found = []
    for row in runs[0]:
        cells = [spread([one[row][figure] for one in runs]) for figure in FIGURES]
        found.append(f"| {d} | {name} | {row} | {' | '.join(cells)} |")
    published = [f"{mean:.2f} ± {std:.2f}" for mean, std in PUBLISHED[name, d]]
    found.insert(1, f"| {d} | {name} | published | {' | '.join(published)} |")
    return found


def is_short(name: str, d: int, runs: Sequence[dict[str, Row]]) -> bool:
    """Whether log p(x) under the base is below the published figure by more than both spreads, twice."""
    values = [one[VAES[name][2]]["log p(x)"] for one in runs]
    mean, std = PUBLISHED[name, d][0]
    own = statistics.stdev(values) if len(values) > 1 else std
    return statistics.mean(values) < mean - 2 * (own**2 + std**2) ** 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/hyperspherical"), help="where the runs are kept")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 5, 10], choices=sorted({d for _, d in PUBLISHED}))
    parser.add_argument("--vaes", nargs="+", default=list(VAES), choices=list(VAES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--warmup-epochs", type=int, default=100)
    parser.add_argument("--images", type=int, default=10_000, help="test images of the bounds")
    parser.add_argument("--words", nargs="*", default=[], help="further words for pipeline.py")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    table = ["| d | VAE | prior | log p(x) ↑ | distortion ↓ | rate ↓ |", "|---:|---|---|---:|---:|---:|"]
    short = []
    for d in options.dims:
        for name in options.vaes:
            runs = [run(options, name, d, seed) for seed in options.seeds]
            table += lines(name, d, runs)
            short += [f"{name}, d = {d}"] * is_short(name, d, runs)
    dims, seeds = (" ".join(map(str, numbers)) for numbers in (options.dims, options.seeds))
    vaes = f" --vaes {' '.join(options.vaes)}" * (options.vaes != list(VAES))
    command = f"--epochs {options.epochs} --dims {dims} --seeds {seeds}{vaes}"
    words = "\n\n".join(
        [
            f"## Latents on a sphere, beside the published table: d = {dims.replace(' ', ', ')}",
            f"Dynamically binarised MNIST, {options.epochs} epochs, {options.images:,} test images, 500 draws; nats an "
            f"image, {'mean ± standard deviation over' if len(options.seeds) > 1 else 'of'} {len(options.seeds)} "
            f"seed{'s' * (len(options.seeds) > 1)} (published: mean ± standard deviation over 10). The published VAEs "
            f"stop early; here the rate warms up over {options.warmup_epochs} epochs, and all epochs are trained.",
            f"    python -m benchmarks.objectives.hyperspherical --data DIR {command}",
            "\n".join(table),
            "Short of the published log p(x): " + ("; ".join(short) or "none") + f". {machine()} at the end.",
        ]
    )
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words + "\n", encoding="utf-8")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
