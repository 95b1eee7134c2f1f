"""Training throughput of each net of conf/net beside a bare loop of the same net with fused Adam.

    python -m benchmarks.objectives.nets --data DIR [--rounds 5] [--only NAME ...] [--out FILE]

MNIST, `vae=gaussian` with 16 dimensions, Bernoulli, batches of 128, float32. Ours is what `trainer.compile=auto` trains
(see `benchmarks.objectives.throughput`), and the same without compiling; the bare loop has the same layers as torch
has them, takes batches from a tensor of images, and is not compiled. They train in turn, in one process; a ratio is
the median of those of the rounds. Exits with 1 where ours has fewer images a second by it.
"""

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.child import machine
from benchmarks.objectives.bare import kl
from benchmarks.objectives.throughput import EPOCHS, SIZE, Timed, assembled, epochs
from expost.base.runtime import keep_freed_memory
from expost.job import Job
from expost.parts.assembly import ImageParts
from expost.stages.vae import settings_of
from expost.training.trainer import lightning_fit
from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.machine import flushed_denormals
from stage1_vae.nets.products import Convolution, TransposedConvolution
from stage1_vae.training.train import Settings, train
from stage1_vae.vae import VAE

NETS = {"mlp": 12_800, "conv": 5_120, "map": 5_120, "resnet": 1_280}
"""Net -> training images of an epoch; `identity` has nothing to train."""
Speeds = dict[str, list[float]]
PLAIN = {Convolution: nn.Conv2d, TransposedConvolution: nn.ConvTranspose2d}


class Bare(nn.Module):
    """x [B, C, H, W] -> the negative ELBO of `vae`, in torch's own layers."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        assert isinstance(vae.bottleneck, Gaussian)
        self.encoder, self.decoder, self.head = copy.deepcopy((vae.encoder, vae.decoder, vae.bottleneck.linear))
        for layer in self.modules():
            layer.__class__ = PLAIN.get(type(layer), type(layer))

    def forward(self, x: Tensor) -> Tensor:
        loc, log_std = self.head(self.encoder(x).flatten(1)).chunk(2, 1)
        log_std = log_std.clamp(-8, 5)
        logits = self.decoder(loc + log_std.exp() * torch.randn_like(loc))
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        return (distortion + kl(loc, log_std)).mean()


def ours(job: Job, parts: ImageParts, settings: Settings) -> list[float]:
    """Seconds of each epoch of a training of a copy."""
    assert isinstance(parts.vae, VAE) and parts.objective is not None
    vae, objective = copy.deepcopy((parts.vae, parts.objective))
    timed = Timed()
    batches = parts.batches(parts.data.train, SIZE, job.ranks, shuffle=True, seed=0)
    val_batches = parts.batches(parts.data.val, SIZE, job.ranks)
    fit = lightning_fit(job.config.trainer, (), watchers=(timed,))
    train(vae, objective, batches, val_batches, settings, fit, 0)
    return timed.seconds


@flushed_denormals()  # all sides, as stages are made
def compared(name: str, data: Path, rounds: int) -> tuple[Speeds, bool]:
    """Images a second of the bare loop, of ours as `auto` decides, and uncompiled, one of each round, epochs that warm
    up apart; and whether `auto` compiles."""
    num = NETS[name]
    with tempfile.TemporaryDirectory() as root:
        words = [f"net={name}", "vae=gaussian", "trainer.compile=auto"]
        job, parts = assembled(data, Path(root), words, num)
        assert isinstance(parts.vae, VAE) and parts.objective is not None
        auto = replace(settings_of(job, parts, parts.objective), max_epochs=EPOCHS, val_every=EPOCHS)
    images = parts.preprocess(parts.data.train.batch(torch.arange(num)), torch.Generator())
    bare = Bare(parts.vae)
    optimiser = torch.optim.Adam(bare.parameters(), lr=1e-3, fused=True)
    sides: dict[str, Callable[[], list[float]]] = {
        "bare": partial(epochs, bare, optimiser, images),
        "auto": partial(ours, job, parts, auto),
        "eager": partial(ours, job, parts, replace(auto, compile=False)),
    }
    if not auto.compile:
        del sides["eager"]
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, work in sides.items():
            taken[side].append(num / statistics.median(work()[1:]))
    return {"eager": taken["auto"], **taken}, bool(auto.compile)


def ratios(speeds: Speeds, side: str) -> list[float]:
    """Of `side` to the bare loop, round by round."""
    return [ours / bare for ours, bare in zip(speeds[side], speeds["bare"], strict=True)]


def row(name: str, speeds: Speeds, is_compiled: bool) -> str:
    bare, eager, auto = (f"{statistics.median(speeds[side]):,.0f}" for side in ("bare", "eager", "auto"))
    both = [
        f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        for each in (ratios(speeds, side) for side in ("eager", "auto"))
    ]
    how = "compiled" if is_compiled else "as it is"
    return f"| {name} | {bare} | {eager} | {auto}, {how} | {' | '.join(both)} |"


def is_slow(speeds: Speeds) -> bool:
    return statistics.median(ratios(speeds, "auto")) < 1


def section(found: dict[str, tuple[Speeds, bool]], rounds: int) -> str:
    slow = [name for name, (speeds, _) in found.items() if is_slow(speeds)]
    numbers = ", ".join(f"{NETS[name]:,} of {name}" for name in found)
    return "\n\n".join(
        [
            "## Training throughput of the nets",
            f"MNIST, vae=gaussian of 16 dimensions, float32, batches of {SIZE}; images a second, medians of "
            f"{rounds} rounds of {EPOCHS - 1} epochs (images of an epoch: {numbers}), in turn with a bare loop of the "
            "same net in torch's own layers, uncompiled, with fused Adam; denormal numbers are zero and freed memory "
            f"is kept for all; {torch.get_num_threads()} threads. Ratios are medians over the rounds, with the least "
            "and the most.",
            "    python -m benchmarks.objectives.nets --data DIR",
            "| net | bare loop | compile=false | compile=auto | ratio, false | ratio, auto |\n"
            "|---|---:|---:|---:|---:|---:|\n" + "\n".join(row(name, *each) for name, each in found.items()),
            f"At least the bare loop's with compile=auto: {'missed by ' + ', '.join(slow) if slow else 'all'}.",
            f"- {machine()} at the end.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    options = parser.parse_args()
    keep_freed_memory()  # all sides, as the command line
    found = {}
    for name in options.only:
        found[name] = compared(name, options.data.absolute(), options.rounds)
        print(row(name, *found[name]), file=sys.stderr, flush=True)
    text = section(found, options.rounds)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return int(any(is_slow(speeds) for speeds, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
