"""Priors of maps against priors of vectors on the same latent maps, each given the same time to fit.

    python -m benchmarks.shelf.maps --data DIR [--root runs/bench/maps] [--seconds 90] [--epochs 6] [--seed 0]
                                    [--priors NAME ...] [--out docs/measured/maps.md]

Trains `experiment=cifar10_map` once (latents 4x8x8) on the image folder DIR, then fits and judges each prior as a user
does, from the store. Priors that learn by gradient get as many epochs as fit into `--seconds`, from what one and two
took; the mixture takes its 40 iterations, however long. Those of vectors see maps laid out by
`prior.wrap=[...,flatten]`. Then the peak memory of a fit to maps of 4x32x32, by command. Exits with 1 unless
flow_matching, by its U-Net or by its perceptron, or glow is nearer to the images than each prior of vectors.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

VECTORS: dict[str, tuple[str, ...]] = {
    "standard_normal": ("prior=standard_normal",),
    "gaussian": ("prior=gaussian", "prior.wrap=[flatten]"),
    "mixture": ("prior=mixture", "prior.wrap=[flatten]", "prior.num_components=20", "prior.max_iter=40"),
    "autoregressive": ("prior=autoregressive", "prior.wrap=[standardize,flatten]"),
}
MAPS: dict[str, tuple[str, ...]] = {
    "flow_matching": ("prior=flow_matching",),
    "flow_matching_mlp": ("prior=flow_matching", "prior.net=mlp"),
    "diffusion": ("prior=diffusion",),
    "glow": ("prior=glow",),
}
"""What is typed for a row; the first word names the prior."""
WINNERS = ("flow_matching", "flow_matching_mlp", "glow")
"""Of which one is to be nearer to the images than all priors of vectors."""
MOST_START = 10
"""Epochs that the start of a fit may seem to take: two single fits are noise where both are short."""
BY_GRADIENT = frozenset({"autoregressive", *MAPS})
EVALUATION = (
    "evaluation.num_samples=5000",
    "evaluation.importance_samples=1",
    "evaluation.num_bound_images=1000",
    "logger=csv",
)


@dataclass(frozen=True)
class Judged:
    """A prior, the epochs of its fit (0: it has none), and its row of report.json."""

    name: str
    epochs: int
    row: dict[str, Any]


def judge(name: str, words: Sequence[str], root: Path, seconds: float) -> Judged:
    """Fit for as many epochs as the seconds allow, and evaluate."""
    choice, epochs = (VECTORS | MAPS)[name], 0
    words = [*words, *choice]
    if name in BY_GRADIENT:
        once, twice = (seconds_of_a_fit(words, num) for num in (1, 2))
        epochs = 1 + max(0, int((seconds - once) / max(twice - once, once / MOST_START)))
        words += [f"prior.fit.max_epochs={epochs}", f"prior.fit.patience={epochs}"]
    taken = pipeline(*words)
    report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    print(f"{name}: {taken.seconds:.0f} s", file=sys.stderr, flush=True)
    return Judged(name, epochs, report["rows"][choice[0].removeprefix("prior=")])


def seconds_of_a_fit(words: Sequence[str], epochs: int) -> float:
    """What is looked at before the first epoch included; nothing is judged."""
    folder = pipeline(*words, f"prior.fit.max_epochs={epochs}", "stage=prior").artifact("prior")
    return float(json.loads((folder / "fit.json").read_text(encoding="utf-8"))["seconds"])


def peak_gib_of_large_maps(choice: Sequence[str]) -> float:
    """Peak memory of a fit to maps of 4x32x32, in batches of 64."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        np.save(Path(folder) / "maps.npy", rng.normal(size=(1200, 4, 32, 32)).astype(np.float32))
        numbers = 10 * 64 * 4 * 32 * 32  # of ten steps; a density takes seconds: few are looked at, here and held out
        fit = (f"prior.fit.max_tokens={numbers}", "prior.fit.batch_size=64", "prior.fit.val_draws=64")
        data = ("data=latents", f"data.root={folder}/maps.npy", "data.val_fraction=0.01", "data.test_fraction=0.01")
        return pipeline(*data, *choice, *fit, "stage=prior", "logger=csv", f"paths.root={folder}/runs").peak_gib


def section(shelf: Sequence[Judged], seconds: float, memory: dict[str, float]) -> str:
    """The part of docs/RESULTS.md."""
    lines = [
        f"| {judged.name} | {judged.row['frechet_distance']:.3f} | {100 * (judged.row.get('gap_closed') or 0):.1f} | "
        f"{judged.epochs or '-'} | {judged.row.get('fit_seconds') or 0:.0f} | {judged.row['num_parameters']:,} |"
        for judged in sorted(shelf, key=lambda judged: judged.row["frechet_distance"])
    ]
    peaks = ", ".join(f"{name} {peak:.1f} GiB" for name, peak in memory.items())
    return "\n\n".join(
        [
            "## Priors of maps",
            "Latents 4x8x8 of a small convolutional VAE of CIFAR-10 (`experiment=cifar10_map`). Priors of vectors see "
            f"them laid out, and so does flow_matching_mlp (`prior.net=mlp`); those that learn by gradient are given "
            f"{seconds:.0f} s. Distances between 5,000 decoded draws "
            "and as many test images, in features of the set's own classifier.",
            "    python -m benchmarks.shelf.maps --data DIR",
            "| prior | Frechet distance ↓ | gap closed, % ↑ | epochs | fit, s | parameters |\n"
            "|---|---:|---:|---:|---:|---:|\n" + "\n".join(lines),
            f"- Peak memory of a fit to maps of 4x32x32, batches of 64, the whole command: {peaks}.",
            f"- {machine()} at the end.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10's images, train/ and test/")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/maps"), help="where the runs are kept")
    parser.add_argument("--seconds", type=float, default=90.0, help="of a fit by gradient")
    parser.add_argument("--epochs", type=int, default=6, help="of the VAE")
    parser.add_argument("--seed", type=int, default=0, help="seeds.prior")
    parser.add_argument("--priors", nargs="+", choices=[*VECTORS, *MAPS], default=[*VECTORS, *MAPS], metavar="NAME")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    root, data = options.root.absolute(), options.data.absolute()
    words = [
        "experiment=cifar10_map",
        f"data.root={data}",
        f"paths.root={root}",
        f"trainer.max_epochs={options.epochs}",
    ]
    words += [f"seeds.prior={options.seed}", *EVALUATION]
    shelf = [judge(name, words, root, options.seconds) for name in options.priors]
    memory = {name: peak_gib_of_large_maps(choice) for name, choice in MAPS.items()}
    text = section(shelf, options.seconds, memory)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    distances = {judged.name: judged.row["frechet_distance"] for judged in shelf}
    of_maps = min(distances.get(name, math.inf) for name in WINNERS)
    return 0 if of_maps < min(distances.get(name, math.inf) for name in VECTORS) else 1


if __name__ == "__main__":
    sys.exit(main())
