"""Latents of the reference VAE, written by hand and read by `data=latents`, beside the run that encoded them.

    python -m benchmarks.latents.door --data DIR [--steps 500] [--rounds 5]

A VAE of `experiment=mnist_reference`, whose training is cut short (what is compared comes after it), encodes MNIST. Its
posteriors go into one .npz with arrays of each split, by NumPy alone. Then each prior is fitted on both sides, with the
same seeds, in turn and first one and then the other, each time anew by a process of its own. The ratio is of processor
seconds of whole `stage=prior` commands, reading of the data included, which other work on the machine moves little; the
wall seconds of the stage itself stand beside it. Exits with 1 when a target is missed.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.child import machine, pipeline

TARGET = 1.02
SPLITS = ("train", "val", "test")
PRIORS: dict[str, tuple[str, ...]] = {
    "gaussian": ("prior=gaussian",),
    "mixture": ("prior=mixture", "prior.num_components=50", "prior.max_iter=20", "prior.tol=0"),
    "autoregressive": ("prior=autoregressive", "prior.fit.max_steps=100"),
}
"""Name -> how it is asked for; few iterations and steps, of one length on both sides."""


def write_by_hand(root: Path, file: Path) -> None:
    """The encoded splits of the store below `root`, as one .npz."""
    import numpy as np

    (folder,) = (root / "store" / "latents").glob("[!.]*")
    names = {"loc": "loc", "log_std": "log_std", "label": "labels"}
    np.savez(file, **{f"{s}_{key}": np.load(folder / s / f"{name}.npy") for s in SPLITS for key, name in names.items()})


class Side:
    """One way to the same latents.

    Args:
        root: of its runs.
        words: which latents.
    """

    def __init__(self, root: Path, *words: str) -> None:
        self.root, self.words = root, (*words, f"paths.root={root}", "logger=csv")
        self.seconds: dict[str, list[float]] = {name: [] for name in PRIORS}
        self.cpu: dict[str, list[float]] = {name: [] for name in PRIORS}

    def fit(self, name: str) -> bytes:
        """Fit a prior anew; the bytes of its weights."""
        shutil.rmtree(self.root / "store" / "prior", ignore_errors=True)
        self.cpu[name].append(pipeline("stage=prior", *self.words, *PRIORS[name]).cpu_seconds)
        (folder,) = (self.root / "store" / "prior").glob("[!.]*")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.seconds[name].append(manifest["seconds"])
        return (folder / "prior.safetensors").read_bytes()


def compare(sides: Sequence[Side], rounds: int) -> bool:
    """Print a line a prior; whether all targets are reached."""
    reached = True
    print(f"{'':16}{'stage, encoded':>16}{'by hand':>10}{'command, encoded':>18}{'by hand':>10}{'ratio':>8}")
    for name in PRIORS:
        equal = True
        for number in range(rounds):
            weights = [side.fit(name) for side in (sides if number % 2 == 0 else sides[::-1])]
            equal &= weights[0] == weights[1]
        ratio = statistics.median(b / a for a, b in zip(*(side.cpu[name] for side in sides), strict=True))
        wall, cpu = (
            [statistics.median(of) for of in each]
            for each in zip(*((s.seconds[name], s.cpu[name]) for s in sides), strict=True)
        )
        medians = f"{wall[0]:14.2f} s{wall[1]:8.2f} s{cpu[0]:16.2f} s{cpu[1]:8.2f} s"
        is_reached = equal and ratio <= TARGET
        bits = "the same to the bit" if equal else "OTHER BITS"
        print(f"{name:16}{medians}{ratio:8.3f}  {bits}  {'reached' if is_reached else 'MISSED'}", flush=True)
        reached &= is_reached
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--steps", type=int, default=500, help="of the VAE's training")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="expost-door-") as name:
        here, there, file = Path(name) / "encoded", Path(name) / "by-hand", Path(name) / "latents.npz"
        vae = (
            "experiment=mnist_reference",
            f"data.root={options.data.absolute()}",
            f"trainer.max_steps={options.steps}",
        )
        encoded = Side(here, *vae)
        pipeline("stage=encode", *encoded.words)
        write_by_hand(here, file)
        by_hand = Side(there, "data=latents", f"data.root={file}")
        pipeline("stage=encode", *by_hand.words)
        print(f"{machine()}; a VAE of {options.steps:,} steps, medians of {options.rounds} rounds")
        return 0 if compare((encoded, by_hand), options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
