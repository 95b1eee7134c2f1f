"""How time and memory of every stage grow: with images, latents, dimensions, codes a map and components.

    python -m benchmarks.growth [--only AXIS ...] [--up-to SIZE] [--root DIR] [--figure docs/growth.png]
                                [--out docs/measured/growth.md]

Runs each stage on synthetic data of each size as a command of its own, by one thread, and counts the seconds that its
processes computed, whatever else the machine does, and its peak memory; both hold the start of the interpreter. A slope
tells that apart: of what is beyond the least of the curve, d log(figure) / d log(size) between the two largest, so that
1 is linear whatever is there once; none where less than a second, or a tenth of a GiB, is beyond it. Sizes that a
command refuses end its curve, in the words that it gave. Takes about two hours on one core and 6 GiB of disk; what is
in `--root` is not measured again. Exits with 1 where a curve over images or latents is steeper than linear by more than
a tenth, by more than noise, and nothing explains it. What noise is, the axis of components measures: `encode` does the
same work there at every size, and its spread is that of one command that is run again; without that axis there is none.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.child import HERE, machine
from benchmarks.growth.axes import AXES, COMMON, Axis

LINEAR = 1.1
LEAST = {"seconds": 1.0, "gib": 0.1}
"""Beyond the least of the curve: less has no slope."""
HIDDEN = (
    "at 10,000 what the images take is less than what the imports leave behind; each image beyond 100,000 adds about a "
    "thousand bytes, its pixels and its posterior as they lie on the disk"
)
EXPLAINED = {("images", "encode", "gib"): HIDDEN}
"""Why a curve is steeper than linear, where that is no growth of the stage."""
REFUSED = 2
"""The exit code of what is a user's mistake, or too large."""
SAME_WORK = ("components", "encode")
"""The curve whose command never looks at what grows."""
COUNTED = ("images", "latents")
"""Axes along which nothing may grow faster than that."""


@dataclass(frozen=True)
class Point:
    """One command on data of one size."""

    size: int
    seconds: float
    gib: float


@dataclass
class Curve:
    """One command over sizes.

    Attributes:
        refusal: why it ends before the largest size; None: it does not.
    """

    name: str
    points: list[Point]
    refusal: str | None = None

    def slope(self, figure: str, noise: float = 0.0) -> float | None:
        """Of what is beyond the least, between the two largest; None: it hardly grows, or there are too few.

        With `noise`, the least that the slope may be where each of the two differences may be off by so much.
        """
        if len(self.points) < 3:
            return None
        sizes = [self.points[place].size - self.points[0].size for place in (-2, -1)]
        least = min(getattr(point, figure) for point in self.points)
        grown = [getattr(self.points[place], figure) - least for place in (-2, -1)]
        if grown[1] < LEAST[figure]:
            return None
        most, least = max(grown[1] - noise, 1e-3), max(grown[0] + noise, 1e-3)
        return math.log(most / least) / math.log(sizes[1] / sizes[0])

    def spread(self, figure: str) -> float:
        """Between its largest and its smallest; 0 of no points."""
        figures = [getattr(point, figure) for point in self.points]
        return max(figures, default=0.0) - min(figures, default=0.0)

    def steep(self, axis: str, noise: Mapping[str, float]) -> dict[str, bool]:
        """What of it grows faster than linear, in words, and whether neither `noise` of each figure nor anything else
        explains it."""
        found = {}
        for figure, of_figure in noise.items():
            slope, least = self.slope(figure), self.slope(figure, of_figure)
            if slope is None or least is None or slope <= LINEAR:
                continue
            why = EXPLAINED.get((axis, self.name, figure), "")
            if least <= LINEAR:
                why = (
                    f"noise, for a command that is run again is off by up to {of_figure:.2f}, and it may be {least:.2f}"
                )
            found[f"{axis}, {self.name}, {figure} {slope:.2f}" + (f": {why}" if why else "")] = not why
        return found


def noise_of(found: Mapping[str, Sequence[Curve]]) -> dict[str, float]:
    """How far each figure of a command is off when it is run again, of all curves by their axes; 0 where the one that
    says so is not among them."""
    axis, name = SAME_WORK
    same = [curve for curve in found.get(axis, ()) if curve.name == name]
    return {figure: max((curve.spread(figure) for curve in same), default=0.0) for figure in LEAST}


def take(words: list[str], size: int) -> Point | str:
    """One command by one thread; or what it said when it refused.

    Raises:
        SystemExit: it broke.
    """
    environment = os.environ | {"WANDB_MODE": "offline", "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "pipeline.py"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == REFUSED:
        return said.strip().splitlines()[-1]
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{said}")
    return Point(size, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def measured(axis: Axis, largest: int, kept: Path) -> list[Curve]:
    """The curves along one axis."""
    curves = {name: Curve(name, []) for name in axis.commands}
    for size in axis.sizes:
        if size > largest:
            break
        growing = [name for name, curve in curves.items() if curve.refusal is None]
        for name, outcome in outcomes_at(axis, size, growing, kept).items():
            if isinstance(outcome, str):
                curves[name].refusal = f"{size:,}: {outcome}"
            else:
                curves[name].points.append(outcome)
    return list(curves.values())


def outcomes_at(axis: Axis, size: int, names: list[str], kept: Path) -> dict[str, Point | str]:
    """What the commands `names` took, or why there is nothing, measured now or found in the folder `kept`."""
    commands = {name: axis.commands[name](size) for name in names}
    file = kept / f"{axis.name}-{size}.json"
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["commands"] == commands:
            found = stored["outcomes"].items()
            return {name: outcome if isinstance(outcome, str) else Point(**outcome) for name, outcome in found}
    outcomes: dict[str, Point | str] = {}
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=kept) as scratch:
        data, root = Path(scratch) / "data", Path(scratch) / "runs"
        data.mkdir()
        # By a process of its own: Linux counts the memory of the one that starts a command into the command's peak.
        subprocess.run([sys.executable, "-m", "benchmarks.growth.axes", axis.name, str(size), data], check=True)
        for name, words in commands.items():
            asked = words if isinstance(words, str) else [f"data.root={data}", f"paths.root={root}", *COMMON, *words]
            outcomes[name] = asked if isinstance(asked, str) else take(asked, size)
            print(f"{axis.name} {size:,} {name}: {outcomes[name]}", file=sys.stderr, flush=True)
    stored = {name: outcome if isinstance(outcome, str) else asdict(outcome) for name, outcome in outcomes.items()}
    file.write_text(json.dumps({"commands": commands, "outcomes": stored}, indent=1), encoding="utf-8")
    return outcomes


def table(axis: Axis, curves: list[Curve]) -> str:
    """Seconds and peak GiB of each size, and slopes."""
    sizes = sorted({point.size for curve in curves for point in curve.points})
    head = f"| | {' | '.join(f'{size:,}' for size in sizes)} | slope, seconds | slope, memory |"
    lines = [f"### {axis.name.capitalize()}", f"{axis.fixed[0].upper()}{axis.fixed[1:]}.", ""]
    rows = [head, "|---|" + "---:|" * (len(sizes) + 2)]
    for curve in curves:
        of_size = {point.size: f"{point.seconds:.1f} s, {point.gib:.2f} GiB" for point in curve.points}
        slopes = ["-" if slope is None else f"{slope:.2f}" for slope in map(curve.slope, LEAST)]
        rows.append("| " + " | ".join([curve.name, *(of_size.get(size, "-") for size in sizes), *slopes]) + " |")
    notes = [f"- {curve.name}, {curve.refusal}" for curve in curves if curve.refusal is not None]
    return "\n".join([*lines, *rows, *(["", *notes] if notes else [])])


def draw(found: dict[str, list[Curve]], place: Path) -> None:
    """Seconds above, memory below, an axis a column."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(found), figsize=(3.6 * len(found), 6.4), squeeze=False, sharex="col")
    for column, (name, curves) in enumerate(found.items()):
        for row, (key, label) in enumerate((("seconds", "seconds of one core"), ("gib", "peak memory, GiB"))):
            panel = panels[row, column]
            for curve in curves:
                sizes = [point.size for point in curve.points]
                panel.loglog(sizes, [getattr(point, key) for point in curve.points], marker="o", label=curve.name)
            panel.grid(alpha=0.3)
            if not column:
                panel.set_ylabel(label)
        panels[1, column].set_xlabel(name)
        panels[0, column].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(place, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[axis.name for axis in AXES], default=[axis.name for axis in AXES])
    parser.add_argument("--up-to", type=int, default=sys.maxsize, help="largest size")
    parser.add_argument("--root", type=Path, default=Path("runs/bench/growth"), help="where points and data are kept")
    parser.add_argument("--figure", type=Path, help="a PNG file")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    kept = options.root.absolute()
    kept.mkdir(parents=True, exist_ok=True)
    chosen = [axis for axis in AXES if axis.name in options.only]
    found = {axis.name: measured(axis, options.up_to, kept) for axis in chosen}
    noise = noise_of(found)
    steep = {
        words: is_open
        for name in COUNTED
        for curve in found.get(name, [])
        for words, is_open in curve.steep(name, noise).items()
    }
    text = "\n\n".join(
        [
            "## Growth",
            "Each stage as a command of its own on synthetic data, by one thread: seconds that its processes computed, "
            "and peak memory, both with the start of the interpreter. A slope is that of what is beyond the least of a "
            "curve, d log / d log size between the two largest: 1 is linear; none where less than a second, or a tenth "
            "of a GiB, is beyond it. One run each.",
            "    python -m benchmarks.growth",
            *(table(axis, found[axis.name]) for axis in chosen),
            f"Steeper than linear in images or latents: {'; '.join(steep) or 'none'}.",
            f"- {machine()} at the end.",
        ]
    )
    print(text)
    if options.figure:
        draw(found, options.figure)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if any(steep.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
