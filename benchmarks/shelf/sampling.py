"""What a draw can be made cheaper or bolder by: passes of the network, and temperature, against the Frechet distance.

    python -m benchmarks.shelf.sampling --data DIR [--root runs/bench/shelf] [--seed 0] [--draws 3]
                                        [--out docs/measured/sampling.md]

Takes the priors of `benchmarks.shelf.table`, fitted now or found under `--root`, and draws 10,000 latents several times
from each: `flow_matching` and `diffusion` by their solver in ever more steps, and the best priors at temperatures
around one. Distances are those of the report, between decoded draws and the test images in features of the set's own
classifier; ± is the standard deviation over draws, of which each has its own seed. Exits with 1 where `flow_matching`
by 20 passes is further from the images than by 100, beyond both standard deviations. It takes ten minutes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.child import machine, pipeline
from benchmarks.shelf.table import DRAWS, exported, words_of
from expost import TwoStage
from expost.evaluation.distances import frechet_distance
from expost.measure.feature_nets import load_own_net
from expost.store.artifacts import Artifact
from stage1_vae.data.idx import Idx
from stage2_prior.continuous import ContinuousPrior
from stage2_prior.ode import PASSES

STEPS: Mapping[str, Sequence[int]] = {"flow_matching": (2, 3, 5, 10, 20, 50), "diffusion": (5, 10, 20, 50)}
"""Of the solver by Heun, of two passes each."""
FEW_PASSES, MANY_PASSES = 20, 100
TEMPERATURES = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
PRIORS = ("flow_matching", "diffusion", "autoregressive", "realnvp", "mixture")


@dataclass(frozen=True)
class Row:
    """Several times `DRAWS` draws.

    Attributes:
        distances: Frechet, one a time.
        seconds: to draw the latents once, the least.
    """

    prior: str
    passes: int | None
    temperature: float
    distances: Sequence[float]
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.distances)

    @property
    def spread(self) -> float:
        return statistics.stdev(self.distances) if len(self.distances) > 1 else 0.0

    @property
    def line(self) -> str:
        passes = "-" if self.passes is None else str(self.passes)
        return (
            f"| {self.prior} | {passes} | {self.temperature:g} | {self.mean:.3f} ± {self.spread:.3f} | "
            f"{self.seconds:.2f} |"
        )


class Judge:
    """The Frechet distance of decoded draws from the test images, by the net that `evaluation` was made with."""

    def __init__(self, evaluation: Path, data: Path) -> None:
        key = Artifact("evaluation", evaluation.name, evaluation).manifest()["ingredients"]["features"]
        features = Artifact("features", key, evaluation.parents[1] / "features" / key)
        self.net = load_own_net(features, torch.device("cpu"))
        test = Idx(root=str(data)).load().test
        self.test = self.net.extract(test.batch(torch.arange(len(test))).float() / 255)

    def row(self, model: TwoStage, name: str, temperature: float, times: int) -> Row:
        distances, seconds = [], []
        for seed in range(times):
            torch.manual_seed(seed)
            started = time.perf_counter()
            z = model.sample_latents(DRAWS, temperature=temperature)
            seconds.append(time.perf_counter() - started)
            distances.append(frechet_distance(self.net.extract(decoded(model, z)), self.test))
        drift = drift_of(model)
        passes = None if drift is None else PASSES[drift.solver.method] * drift.solver.num_steps
        return Row(name, passes, temperature, distances, min(seconds))


def decoded(model: TwoStage, z: Tensor) -> Tensor:
    """Images [N, C, H, W] of latents."""
    return torch.cat([model.decode(block) for block in z.split(1000)])


def drift_of(model: TwoStage) -> ContinuousPrior | None:
    """The prior whose samples a solver follows, if it is one."""
    return next((part for part in model.prior.modules() if isinstance(part, ContinuousPrior)), None)


def rows_of(judge: Judge, folder: Path, name: str, times: int) -> Iterator[Row]:
    """At each temperature; at one by ever more steps of its solver, if it has one."""
    model = TwoStage.load(folder)
    drift = drift_of(model)
    if drift is not None:
        usual = drift.solver
        for num_steps in STEPS[name]:
            drift.solver = replace(usual, num_steps=num_steps)
            yield judge.row(model, name, 1.0, times)
        drift.solver = usual
    for temperature in TEMPERATURES:
        if drift is not None and temperature == 1:
            continue
        yield judge.row(model, name, temperature, times)


def section(rows: Sequence[Row], times: int, verdict: str) -> str:
    """The part of docs/RESULTS.md."""
    return "\n\n".join(
        [
            "## Cheaper and bolder draws",
            f"{times} times {DRAWS:,} draws of each prior on the reference VAE; Frechet distance between them, "
            "decoded, and the test images, in features of the set's own classifier, mean ± standard deviation over "
            "draws. "
            "Passes: of the network, for one draw.",
            "    python -m benchmarks.shelf.sampling --data DIR",
            "| prior | passes | temperature | Frechet distance ↓ | 10,000 latents, s |\n|---|---:|---:|---:|---:|\n"
            + "\n".join(row.line for row in rows),
            f"- {verdict}",
            f"- {machine()} at the end.",
        ]
    )


def verdict_of(rows: Sequence[Row]) -> tuple[bool, str]:
    """Whether few passes of flow matching are as good as many, and that in words."""
    by_passes = {row.passes: row for row in rows if row.prior == "flow_matching" and row.temperature == 1}
    few, many = by_passes[FEW_PASSES], by_passes[MANY_PASSES]
    behind, noise = few.mean - many.mean, few.spread + many.spread
    words = (
        f"`flow_matching` by {FEW_PASSES} passes is {behind:+.3f} from {MANY_PASSES}, noise up to {noise:.3f}: "
        f"{'reached' if behind <= noise else 'MISSED'}"
    )
    return behind <= noise, words


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/shelf"), help="where the runs are kept")
    parser.add_argument("--seed", type=int, default=0, help="seeds.prior of the fits")
    parser.add_argument("--draws", type=int, default=3, help="times that each is drawn")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    root, data = options.root.absolute(), options.data.absolute()
    fits = [pipeline(*words_of(root, data, name, options.seed), "stage=report") for name in PRIORS]
    judge, rows = Judge(fits[0].artifact("evaluation"), data), []
    for name in PRIORS:
        for row in rows_of(judge, exported(root, data, name, options.seed), name, options.draws):
            rows.append(row)
            print(row.line, file=sys.stderr, flush=True)
    reached, words = verdict_of(rows)
    text = section(rows, options.draws, words)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
