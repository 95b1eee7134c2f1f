"""The part of the comparison that is about codes: our transformer against pythae's PixelCNN sampler on the same maps.

Our VQ-VAE is trained once, by the recipe of codes/table.py. Both sides then model the same integer maps: ours is fitted
by the pipeline, pythae's as its sampler does it. Compared are held-out nats an image (both exact, by teacher forcing)
and images a second, with the same decoder on both sides and what the codes alone take stated beside it. pythae's
sampler draws as it is shipped: batch normalisation takes statistics of the half-drawn batch, gradients are recorded. A
third process draws from the same fitted network in evaluation mode without gradients: faster, and what its nats are of.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.child import machine, pipeline
from benchmarks.codes.table import CODES, RECIPE
from benchmarks.pythae.sides import Side, described, start
from expost.export.two_stage import TwoStage
from stage1_vae.data.idx import Idx
from stage1_vae.data.images import ImageSet

HERE = Path(__file__).resolve().parent
CHANNELS = {7: "[32,64]", 4: "[32,64,64]"}
"""Of the nets that make maps of so many rows."""
SHIPPED = "pythae PixelCNN, 6 layers, as shipped"
EVALUATING = "the same network in evaluation mode, without gradients"
OURS = "our transformer, width 64, depth 3"
OUR_EPOCHS = 1
"""As `RECIPE` says, of the fit."""
HEAD = (
    "| grid | prior | epochs of fit | -log P(codes), nats | images a second (min - max) | codes alone, maps a second | "
    "ours over |\n|---|---|---:|---:|---:|---:|---:|"
)
TARGET = 3.0
ENCODED_AT_ONCE = 1000


def prepare(side: int, data: Path, root: Path, scratch: Path) -> None:
    """Into `scratch`: our model (`model/`), the codes of each split, and the decoder for the other side.

    Args:
        side: rows of the code map, a key of CHANNELS.
        data: folder of MNIST.
        root: where our runs are kept.
        scratch: an empty folder.
    """
    channels = f"net.channels={CHANNELS[side]}"
    words = [word for word in RECIPE if not word.startswith("net.channels")]
    out = scratch / "model"
    where = (f"data.root={data.absolute()}", f"paths.root={root.absolute()}", "name=vs_pythae", "stage=export")
    pipeline(*CODES["VQ"], *words, channels, *where, f"export.out={out}")
    model, images = TwoStage.load(out), Idx(str(data)).load()
    for name, split in (("train", images.train), ("val", images.val), ("test", images.test)):
        np.save(scratch / f"{name}.npy", codes_of(model, split).reshape(-1, side, side))
    decoder = {name: tensor.numpy() for name, tensor in model.vae.get_submodule("decoder").state_dict().items()}
    np.savez(scratch / "decoder.npz", **decoder)
    np.save(scratch / "codebook.npy", model.vae.get_buffer("bottleneck.codebook.vectors").numpy())


def codes_of(model: TwoStage, split: ImageSet) -> np.ndarray:
    """The codes of all images of a split, uint8 [N, T]."""
    blocks = torch.arange(len(split)).split(ENCODED_AT_ONCE)
    codes = [model.encode(model.preprocess.clean(split.batch(block))).sample() for block in blocks]
    return torch.cat(codes).to(torch.uint8).numpy()


def measured_codes(python: Path, options: argparse.Namespace) -> tuple[str, list[bool]]:
    """Measure every grid: the section of docs/RESULTS.md, and whether each reached its targets."""
    rows, targets, facts = list[str](), dict[str, bool](), ""
    for side in options.grids:
        with tempfile.TemporaryDirectory(prefix="expost-pythae-") as scratch:
            sides, codes_seconds = compare_codes(side, python, options, Path(scratch))
        of_grid, reached = rows_of(side, sides, codes_seconds, options)
        rows += of_grid
        targets |= reached
        facts = f"{described(sides[0].facts)} against {described(sides[-1].facts)}"
    return section(rows, targets, facts, options), list(targets.values())


def compare_codes(
    side: int, python: Path, options: argparse.Namespace, scratch: Path
) -> tuple[list[Side], dict[str, list[float]]]:
    """Measure one grid: pythae's two sides and ours, with the seconds of their rounds, and those of codes alone."""
    prepare(side, options.data, options.codes_root, scratch)
    num, epochs = str(options.samples), str(options.epochs)
    theirs = [python, HERE / "codes_theirs.py"]
    sides = [start(SHIPPED, [*theirs, "fit", num, epochs], options, scratch)]
    try:
        sides.append(start(EVALUATING, [*theirs, "load", num, epochs], options, scratch))
        sides.append(start(OURS, [sys.executable, HERE / "codes_ours.py", num], options, scratch))
        codes_seconds: dict[str, list[float]] = {at.name: [] for at in sides}
        for at in sides:
            at.round()
        for _ in range(options.rounds):
            for at in sides:
                at.seconds.append(at.round())
                codes_seconds[at.name].append(at.facts["codes_seconds"])
    finally:
        for at in sides:
            at.process.communicate()
    return sides, codes_seconds


def rows_of(
    side: int, sides: list[Side], codes_seconds: dict[str, list[float]], options: argparse.Namespace
) -> tuple[list[str], dict[str, bool]]:
    """The rows of one grid of `side` x `side` codes, ours last, and its targets in words, each with whether it was
    reached."""
    *theirs, ours = sides
    num, out, ratios = options.samples, list[str](), dict[str, float]()
    for at in sides:
        speeds = [num / seconds for seconds in at.seconds]
        codes = statistics.median(num / seconds for seconds in codes_seconds[at.name])
        ratios[at.name] = statistics.median(a / b for a, b in zip(at.seconds, ours.seconds, strict=True))
        cells = [
            f"{side}x{side}",
            at.name,
            f"{OUR_EPOCHS if at is ours else options.epochs}",
            f"{at.facts['nats']:.2f}",
            f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} - {max(speeds):,.0f})",
            f"{codes:,.0f}",
            "-" if at is ours else f"{ratios[at.name]:.1f}",
        ]
        out.append(f"| {' | '.join(cells)} |")
    fast = all(ratios[at.name] >= TARGET for at in theirs)
    good = all(ours.facts["nats"] <= at.facts["nats"] for at in theirs)
    grid = f"{side}x{side}"
    return out, {f"{grid}, {TARGET:g} times the images a second of both": fast, f"{grid}, no more nats": good}


def section(rows: list[str], targets: dict[str, bool], facts: str, options: argparse.Namespace) -> str:
    """The section of docs/RESULTS.md.

    Args:
        rows, targets: of all grids.
        facts: both sides in words.
        options: of the command.
    """
    return "\n\n".join(
        [
            "## Against pythae's PixelCNN sampler",
            "MNIST, codes of a codebook of 256 (our VQ, the same integer maps on both sides); held-out nats an image "
            "over 10,000 test images, both exact; images a second with the same decoder on both sides, and codes "
            f"without decoding. Medians of {options.rounds} rounds of {options.samples:,} images, the sides drawing in "
            'turn; "ours over" is the median of the ratios of neighbouring rounds.',
            "    python -m benchmarks.pythae --data DIR --parts codes",
            "\n".join([HEAD, *rows]),
            "Targets: "
            + "; ".join(f"{words}: {'reached' if is_reached else 'MISSED'}" for words, is_reached in targets.items())
            + ".",
            f"- {facts}; pythae's own trainer and sampler, batches of 128, Adam at 1e-3; as shipped it draws in "
            f"training mode, with batch statistics.\n- {machine()}.",
        ]
    )
