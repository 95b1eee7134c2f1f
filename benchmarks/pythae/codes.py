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
    decoder = {name: tensor.numpy() for name, tensor in model.vae.decoder.state_dict().items()}
    np.savez(scratch / "decoder.npz", **decoder)
    np.save(scratch / "codebook.npy", model.vae.bottleneck.get_buffer("codebook.vectors").numpy())


def codes_of(model: TwoStage, split: ImageSet) -> np.ndarray:
    """The codes of all images of a split, uint8 [N, T]."""
    blocks = torch.arange(len(split)).split(ENCODED_AT_ONCE)
    codes = [model.encode(model.preprocess.clean(split.batch(block))).sample() for block in blocks]
    return torch.cat(codes).to(torch.uint8).numpy()


def compare_codes(side: int, python: Path, options: argparse.Namespace, scratch: Path) -> bool:
    """Measure and print one grid; whether the targets were reached."""
    prepare(side, options.data, options.codes_root, scratch)
    num, epochs = str(options.samples), str(options.epochs)
    theirs = [python, HERE / "codes_theirs.py"]
    sides = [start("pythae, as shipped", [*theirs, "fit", num, epochs], options, scratch)]
    try:
        sides.append(start("pythae, evaluation mode", [*theirs, "load", num, epochs], options, scratch))
        sides.append(start("expost", [sys.executable, HERE / "codes_ours.py", num], options, scratch))
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
    return report(side, sides, codes_seconds, options)


def report(side: int, sides: list[Side], codes_seconds: dict[str, list[float]], options: argparse.Namespace) -> bool:
    """Print the rows of one grid; whether its targets were reached."""
    *theirs, ours = sides
    num = options.samples
    print(f"\n{described(theirs[0].facts)} against {described(ours.facts)}; {machine()}, {options.rounds} rounds")
    print(f"{side}x{side} codes of 256, {num} images a round; pythae's PixelCNN fitted for {options.epochs} epochs")
    print(f"{'':28}{'nats':>9}{'images/s':>10}{'(min - max)':>20}{'codes alone/s':>15}{'ours over':>11}")
    ratios = {}
    for at in sides:
        speeds = [num / seconds for seconds in at.seconds]
        codes = statistics.median(num / seconds for seconds in codes_seconds[at.name])
        ratios[at.name] = statistics.median(a / b for a, b in zip(at.seconds, ours.seconds, strict=True))
        spread = f"({min(speeds):,.0f} - {max(speeds):,.0f})"
        print(
            f"{at.name:28}{at.facts['nats']:9.2f}{statistics.median(speeds):10,.0f}"
            f"{spread:>20}{codes:15,.0f}{ratios[at.name]:11.1f}"
        )
    fast = all(ratios[at.name] >= TARGET for at in theirs)
    good = all(ours.facts["nats"] <= at.facts["nats"] for at in theirs)
    print(f"target {TARGET:g}x the images a second of both: {'reached' if fast else 'MISSED'}")
    print(f"target equal or better held-out nats: {'reached' if good else 'MISSED'}")
    return fast and good
