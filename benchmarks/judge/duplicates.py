"""Figures of sets that repeat themselves: against distances by differences, and beside an older version. One table.

    python -m benchmarks.judge.duplicates [--images 10000] [--features 64] [--rounds 5] [--before 9770549] [--out FILE]

Of the vectors a share is one and the same, in both sets. The truth is precision, recall, density and coverage from
`torch.cdist` in float64 by differences; an error is the largest of the four relative ones, over the large sets and over
20 small ones of odd sizes, where a matrix product rounds in other places. Seconds are those of a whole `distances`,
reference prepared, of this version and of the older one's source, one after the other in each round; the ratio is the
median over rounds. Exits with 1 when an error passes 1e-3, or a ratio 1.1 for any share.
"""

import argparse
import importlib
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.child import machine
from expost.evaluation import distances

PROJECT = Path(__file__).resolve().parents[2]
SHARES = (0.0, 0.1, 0.5, 1.0)
NEIGHBOURS = 5
SMALL = [(777, 901, dims, seed) for seed in range(5) for dims in (16, 50, 64, 100)]
"""Images of both sets, features, and seed."""
MOST_ERROR, MOST_RATIO = 1e-3, 1.1


@dataclass(frozen=True)
class Line:
    """Of one share of repeats: errors, the older version's first; median seconds; median ratio of seconds."""

    share: float
    density: float
    errors: tuple[float, float]
    seconds: tuple[float, float]
    ratio: float


@contextmanager
def older(commit: str) -> Iterator[ModuleType]:
    """`expost.evaluation.distances` as it was at `commit`, under another name."""
    packed = subprocess.run(["git", "archive", commit, "evaluation"], cwd=PROJECT, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        place = Path(folder, "evaluation").rename(Path(folder, "evaluation_before"))
        for file in place.glob("*.py"):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("from evaluation", "from evaluation_before"), encoding="utf-8")
        sys.path.append(folder)
        try:
            yield importlib.import_module("evaluation_before.distances")
        finally:
            sys.path.remove(folder)


def drawn(num: int, dims: int, share: float, seed: int) -> Tensor:
    """Uniform vectors [num, dims], `share` of them one and the same whatever the seed, in random order."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.rand(num, dims, generator=generator)
    vectors[: round(share * num)] = torch.rand(dims, generator=torch.Generator().manual_seed(99))
    return vectors[torch.randperm(num, generator=generator)]


def by_differences(a: Tensor, b: Tensor) -> dict[str, float]:
    """The four figures of samples b against a, in chunks of the whole matrices."""

    def far(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")

    radius_a, radius_b = (
        torch.cat([far(part, x).kthvalue(NEIGHBOURS + 1, 1).values for part in x.split(500)]) for x in (a, b)
    )
    precise, hits, covered, recalled = [], 0, a.new_zeros(len(a)).bool(), a.new_zeros(len(a)).bool()
    for part, radius in zip(b.split(500), radius_b.split(500), strict=True):
        between = far(part, a)
        inside = between <= radius_a
        precise.append(inside.any(1))
        hits += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (between <= radius[:, None]).any(0)
    found = {"precision": torch.cat(precise), "recall": recalled, "coverage": covered}
    shares = {name: values.double().mean().item() for name, values in found.items()}
    return shares | {"density": hits / (NEIGHBOURS * len(b))}


def error(found: Any, truth: dict[str, float]) -> float:
    """The largest relative error; of a figure that is 0, the absolute one."""
    return max(abs(getattr(found, name) - value) / (value or 1.0) for name, value in truth.items())


def pair(num: int, num_samples: int, dims: int, seed: int, share: float) -> tuple[Tensor, Tensor]:
    """A reference and samples. Where all samples are alike, half of the reference is: one that does not vary at all is
    refused."""
    return drawn(num, dims, min(share, 0.5), 2 * seed), drawn(num_samples, dims, share, 2 * seed + 1)


def measure(share: float, before: ModuleType, options: argparse.Namespace) -> Line:
    """Everything about one share of repeats."""
    a, b = pair(options.images, options.images, options.features, 0, share)
    seconds: dict[ModuleType, list[float]] = {before: [], distances: []}
    found: dict[ModuleType, Any] = {}
    for _ in range(options.rounds):
        for version, times in seconds.items():
            started = time.perf_counter()
            found[version] = version.distances(version.Reference.of(a, NEIGHBOURS), b)
            times.append(time.perf_counter() - started)
    truth = by_differences(a, b)
    errors = {version: [error(figures, truth)] for version, figures in found.items()}
    for sizes in SMALL:
        x, y = pair(*sizes, share)
        for version, known in errors.items():
            known.append(error(version.distances(version.Reference.of(x, NEIGHBOURS), y), by_differences(x, y)))
    old, new = seconds[before], seconds[distances]
    return Line(
        share=share,
        density=truth["density"],
        errors=(max(errors[before]), max(errors[distances])),
        seconds=(statistics.median(old), statistics.median(new)),
        ratio=statistics.median(y / x for x, y in zip(old, new, strict=True)),
    )


def section(lines: list[Line], options: argparse.Namespace, where: str) -> str:
    rows = [
        f"| {line.share:.0%} | {line.density:.2f} | {line.errors[0]:.1e} | {line.errors[1]:.1e} | "
        f"{line.seconds[0]:.2f} | {line.seconds[1]:.2f} | {line.ratio:.2f} |"
        for line in lines
    ]
    return "\n".join(
        [
            "## Sets of images that repeat themselves\n",
            f"{options.images:,} samples and as many images, {options.features} uniform features, a share "
            "of them one and the same vector in both sets (100 %: all samples, and half of the reference). Errors are "
            "the largest relative one of precision, recall, density and coverage against distances by differences in "
            f"float64, over these sets and {len(SMALL)} of {SMALL[0][0]} and {SMALL[0][1]} images; before is commit "
            f"{options.before}; seconds and ratio are medians of {options.rounds} rounds, "
            "both versions in each.\n",
            "    python -m benchmarks.judge.duplicates\n",
            "| repeats | true density | error before | error | seconds before | seconds | ratio |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            f"\n- {where}, {torch.get_num_threads()} threads; torch {torch.__version__}.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", default="9770549", help="the commit to compare with")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    where = machine()
    with older(options.before) as before:
        lines = [measure(share, before, options) for share in SHARES]
    words = section(lines, options, where)
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words + "\n", encoding="utf-8")
    return 0 if all(line.errors[1] <= MOST_ERROR and line.ratio <= MOST_RATIO for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
