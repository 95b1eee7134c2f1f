"""Against pythae 0.1.2, side by side: training throughput of the same nets, and sampling codes of the same grid.

    python -m benchmarks.pythae [--data DIR] [--env DIR] [--parts training codes] [--rounds 7] [--out FILE]

Builds pythae's own environment once. Each side then trains in a process of its own that lives through the whole
comparison and trains one round when it is told to, so that a round of pythae and one of ours are seconds apart: a busy
machine is unfair to neither. The first round of each side (compilation, allocation) is not counted; the reference net
is counted once more when it has trained half as long as in `experiment=mnist_reference`. Both sides get the same torch,
the same number of threads and the same OpenMP settings. Each ratio is the median of those of rounds that stood next to
each other. Exits with 1 when a target is missed.

    reference   784-512-(16)-512-784, ReLU
    wide_conv   pythae's own MNIST convolutions, 128-256-512-1024 channels, batch normalisation, latent 16

Both with Bernoulli on intensities and Adam at 1e-3. What is compared of codes is in codes.py; that part needs
MNIST.
"""

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.child import machine
from benchmarks.pythae.codes import CHANNELS, measured_codes
from benchmarks.pythae.sides import Side, described, pythae_python, start
from stage1_vae.data.idx import Idx
from stage1_vae.machine import has_native_bf16

HERE = Path(__file__).resolve().parent
EAGER = "float32 eager"
EAGER_TARGET = 0.95
PRODUCTS = "products of float32 alone"
"""Of a step, and nothing else."""


@dataclass(frozen=True)
class Task:
    """One net.

    Attributes:
        num_batches: of a round.
        target: how many times pythae's speed our best settings must reach.
        variants: name -> precision, compile or eager, memory format.
        later: rounds of training after which rounds are counted once more; 0: none are.
    """

    num_batches: int
    target: float
    variants: dict[str, tuple[str, str, str]]
    later: int = 0


FLOAT_VARIANTS = {
    EAGER: ("32", "eager", "contiguous_format"),
    "float32, compile": ("32", "compile", "contiguous_format"),
}
BF16_VARIANTS = {
    "bf16": ("bf16", "eager", "contiguous_format"),
    "bf16, compile": ("bf16", "compile", "contiguous_format"),
}
# A processor without bf16 instructions emulates them, fifteen times slower than float32.
MLP_VARIANTS = FLOAT_VARIANTS | (BF16_VARIANTS if has_native_bf16(torch.device("cpu")) else {})
CONV_VARIANTS = MLP_VARIANTS | {
    f"{name}, channels last": (*words[:2], "channels_last") for name, words in MLP_VARIANTS.items() if name != EAGER
}
TASKS = {"reference": Task(150, 2.0, MLP_VARIANTS, later=72), "wide_conv": Task(4, 1.8, CONV_VARIANTS)}


def images(num: int, data: Path | None) -> np.ndarray:
    """[num, 1, 28, 28] uint8: MNIST's training images, or noise of that shape."""
    if data is None:
        return np.random.default_rng(0).integers(256, size=(num, 1, 28, 28), dtype=np.uint8)
    return Idx(str(data)).load().train.batch(torch.arange(num)).numpy()


def compare(net: str, python: Path, options: argparse.Namespace, scratch: Path) -> tuple[list[Side], list[int]]:
    """pythae first, then our variants and the ceiling, with the seconds of their counted rounds; and how many were not
    counted before each part of these."""
    task = TASKS[net]
    file = scratch / f"{net}.npy"
    np.save(file, images(task.num_batches * options.batch_size, options.data))
    given: list[str | Path] = [net, file, str(options.batch_size)]
    sides = [start("pythae", [python, HERE / "training_theirs.py", *given], options, scratch)]
    try:
        for name, words in task.variants.items():
            command = [sys.executable, HERE / "training_ours.py", *given, *words]
            sides.append(start(name, command, options, scratch))
        alone: list[str | Path] = [sys.executable, HERE / "training_products.py", net]
        sides.append(start(PRODUCTS, [*alone, str(task.num_batches), str(options.batch_size)], options, scratch))
        before = [1] + [max(0, task.later - 1 - options.rounds)] * (task.later > 0)
        for uncounted in before:
            for side in sides:
                seconds = sum(side.round() for _ in range(uncounted))  # the first compiles, allocates
                print(f"{net}: {side.name} trained for {seconds:.1f} s", file=sys.stderr)
            for _ in range(options.rounds):
                for side in sides:
                    side.seconds.append(side.round())
    finally:
        for side in sides:
            side.process.communicate()  # its input ends, and so does it
    return sides, before


def rows(label: str, task: Task, counted: dict[str, list[float]], batch_size: int) -> tuple[list[str], bool]:
    """The rows of one net, `label`, and whether its targets were reached; `counted`: seconds of rounds of each side,
    pythae's first."""
    theirs, *_ = counted
    ratios = {
        name: statistics.median(a / b for a, b in zip(counted[theirs], seconds, strict=True))
        for name, seconds in counted.items()
    }
    best = max((name for name in ratios if name not in (theirs, PRODUCTS)), key=ratios.__getitem__)
    bounds = {EAGER: [EAGER_TARGET], theirs: []}
    bounds[best] = [*bounds.get(best, []), task.target]
    out = []
    for name, of_side in counted.items():
        speeds = [task.num_batches * batch_size / seconds for seconds in of_side]
        targets = bounds.get(name, [])
        words = ", ".join(f"{target:.2f} {'reached' if ratios[name] >= target else 'MISSED'}" for target in targets)
        out.append(
            f"| {label} | {name} | {statistics.median(speeds):,.0f} | {min(speeds):,.0f} - {max(speeds):,.0f} | "
            f"{ratios[name]:.2f} | {words or '-'} |"
        )
    return out, all(ratios[name] >= target for name, targets in bounds.items() for target in targets)


def all_rows(net: str, sides: list[Side], before: list[int], options: argparse.Namespace) -> tuple[list[str], bool]:
    """The rows of one net at the start of its training, and of what is counted later."""
    lines, reached = [], []
    for part in range(len(before)):
        places = slice(part * options.rounds, (part + 1) * options.rounds)
        trained = sum(before[: part + 1]) + part * options.rounds
        label = net if part == 0 else f"{net}, after {trained * TASKS[net].num_batches:,} batches"
        found = rows(label, TASKS[net], {side.name: side.seconds[places] for side in sides}, options.batch_size)
        lines += found[0]
        reached.append(found[1])
    return lines, all(reached)


def measured_training(python: Path, options: argparse.Namespace) -> tuple[str, list[bool]]:
    """Measure the nets: the section of docs/RESULTS.md, and whether each reached its targets."""
    lines, reached = [], []
    for net in options.nets:
        with tempfile.TemporaryDirectory(prefix="expost-pythae-") as scratch:
            sides, before = compare(net, python, options, Path(scratch))
        of_net, is_reached = all_rows(net, sides, before, options)
        lines += of_net
        reached.append(is_reached)
    facts = f"{described(sides[0].facts)} against {described(sides[1].facts)}"
    text = "\n\n".join(
        [
            "## Training against pythae",
            f"The same nets, images and optimiser (Adam at 1e-3, batches of {options.batch_size}, Bernoulli on "
            f"intensities): images a second, medians of {options.rounds} rounds, the sides in turn; a ratio is the "
            "median of the ratios of neighbouring rounds. `reference`: 784-512-(16)-512-784. `wide_conv`: pythae's own "
            "convolutions, 128 to 1024 channels. Our side is set up as the command line and every stage are: memory "
            "that a step frees stays for the next, and denormal numbers are zero. These become more as a training goes "
            "on, so the reference net is counted again after half of what `experiment=mnist_reference` trains. Targets "
            "are of eager float32, and of the best of our settings. The last row of a net is no training: it is the "
            "matrix products of a step alone, of a convolution those of whole patches.",
            "    python -m benchmarks.pythae --data DIR --parts training",
            "| net | side | images a second | min - max | ours over | target |\n|---|---|---:|---:|---:|---|\n"
            + "\n".join(lines),
            f"- {facts}; {'MNIST' if options.data else 'random images'}; {machine()}, "
            f"{'bf16 in hardware' if has_native_bf16(torch.device('cpu')) else 'no bf16 in hardware'}, idle threads "
            f"{'spin' if options.spin else 'spin briefly'} on both sides.",
        ]
    )
    return text, reached


PARTS = {"training": measured_training, "codes": measured_codes}
"""Each makes a section of its own, and says whether its targets were reached."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MNIST's IDX files; without it, random images")
    parser.add_argument("--env", type=Path, default=Path("runs/bench/pythae"), help="where pythae's environment is")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--nets", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--grids", nargs="+", type=int, choices=CHANNELS, default=[7, 4], help="rows of code maps")
    parser.add_argument("--samples", type=int, default=1000, help="images a round")
    parser.add_argument("--epochs", type=int, default=3, help="of pythae's PixelCNN")
    parser.add_argument("--codes-root", type=Path, default=Path("runs/bench/codes"), help="where our runs are kept")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--spin",
        action="store_true",
        help="let idle threads spin (OpenMP's default) on both sides: faster on a machine that does nothing else, "
        "twice as slow on a busy one; without it they spin briefly, as the pipeline lets them",
    )
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md; of one part")
    options = parser.parse_args()
    if "codes" in options.parts and options.data is None:
        parser.error("the part about codes needs MNIST: give --data DIR, or --parts training")
    if options.out and len(set(options.parts)) > 1:
        parser.error("a file holds the section of one part: give --out with --parts training, or with --parts codes")
    python = pythae_python(options.env.absolute())
    is_reached = True
    for name in dict.fromkeys(options.parts):
        text, reached = PARTS[name](python, options)
        print(text)
        if options.out:
            options.out.write_text(text + "\n", encoding="utf-8")
        is_reached = is_reached and all(reached)
    return 0 if is_reached else 1


if __name__ == "__main__":
    sys.exit(main())
