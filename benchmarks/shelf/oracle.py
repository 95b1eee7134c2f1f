"""Every prior with an exact density against a density that is known: nats above the entropy of three rings.

    python -m benchmarks.shelf.oracle [--root runs/bench/oracle] [--priors NAME ...] [--out docs/measured/rings.md]

Each prior models `data=mixture_rings` through `vae=identity`, so that latents are the data, and its mean -log p(z) over
the held-out points can be no lower than their entropy beyond noise: the difference is what it costs, KL(q || p). Exits
with 1 when an exact density costs more than 0.1 nat.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

LONGER = "autoregressive, 80 epochs"
PRIORS = (
    "gaussian",
    "mixture",
    "autoregressive",
    LONGER,
    "realnvp",
    "nsf",
    "maf",
    "flow_matching",
    "diffusion",
    "kde",
    "bayes_mixture",
    "ensemble",
    "resampled",
    "energy",
    "second_vae",
)
WORDS = {LONGER: ("prior=autoregressive", "prior.fit.max_epochs=80")}
"""Of what is no `prior=NAME` alone."""
ALLOWED = 0.1
WHY = {
    "gaussian": "one Gaussian cannot be a ring",
    "autoregressive": "too few steps on so few points",
    "second_vae": "a lower bound, and so no exact density",
    "energy": "an estimate",
    "resampled": "an estimate",
}


@dataclass(frozen=True)
class Judged:
    """A prior: its row of report.json, and the entropy of the held-out points, nats."""

    name: str
    row: dict[str, Any]
    entropy: float

    @property
    def cost(self) -> float:
        return self.row["latent_nll_nats"] - self.entropy


def judge(name: str, root: Path) -> Judged:
    prior = WORDS.get(name, (f"prior={name}",))
    pipeline("data=mixture_rings", "vae=identity", *prior, f"paths.root={root}", "logger=csv")
    report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
    judged = Judged(name, report["rows"][name.partition(",")[0]], report["true_nll_nats"])
    print(f"{name}: {judged.cost:.3f} nats above the entropy", file=sys.stderr, flush=True)
    return judged


def section(shelf: Sequence[Judged]) -> str:
    """The part of docs/RESULTS.md."""
    lines = [
        f"| {judged.name} | {judged.cost:.3f} | {judged.row.get('fit_seconds') or 0:.0f} | "
        f"{judged.row['num_parameters']:,} | {WHY.get(judged.name, '')} |"
        for judged in sorted(shelf, key=lambda judged: judged.cost)
    ]
    return "\n\n".join(
        [
            "## Known densities",
            "Nats by which the mean -log p(z) of 5,000 held-out points of three interlocked rings lies above their "
            f"entropy, {shelf[0].entropy:.3f} nats (`data=mixture_rings vae=identity`), an estimate of KL(q || p).",
            "    python -m benchmarks.shelf.oracle",
            "| prior | above the entropy, nats ↓ | fit, s | parameters | |\n|---|---:|---:|---:|---|\n"
            + "\n".join(lines),
            f"- {machine()} at the end.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/bench/oracle"), help="where the runs are kept")
    parser.add_argument("--priors", nargs="+", default=list(PRIORS))
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    shelf = [judge(name, options.root.absolute()) for name in options.priors]
    text = section(shelf)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(judged.cost <= ALLOWED for judged in shelf if judged.name not in WHY) else 1


if __name__ == "__main__":
    sys.exit(main())
