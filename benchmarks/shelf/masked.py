"""Masked codes against the autoregressive transformer on the same codes: nats, distance, and codes a second.

    python -m benchmarks.shelf.masked --data DIR [--root DIR] [--epochs 2] [--steps 1000] [--out FILE.md]

Trains a small VAE of 4x4 codes as `experiment=mnist_vq` has it, for few epochs, then fits both networks, of one size,
for as many steps each, without labels; the masked one twice, with samples in eight steps and in one a code: its weights
are the same. Figures are those of report.json; seconds are those of the exported models, a batch of latents after one
that warms up. Takes less than ten minutes on two cores.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

ROWS: dict[str, tuple[str, ...]] = {
    "transformer": ("prior=transformer",),
    "masked, 8 steps": ("prior=masked", "prior.num_steps=8"),
    "masked, one code a step": ("prior=masked", "prior.num_steps=null"),
}
DRAWS, ROUNDS = 2048, 3


@dataclass(frozen=True)
class Judged:
    """One line of the table: its row of report.json, and seconds to draw `DRAWS` latents."""

    name: str
    figures: dict[str, Any]
    sampling_seconds: float
    num_codes: int


def judge(name: str, root: Path, words: Sequence[str]) -> Judged:
    """Fit, evaluate, export, time."""
    import torch

    from expost import TwoStage

    pipeline(*words, *ROWS[name], f"paths.root={root}")
    report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    folder = root / "exports" / name.replace(" ", "_").replace(",", "")
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        pipeline(*words, *ROWS[name], f"paths.root={root}", "stage=export", f"export.out={folder}")
    model, taken = TwoStage.load(folder), []
    for _ in range(ROUNDS + 1):
        torch.manual_seed(0)
        started = time.perf_counter()
        latents = model.sample_latents(DRAWS)
        taken.append(time.perf_counter() - started)
    figures = report["rows"][name.split(",")[0]]
    print(f"{name}: {machine()}", file=sys.stderr, flush=True)
    return Judged(name, figures, statistics.median(taken[1:]), latents[0].numel())


def section(judged: Sequence[Judged], epochs: int, steps: int) -> str:
    """The part of docs/RESULTS.md."""
    lines = [
        f"| {one.name} | {one.figures['latent_nll_nats']:.2f} | {one.figures['frechet_distance']:.2f} | "
        f"{one.figures['fit_seconds']:.0f} | {one.figures['num_parameters']:,} | {DRAWS / one.sampling_seconds:,.0f} | "
        f"{DRAWS * one.num_codes / one.sampling_seconds:,.0f} |"
        for one in judged
    ]
    columns = (
        "-log p(z), nats ↓",
        "Frechet distance ↓",
        "fit, s",
        "parameters",
        "latents a second ↑",
        "codes a second ↑",
    )
    head = f"| prior | {' | '.join(columns)} |"
    return "\n\n".join(
        [
            "## Masked codes beside the transformer",
            f"Codes of `experiment=mnist_vq`, `net.channels=[16,32,64]`, after {epochs} epochs, {judged[0].num_codes} "
            f"a digit; {steps:,} steps of 128 each, no labels, one seed. The nats of masked codes are an estimate of "
            "an upper bound of what any order of single codes gives, which samples of several codes a step do not "
            "follow; those of the transformer are exact. Distances are between decoded draws and test images; latents "
            f"are drawn {DRAWS:,} at once.",
            "    python -m benchmarks.shelf.masked --data DIR",
            "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|", *lines]),
            f"- {machine()} at the end.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, help="where the runs are kept; a temporary folder")
    parser.add_argument("--epochs", type=int, default=2, help="of the VAE")
    parser.add_argument("--steps", type=int, default=1000, help="of each fit")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    words = [
        "experiment=mnist_vq",
        f"data.root={options.data.absolute()}",
        "net.channels=[16,32,64]",
        f"trainer.max_epochs={options.epochs}",
        "prior.conditional=false",
        f"prior.fit.max_steps={options.steps}",
        "logger=csv",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.root or Path(temporary)).absolute()
        text = section([judge(name, root, words) for name in ROWS], options.epochs, options.steps)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
