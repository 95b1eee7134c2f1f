"""Every section of docs/RESULTS.md measured anew, and the page written from them.

    python -m benchmarks.figures --mnist DIR [--cifar10 DIR] [--only NAME ...] [--runs runs] [--logs runs/bench/figures]

Runs the benchmarks behind `docs/measured` one after the other, each in a process of its own, then `benchmarks.results`.
A benchmark that misses a target writes its section all the same, which says so; one that breaks leaves the section that
was there. Output goes to a file each. Times are of the machine: let nothing else run. All of it takes about a day on
two cores, and what the stores under `runs/bench` hold is not made again. Exits with 1 unless every section was written.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.child import machine

MEASURED = results.DOCS / "measured"
FURTHER_PRIORS = (
    *("scikit-learn", "gaussian", "mixture", "bayes_mixture", "kde"),
    *("autoregressive", "realnvp", "auto"),
)
"""Those whose fits take seconds."""


@dataclass(frozen=True)
class Section:
    """A file of `docs/measured` and the benchmark that writes it.

    Attributes:
        module: the benchmark.
        words: what it is given beside `--out`.
        data: the option that names its images; None: it needs none.
    """

    module: str
    words: tuple[str, ...] = ()
    data: str | None = "mnist"


SECTIONS: Mapping[str, Section] = {
    "decoding": Section("benchmarks.codes.decoding", data=None),
    "duplicates": Section("benchmarks.judge.duplicates", data=None),
    "check": Section("benchmarks.check", data=None),
    "vs_pythae_training": Section("benchmarks.pythae", ("--parts", "training")),
    "vs_pythae_codes": Section("benchmarks.pythae", ("--parts", "codes")),
    "throughput": Section("benchmarks.objectives.throughput"),
    "nets": Section("benchmarks.objectives.nets"),
    "equal_time": Section("benchmarks.codes.equal_time", ("--seconds", "260")),
    "vectors": Section("benchmarks.codes.vectors"),
    "mnist_vq": Section("benchmarks.codes.mnist_vq"),
    "masked": Section("benchmarks.shelf.masked"),
    "rings": Section("benchmarks.shelf.oracle", data=None),
    "shelf": Section("benchmarks.shelf.table", ("--figure", str(results.DOCS / "shelf.png"))),
    "sampling": Section("benchmarks.shelf.sampling"),
    "flows": Section("benchmarks.shelf.zuko"),
    "joint": Section("benchmarks.objectives.joint"),
    "maps": Section("benchmarks.shelf.maps", data="cifar10"),
    "cifar10_vq2": Section("benchmarks.codes.cifar10", data="cifar10"),
    "autoencoder_kl": Section("benchmarks.outside.autoencoder_kl", data="cifar10"),
    "growth": Section("benchmarks.growth", ("--figure", str(results.DOCS / "growth.png")), data=None),
    "codes_table": Section("benchmarks.codes.table"),
    "latents": Section("benchmarks.latents", ("--rows", "first"), data=None),
    "latents_further": Section("benchmarks.latents", ("--rows", "further", "--priors", *FURTHER_PRIORS), data=None),
    "clusters": Section("benchmarks.objectives.clusters"),
    "hyperspherical_2": Section("benchmarks.objectives.hyperspherical", ("--dims", "2")),
    "hyperspherical_10": Section(
        "benchmarks.objectives.hyperspherical", ("--dims", "10", "--epochs", "500", "--vaes", "hyperspherical")
    ),
    "hyperspherical": Section("benchmarks.objectives.hyperspherical", ("--dims", "5", "10", "--epochs", "200")),
}
"""By the name of their file, the shortest first."""


def measure(name: str, places: Mapping[str, Path | None], logs: Path) -> bool:
    """Run the benchmark of a section; whether it wrote it."""
    section, out = SECTIONS[name], MEASURED / f"{name}.md"
    place = None if section.data is None else places[section.data]
    if section.data is not None and place is None:
        print(f"{name}: left out, it needs --{section.data} DIR", flush=True)
        return False
    before = out.stat().st_mtime_ns if out.exists() else 0
    words = [*section.words, "--out", str(out), *([] if place is None else ["--data", str(place)])]
    logs.mkdir(parents=True, exist_ok=True)
    started, log = time.perf_counter(), logs / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run([sys.executable, "-m", section.module, *words], stdout=file, stderr=file).returncode
    is_written = out.exists() and out.stat().st_mtime_ns > before
    ends = {0: "written", 1: "written, a target is missed or its last step failed"}
    state = ends.get(code, f"written, then it ended with {code}") if is_written else "FAILED"
    print(f"{name}: {state} after {(time.perf_counter() - started) / 60:.0f} min, {machine()}; {log}", flush=True)
    return is_written


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's IDX files")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10's images, train/ and test/")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the paths.root of the recipes' runs")
    parser.add_argument("--logs", type=Path, default=Path("runs/bench/figures"))
    options = parser.parse_args(words)
    places = {name: place and place.absolute() for name, place in vars(options).items() if name in ("mnist", "cifar10")}
    written = [measure(name, places, options.logs) for name in options.only]
    code = results.main(["--runs", str(options.runs)])
    return code or int(not all(written))


if __name__ == "__main__":
    sys.exit(main())
