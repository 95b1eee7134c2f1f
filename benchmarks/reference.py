"""The reference experiment against its targets: a VAE on MNIST, a mixture and an autoregressive prior on it.

    python -m benchmarks.reference --data DIR

Runs `pipeline.py experiment=mnist_reference` from nothing with a mixture of 100 full components, then again on the
same store with the autoregressive prior, which must train no second VAE. Both run as a user runs them; their figures
come from report.json. Prints one table; exits with 1 when a target is missed. Takes several minutes.
"""

import argparse
import json
import operator
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import Measured, machine, pipeline

GIB, MINUTES = 2.5, 6.0
SYMBOLS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class Line:
    """One target: what it is, what was measured, the bound."""

    name: str
    value: float
    relation: str
    target: float

    @property
    def reached(self) -> bool:
        return SYMBOLS[self.relation](self.value, self.target)


@dataclass(frozen=True)
class Fitted:
    """One run: its cost and the rows of its report."""

    measured: Measured
    rows: dict[str, dict[str, Any]]

    def rate_reduction_nats(self, prior: str) -> float:
        """How much less q(z|x) costs a test image under the learned prior than under N(0, I)."""
        return self.rows["standard_normal"]["rate_nats"] - self.rows[prior]["rate_nats"]


def run(root: Path, data: Path, *words: str) -> Fitted:
    measured = pipeline("experiment=mnist_reference", f"data.root={data}", f"paths.root={root}", *words)
    report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    return Fitted(measured, report["rows"])


def vae_seconds(root: Path) -> float:
    """What training cost, by the manifests of the store's VAEs."""
    manifests = [
        json.loads(path.read_text(encoding="utf-8")) for path in (root / "store" / "vae").glob("*/manifest.json")
    ]
    return sum(manifest["seconds"] for manifest in manifests)


def targets(root: Path, data: Path) -> list[Line]:
    mixture = run(root, data, "prior=mixture", "prior.num_components=100")
    flexible = run(root, data, "prior=autoregressive")
    num_vaes = len(list((root / "store" / "vae").glob("*/model.safetensors")))
    first, second = mixture.measured, flexible.measured
    row, other = mixture.rows["mixture"], flexible.rows["autoregressive"]
    return [
        Line("mixture: rate below N(0, I), nats", mixture.rate_reduction_nats("mixture"), ">=", 3.8),
        Line("mixture: gap closed, %", 100 * row["gap_closed"], ">=", 92),
        Line("mixture: whole run, minutes", first.seconds / 60, "<", MINUTES),
        Line("mixture: peak GiB", first.peak_gib, "<", GIB),
        Line("autoregressive: rate below N(0, I), nats", flexible.rate_reduction_nats("autoregressive"), ">=", 4.1),
        Line("autoregressive: gap closed, %", 100 * other["gap_closed"], ">=", 88),
        Line("autoregressive: fit, seconds", other["fit_seconds"], "<=", 90),
        Line("autoregressive: run and its VAE, minutes", (second.seconds + vae_seconds(root)) / 60, "<", MINUTES),
        Line("autoregressive: peak GiB", second.peak_gib, "<", GIB),
        Line("VAEs in the store after both", num_vaes, "=", 1),
    ]


def print_table(lines: list[Line]) -> int:
    """Print the table; the exit code: 1 where a target is missed."""
    print(f"{machine()} at the end\n{'':48}{'measured':>10}{'target':>12}")
    for line in lines:
        bound = f"{line.relation} {line.target:.4g}"
        print(f"{line.name:48}{line.value:10.2f}{bound:>12}  {'reached' if line.reached else 'MISSED'}")
    return 0 if all(line.reached for line in lines) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options = parser.parse_args()
    print(f"{machine()} at the start", flush=True)
    with tempfile.TemporaryDirectory(prefix="expost-reference-") as root:
        lines = targets(Path(root), options.data.absolute())
    return print_table(lines)


if __name__ == "__main__":
    sys.exit(main())
