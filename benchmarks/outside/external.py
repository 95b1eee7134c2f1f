"""Encoding through `vae=diffusers` beside a bare loop around the same module: images a second, and peak memory.

    python -m benchmarks.outside.external [--images 1023] [--rounds 5]

A small AutoencoderKL of random weights, saved by diffusers, and random 64x64 images in colour: they cost what trained
ones and real ones do. Each side is a process of its own, and the two take turns. The bare loop keeps means and
log-variances in memory; ours recognises and checks the model, and streams into a `LatentDataset` on disk as
`stage=encode` does. Recognition is timed apart. The ratio is of processor seconds, which other work on the machine
moves little. Exits with 1 when a target is missed.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.child import machine, measured

SIDE, TARGET_SPEED, TARGET_MEMORY = 64, 0.95, 1.1


class Clock:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def figures(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.started[0], "cpu": time.process_time() - self.started[1]}


def save_model(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        latent_channels=4,
    ).save_pretrained(folder)


def images(num: int) -> Any:
    """uint8 [num, 3, 64, 64], as a data set holds them."""
    import torch

    return torch.randint(0, 256, (num, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def encode_theirs(folder: Path, num: int, batch_size: int) -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKL

    net = AutoencoderKL.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False).eval()
    raw = images(num)
    out = torch.empty(2, num, 4, SIDE // 4, SIDE // 4)
    clock = Clock()
    with torch.no_grad():
        for start in range(0, num, batch_size):
            x = raw[start : start + batch_size] / 255
            posterior = net.encode(2 * x - 1).latent_dist
            out[0, start : start + len(x)], out[1, start : start + len(x)] = posterior.mean, posterior.logvar
    return clock.figures() | {"checks": 0.0}


def encode_ours(folder: Path, num: int, batch_size: int) -> dict[str, float]:
    from stage1_vae.data.images import Domain, InMemory
    from stage1_vae.data.loader import Batches
    from stage1_vae.data.preprocess import Preprocess
    from stage1_vae.external.pretrained import Pretrained
    from stage1_vae.latents.files import LatentWriter
    from stage1_vae.vae import encode

    source = Pretrained(path=folder)
    loaded = source.load()
    raw = images(num)
    preprocess = Preprocess(256, Domain.UNIT, "none", False)
    started = time.perf_counter()
    vae = source.autoencoder(loaded, preprocess(raw[:2]), 0)
    checks = time.perf_counter() - started
    batches = Batches(InMemory(raw), preprocess, batch_size, shuffle=False, seed=0)
    with tempfile.TemporaryDirectory(prefix="expost-external-") as out:
        clock = Clock()
        with LatentWriter.create(Path(out), vae.spec, vae.family, num, labelled=False) as writer:
            encode(vae, batches, writer)
            writer.finish({})
        return clock.figures() | {"checks": checks}


SIDES = {"theirs": encode_theirs, "ours": encode_ours}


def one_side(side: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """One side in a process of its own."""
    words = ["--images", str(options.images), "--batch-size", str(options.batch_size)]
    command = [sys.executable, "-m", "benchmarks.outside.external", "--side", side, "--folder", str(folder), *words]
    figures: dict[str, float] = json.loads(measured(command, os.environ).output.splitlines()[-1])
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1023)
    parser.add_argument("--batch-size", type=int, default=341)  # of the pipeline, of such images
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        figures = SIDES[options.side](options.folder, options.images, options.batch_size)
        print(json.dumps(figures | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
        return 0
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="expost-external-") as name:
        folder = Path(name)
        measured(
            [sys.executable, "-c", f"from benchmarks.outside.external import *; save_model(Path({name!r}))"], os.environ
        )
        for _ in range(options.rounds):
            rounds.append({side: one_side(side, folder, options) for side in SIDES})
    speed = statistics.median(r["theirs"]["cpu"] / r["ours"]["cpu"] for r in rounds)
    memory = statistics.median(r["ours"]["peak"] / r["theirs"]["peak"] for r in rounds)
    print(f"{machine()}, {options.images:,} images of {SIDE}x{SIDE} in batches of {options.batch_size}")
    for side in SIDES:
        seconds = statistics.median(r[side]["seconds"] for r in rounds)
        peak = statistics.median(r[side]["peak"] for r in rounds)
        checks = statistics.median(r[side]["checks"] for r in rounds)
        print(f"{side:8}{options.images / seconds:10.1f} images a second{peak:8.2f} GiB{checks:8.2f} s of checks")
    for what, ratio, reached in (
        ("speed", speed, speed >= TARGET_SPEED),
        ("memory", memory, memory <= TARGET_MEMORY),
    ):
        target = TARGET_SPEED if what == "speed" else TARGET_MEMORY
        print(f"{what:8}{ratio:10.3f} of the bare loop's, target {target}  {'reached' if reached else 'MISSED'}")
    return 0 if speed >= TARGET_SPEED and memory <= TARGET_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
