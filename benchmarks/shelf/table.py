"""Every prior of the shelf on one VAE, judged alike: nats, distance, time, parameters, spread over seeds.

    python -m benchmarks.shelf.table --data DIR [--root runs/bench/shelf] [--priors NAME ...] [--seeds 0 1 2]
                                     [--stored] [--remark TEXT] [--out docs/measured/shelf.md] [--figure docs/shelf.png]

Trains the reference VAE once and runs `pipeline.py stage=all` for each prior and value of `seeds.prior`, as a user runs
it, then `stage=export`; what the store under `--root` has already is not made again, so that a table is written anew in
a minute. Figures come from report.json; only the seconds to draw 10,000 latents are measured here, on the exported
model. ± is the standard deviation over seeds; of seconds to fit the least stands, since other work on a machine only
adds. Exits with 1 when a target is missed: the best single prior, the ensemble, auto beside the best, coupling flows,
one prior that wins in nats and in distance, sampling. Half an hour a seed on two cores.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import machine, pipeline

Report = dict[str, Any]

CONF = Path(__file__).parents[2] / "conf" / "prior"
LEFT_OUT = frozenset(
    ["bigram", "glow", "learned", "masked", "pixelcnn", "rbm", "spherical_mixture", "transformer", "uniform", "unigram"]
)
"""Of codes, maps, bits or a sphere: the reference VAE has vectors of 16 real numbers, and none learned with them."""
WORDS: dict[str, tuple[str, ...]] = {
    "mixture": ("prior=mixture", "prior.num_components=100"),
    "flow_matching_wide": ("prior=flow_matching", "prior.base_std=1.11"),
}
"""What is typed for a row; of any other, prior=NAME."""
NAMES = sorted(({path.stem for path in CONF.glob("*.yaml")} | set(WORDS)) - LEFT_OUT)
MEMORISE = frozenset({"aggregate", "kde"})
COMPOSITE = frozenset({"ensemble", "auto"})
"""Made of other priors of the shelf; no single prior."""
FAST = ("mixture", "gaussian", "realnvp", "nsf", "second_vae", "kde", "vamp_expost")
DRAWS, ROUNDS = 10_000, 3
NEAR_NATS, NEAR = 1.0, 90.0
"""Of the best one in nats, and percent of the gap: what the figure shows."""
RECIPE = ("experiment=mnist_reference", "evaluation.importance_samples=4", "logger=csv", "trainer.precision=auto")


@dataclass(frozen=True)
class Judged:
    """One prior over its seeds.

    Attributes:
        rows: of each seed's report, that of the prior.
        baseline: the row of N(0, I); the same in each.
        sampling_seconds: to draw 10,000 latents, median of three.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    baseline: Mapping[str, Any]
    sampling_seconds: float

    def values(self, figure: str) -> list[float]:
        """Of each seed, where there is the figure, of seconds the least alone; `gain` is what the rate is below that of
        N(0, I), nats."""
        if figure == "gain":
            return [self.baseline["rate_nats"] - rate for rate in self.values("rate_nats")]
        scale = 100 if figure in ("gap_closed", "memorisation") else 1
        found = [scale * row[figure] for row in self.rows if row.get(figure) is not None]
        return [min(found)] if found and figure == "fit_seconds" else found

    def mean(self, figure: str) -> float:
        return statistics.mean(self.values(figure))

    @property
    def is_single(self) -> bool:
        return self.name not in MEMORISE | COMPOSITE | {"standard_normal"}


@dataclass(frozen=True)
class Target:
    """One line of what must be reached."""

    words: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def judge(root: Path, data: Path, name: str, seeds: Sequence[int], stored: bool) -> Judged:
    """The prior `name` on the reference VAE, made now or found in the store; of seeds that it lacks none where only
    what is `stored` is asked for."""
    rows, baseline = [], {}
    choice = words_for(name)[0].removeprefix("prior=")
    for seed in seeds:
        words = words_of(root, data, name, seed)
        try:
            taken = pipeline(*words, *(("stage=report", "upstream=require") if stored else ()))
        except SystemExit:
            if not stored:
                raise
            continue
        report: Report = json.loads((root / "latest" / "report.json").read_text(encoding="utf-8"))
        rows.append(report["rows"][choice])
        baseline = report["rows"]["standard_normal"]
        print(f"{name}, seed {seed}: {taken.seconds:.0f} s, {machine()}", file=sys.stderr, flush=True)
    if not rows:
        raise SystemExit(f"{root} holds no {name} of the seeds {', '.join(map(str, seeds))}; leave out --stored")
    return Judged(name, rows, baseline, sampling_seconds(exported(root, data, name, seeds[0])))


def words_of(root: Path, data: Path, name: str, seed: int) -> tuple[str, ...]:
    """What is typed for the prior `name` on the reference VAE."""
    return (*RECIPE, f"data.root={data}", f"paths.root={root}", f"seeds.prior={seed}", *words_for(name))


def words_for(name: str) -> tuple[str, ...]:
    return WORDS.get(name, (f"prior={name}",))


def exported(root: Path, data: Path, name: str, seed: int) -> Path:
    """The folder of the reference VAE with the prior `name`, exported anew: an older one may be of another fit."""
    folder = root / "exports" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pipeline(*words_of(root, data, name, seed), "stage=export", f"export.out={folder}")
    return folder


def sampling_seconds(folder: Path) -> float:
    """Median seconds to draw `DRAWS` latents from an exported model, after one that warms up."""
    import torch

    from expost import TwoStage

    model, taken = TwoStage.load(folder), []
    for _ in range(ROUNDS + 1):
        torch.manual_seed(0)
        started = time.perf_counter()
        model.sample_latents(DRAWS)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def targets(shelf: Sequence[Judged]) -> Iterator[Target]:
    """What of the shelf was measured against what it must reach."""
    by_name = {judged.name: judged for judged in shelf}
    single = [judged for judged in shelf if judged.is_single]
    if single:
        best = max(single, key=lambda judged: judged.mean("gain"))
        yield Target(f"best single prior ({best.name}): rate below N(0, I), nats", best.mean("gain"), 4.45)
        both = max(
            (one for one in shelf if one.name not in MEMORISE and one.values("gain") and one.values("gap_closed")),
            key=lambda one: min(one.mean("gain") - 4.3, (one.mean("gap_closed") - 96) / 10),
        )
        yield Target(f"one prior that wins both ({both.name}): nats", both.mean("gain"), 4.3)
        yield Target(f"one prior that wins both ({both.name}): gap closed, %", both.mean("gap_closed"), 96)
    if ensemble := by_name.get("ensemble"):
        yield Target("ensemble: rate below N(0, I), nats", ensemble.mean("gain"), 4.6)
        yield Target("ensemble: fit with its members, seconds", ensemble.mean("fit_seconds"), 240, at_most=True)
    if single and (auto := by_name.get("auto")):
        seconds = sum(judged.mean("fit_seconds") for judged in single if judged.values("fit_seconds"))
        nats, gap = (best.mean(figure) - auto.mean(figure) for figure in ("gain", "gap_closed"))
        yield Target(f"auto: behind {best.name}, nats", nats, 0.1, at_most=True)
        yield Target(f"auto: behind {best.name}, % of the gap", gap, 2, at_most=True)
        yield Target("auto: seconds, of those of all single priors", auto.mean("fit_seconds") / seconds, 1 / 3, True)
    for name in ("nsf", "realnvp"):
        if flow := by_name.get(name):
            yield Target(f"{name}: rate below N(0, I), nats", flow.mean("gain"), 3.9)
            yield Target(f"{name}: fit, seconds", flow.mean("fit_seconds"), 60, at_most=True)
    for judged in single:
        yield Target(f"{judged.name}: fit, seconds", judged.mean("fit_seconds"), 90, at_most=True)
    for name in FAST:
        if fast := by_name.get(name):
            yield Target(f"{name}: 10,000 latents, seconds", fast.sampling_seconds, 0.5, at_most=True)


COLUMNS = {
    "rate below N(0, I), nats ↑": ("gain", 2),
    "-log p(z), nats ↓": ("latent_nll_nats", 2),
    "Frechet distance ↓": ("frechet_distance", 3),
    "gap closed, % ↑": ("gap_closed", 1),
    "told from q(z), % ↓": ("two_sample_accuracy", 3),
    "memorisation, %": ("memorisation", 1),
    "fit, s": ("fit_seconds", 1),
    "parameters": ("num_parameters", 0),
}


def table(shelf: Sequence[Judged]) -> str:
    """Priors down, the best in nats first; mean ± standard deviation over seeds."""
    out = [f"| prior | {' | '.join(COLUMNS)} | 10,000 latents, s | seeds |", f"|---|{'---:|' * (len(COLUMNS) + 2)}"]
    for judged in sorted(shelf, key=lambda judged: -judged.mean("gain") if judged.values("gain") else 0.0):
        mark = "†" if judged.name in MEMORISE else ""
        cells = [spread(judged.values(figure), decimals) for figure, decimals in COLUMNS.values()]
        out.append(
            f"| {judged.name}{mark} | {' | '.join(cells)} | {judged.sampling_seconds:.2f} | {len(judged.rows)} |"
        )
    return "\n".join(out)


def spread(values: Sequence[float], decimals: int) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):,.{decimals}f}"
    varies = len(values) > 1 and statistics.stdev(values) >= 0.5 * 10**-decimals
    return f"{mean} ± {statistics.stdev(values):,.{decimals}f}" if varies else mean


def section(shelf: Sequence[Judged], seeds: Sequence[int], reached: Sequence[Target], remark: str) -> str:
    """The part of docs/RESULTS.md."""
    lines = [
        f"| {target.words} | {target.value:.2f} | {'≤' if target.at_most else '≥'} {target.bound:.3g} | "
        f"{'reached' if target.reached else 'MISSED'} |"
        for target in reached
    ]
    return "\n\n".join(
        [
            "## The shelf",
            "Every prior that models vectors of real numbers, with the settings of its yaml (mixture: 100 components; "
            "flow_matching_wide: `prior.base_std=1.11`), on the reference VAE "
            "(`experiment=mnist_reference`, one VAE); mean ± standard deviation over up to "
            f"{len(seeds)} value{'s' * (len(seeds) > 1)} of `seeds.prior`, of seconds to fit the least. Rates over "
            "10,000 test images, each with 4 draws of q(z|x), fewer where a density is dear (the run says so); "
            "distances between 10,000 decoded draws and the test images, in features of the set's own classifier. † "
            "stands on every training latent, and is no prior to choose.",
            "    python -m benchmarks.shelf.table --data DIR",
            table(shelf),
            "| target | measured | bound | |\n|---|---:|---:|---|\n" + "\n".join(lines),
            f"- {remark}{machine()} at the end.",
        ]
    )


def draw_figure(shelf: Sequence[Judged], path: Path) -> None:
    """Nats against distance, the area of a point its seconds to fit; names in a column beside it, by height. What is
    far from all others, in nats or in distance, is named below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    known = [judged for judged in shelf if judged.values("gain") and judged.values("gap_closed")]
    best = max(judged.mean("gain") for judged in known)
    shown = [judged for judged in known if best - judged.mean("gain") < NEAR_NATS and judged.mean("gap_closed") > NEAR]
    shown.sort(key=lambda judged: judged.mean("gap_closed"))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    heights = [judged.mean("gap_closed") for judged in shown]
    low, high = min(heights) - 0.4, max(heights) + 0.4
    right = best + 0.08
    for place, judged in enumerate(shown):
        x, y = judged.mean("gain"), judged.mean("gap_closed")
        colour = "#d1495b" if judged.name in COMPOSITE else "#2e6f9e"
        axes.scatter(x, y, s=12 + 2 * judged.mean("fit_seconds"), color=colour, alpha=0.55, linewidths=0)
        beside = low + (high - low) * (place + 0.5) / len(shown)
        words = f"{judged.name}, {judged.mean('fit_seconds'):.0f} s"
        line = {"arrowstyle": "-", "color": "#bbbbbb", "relpos": (0, 0.5)}  # to the left end of the words
        axes.annotate(words, (x, y), (right, beside), fontsize=9, va="center", arrowprops=line)
    axes.set_xlim(min(judged.mean("gain") for judged in shown) - 0.05, right + 0.3)
    axes.set_ylim(low, high)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("nats that a test image costs less than under N(0, I)")
    axes.set_ylabel("gap closed, % of the Frechet distance")
    axes.set_title("Which prior? Up and to the right is better; area: seconds to fit", loc="left", fontsize=11)
    far = [
        f"{judged.name} {judged.mean('gain'):.1f} nats, {judged.mean('gap_closed'):.0f} %"
        for judged in known
        if judged not in shown and judged.name not in MEMORISE
    ]
    if far:
        figure.supxlabel(f"Outside of the picture: {'; '.join(far)}", fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/shelf"), help="where the runs are kept")
    parser.add_argument("--priors", nargs="+", default=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stored", action="store_true", help="fit nothing: the seeds of each that are there")
    parser.add_argument("--remark", default="", help="what is to be known of the machine, and stands below the table")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    parser.add_argument("--figure", type=Path, help="a PNG file: nats against distance")
    options = parser.parse_args()
    root, data = options.root.absolute(), options.data.absolute()
    shelf = [judge(root, data, name, options.seeds, options.stored) for name in options.priors]
    reached = list(targets(shelf))
    words = section(shelf, options.seeds, reached, f"{options.remark} " * bool(options.remark))
    print(words)
    if options.out:
        options.out.write_text(words + "\n", encoding="utf-8")
    if options.figure:
        draw_figure(shelf, options.figure)
    return 0 if all(target.reached for target in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
