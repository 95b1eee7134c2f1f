"""Learned codes against a fixed grid of codes: VQ and FSQ at equal code count on MNIST. Prints one Markdown table.

    python -m benchmarks.codes.table --data DIR [--root runs/bench/codes] [--seeds 0 1 2] [--out FILE.md]

Runs `pipeline.py` from images to report for each bottleneck and seed, as a user runs it; what the store under `--root`
has already is not made again. All figures come from report.json. Both bottlenecks get the same net, the same 7x7 map of
256 codes, the same schedules, and all priors of their report: uniform codes, counts, the transformer. The recipe is
short, to fit a few minutes a run on one core. ± is the standard deviation over seeds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

Report = dict[str, Any]

CODES = {
    "VQ": ("vae=vq", "vae.bottleneck.num_codes=256", "vae.bottleneck.code_dim=16"),
    "FSQ": ("vae=fsq", "vae.bottleneck.levels=[4,4,4,4]"),
}
STAGE_1 = ("trainer.max_steps=null", "trainer.max_epochs=2", "trainer.schedule=cosine", "trainer.precision=auto")
RECIPE = (
    "data=mnist",
    "net.channels=[32,64]",
    *STAGE_1,
    "prior=transformer",
    "prior.width=64",
    "prior.depth=3",
    "prior.dropout=0",
    "prior.fit.max_epochs=1",
    "prior.fit.batch_size=128",
    "prior.fit.learning_rate=0.002",
    "evaluation.num_samples=2000",
    "evaluation.num_bound_images=2000",
    "logger=csv",
)
WORDS = (
    "One core; 55,000 images; stage 1: convolutions of 32 and 64 channels, 2 epochs of batches of 128 under a cosine; "
    "transformer of width 64 and depth 3, one epoch of batches of 128. Bounds over 2,000 test images; distances "
    "between 2,000 decoded draws and as many test images, in features of the set's own classifier."
)
PRIORS = ("uniform", "unigram", "bigram", "transformer")


def run(root: Path, data: Path, codes: str, seed: int) -> Report:
    """The report of one run, made now or found in the store."""
    words = (f"data.root={data}", f"paths.root={root}", f"name=codes_table_{codes.lower()}", f"seed={seed}")
    taken = pipeline(*CODES[codes], *RECIPE, *words)
    print(f"{codes}, seed {seed}: {taken.seconds:.0f} s, {machine()}", file=sys.stderr, flush=True)
    return json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))


def lines() -> Iterator[tuple[str, int, Callable[[Report], float]]]:
    """What the table says: a name, decimals, and where a report has the figure."""
    yield "-log p(x given codes), nats", 2, of_row("uniform", "distortion_nats")
    yield "Frechet distance of reconstructions", 2, of_row("reconstructions", "frechet_distance")
    yield "codes used, %", 1, lambda r: 100 * book(r)["used_share"]
    yield "perplexity, codes", 1, lambda r: book(r)["perplexity"]
    for prior in PRIORS:
        yield f"-log P(codes), {prior}, nats", 2, of_row(prior, "latent_nll_nats")
    for prior in PRIORS:
        yield f"bits per dimension, {prior}", 4, of_row(prior, "bits_per_dim")
    for prior in PRIORS:
        yield f"Frechet distance, {prior}", 2, of_row(prior, "frechet_distance")


def of_row(row: str, figure: str) -> Callable[[Report], float]:
    return lambda report: report["rows"][row][figure]


def book(report: Report) -> Report:
    """The one codebook's figures, counted over the training set."""
    (only,) = report["surgery"]["codes"]["books"]
    return only


def table(reports: dict[str, list[Report]]) -> str:
    """Figures down, bottlenecks across; mean ± standard deviation over seeds."""
    out = [f"| | {' | '.join(reports)} |", f"|---|{'---:|' * len(reports)}"]
    for name, decimals, figure in lines():
        cells = [spread([figure(report) for report in every], decimals) for every in reports.values()]
        out.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(out)


def spread(values: Sequence[float], decimals: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{decimals}f}"
    return f"{statistics.mean(values):.{decimals}f} ± {statistics.stdev(values):.{decimals}f}"


def section(reports: dict[str, list[Report]], seeds: Sequence[int]) -> str:
    """The part of docs/RESULTS.md."""
    provenance = next(iter(reports.values()))[0]["provenance"]
    return "\n\n".join(
        [
            "## VQ and FSQ at equal code count",
            "MNIST, 7x7 codes of 256: `vae=vq vae.bottleneck.num_codes=256` and `vae=fsq "
            f"vae.bottleneck.levels=[4,4,4,4]`. Mean ± standard deviation over {len(seeds)} seeds.",
            "    python -m benchmarks.codes.table --data DIR",
            table(reports),
            f"- {WORDS}\n- hardware: {provenance['hardware']}; torch: {provenance['torch']}.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/codes"), help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    reports: dict[str, list[Report]] = {codes: [] for codes in CODES}
    for seed in options.seeds:
        for codes, every in reports.items():
            every.append(run(options.root.absolute(), options.data.absolute(), codes, seed))
    words = section(reports, options.seeds)
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
