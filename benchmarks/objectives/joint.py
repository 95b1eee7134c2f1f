"""The reference VAE with priors fitted afterwards, and what `stage=joint` makes of both stages from there.

    python -m benchmarks.objectives.joint --data DIR [--root runs/bench/shelf] [--frozen NAME ...] [--joint NAME ...]
                               [--out docs/measured/joint.md]

Every prior is fitted to the frozen VAE and judged; some then go on together with it, for `joint.max_epochs`. -ELBO is a
bound on -log p(x) in nats a test image, over all 10,000; errors are standard errors over images. The store under
`--root`, which may be that of `benchmarks.shelf.table`, keeps what was made. Exits with 1 unless the best joint bound
is below the best frozen one by more than twice the error of their difference, taken as if the images were others, which
is an upper bound on that error.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

RECIPE = ("experiment=mnist_reference", "logger=csv", "trainer.precision=auto", "evaluation.importance_samples=4")
BOUND, NOISE = "elbo_nats", 2.0


@dataclass(frozen=True)
class Judged:
    """A prior, whether the VAE went on with it, and its row of report.json."""

    name: str
    is_joint: bool
    row: dict[str, Any]

    @property
    def nats(self) -> float:
        return float(self.row[BOUND])

    @property
    def error(self) -> float:
        return float(self.row["spread"][BOUND])

    @property
    def line(self) -> str:
        row, spread = self.row, self.row["spread"]
        cells = [f"{row[name]:.2f} ± {spread[name]:.2f}" for name in (BOUND, "distortion_nats", "rate_nats")]
        how = "`stage=joint`" if self.is_joint else "frozen"
        distances = f"{row['frechet_distance']:.3f} | {100 * row['gap_closed']:.1f}"
        return f"| {self.name} | {how} | {' | '.join(cells)} | {distances} |"


def judge(root: Path, data: Path, name: str, is_joint: bool) -> Judged:
    words = (*RECIPE, f"data.root={data}", f"paths.root={root}", f"prior={name}", *["stage=joint"] * is_joint)
    taken = pipeline(*words)
    report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    print(
        f"{name}, {'joint' if is_joint else 'frozen'}: {taken.seconds:.0f} s, {machine()}", file=sys.stderr, flush=True
    )
    return Judged(name, is_joint, report["rows"][name])


def section(judged: Sequence[Judged], frozen: Judged, joint: Judged) -> str:
    """The part of docs/RESULTS.md."""
    gain, error = frozen.nats - joint.nats, math.hypot(frozen.error, joint.error)
    verdict = "reached" if gain > NOISE * error else "MISSED"
    return "\n\n".join(
        [
            "## Both stages together",
            "The reference VAE (`experiment=mnist_reference`) with priors fitted afterwards, and with encoder, decoder "
            "and prior going on together from there, for 20 epochs more than the frozen VAE had; one seed. -ELBO, "
            "distortion and rate in nats a test image over all "
            "10,000 (4 draws of q(z|x) each), ± standard errors over images; Bernoulli on intensities is a "
            "cross-entropy. Frechet distance of 10,000 decoded draws, in features of the set's own classifier; the gap "
            "is from N(0, I) on the same VAE to its reconstructions.",
            "    python -m benchmarks.objectives.joint --data DIR",
            "| prior | VAE | -ELBO ↓ | distortion ↓ | rate ↓ | Frechet distance ↓ | gap closed, % ↑ |\n"
            "|---|---|---:|---:|---:|---:|---:|\n" + "\n".join(one.line for one in judged),
            f"Target, the best joint bound below the best frozen one by more than noise: {frozen.name} "
            f"{frozen.nats:.2f}, {joint.name} together {joint.nats:.2f}, {gain:.2f} ± {error:.2f} nats: {verdict}.",
            f"- {machine()} at the end.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/shelf"), help="where the runs are kept")
    parser.add_argument("--frozen", nargs="+", default=["mixture", "realnvp", "autoregressive", "diffusion"])
    parser.add_argument("--joint", nargs="+", default=["mixture", "realnvp", "autoregressive"])
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    root, data = options.root.absolute(), options.data.absolute()
    judged = [judge(root, data, name, False) for name in options.frozen]
    judged += [judge(root, data, name, True) for name in options.joint]
    best = {
        is_joint: min((one for one in judged if one.is_joint is is_joint), key=lambda one: one.nats)
        for is_joint in (False, True)
    }
    text = section(judged, best[False], best[True])
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if best[False].nats - best[True].nats > NOISE * math.hypot(best[False].error, best[True].error) else 1


if __name__ == "__main__":
    sys.exit(main())
