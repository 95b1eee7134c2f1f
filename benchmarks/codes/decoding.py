"""Drawing codes from the transformer: with its cache, without it, and how much of the machine that uses. Two tables.

    python -m benchmarks.codes.decoding [--images 1000] [--side 7] [--codes 256] [--width 128] [--depth 4] [--repeats 3]
                                      [--out docs/measured/decoding.md]

Without the cache the same network takes all tokens so far through every layer for each new one: what sampling costs
when nothing is kept. Both draw the same number of images in the same blocks, one after the other in each round.

The machine's peaks are measured beside each draw, in the model's dtype: the product of two matrices of 2048 x 2048, and
a sum over 256 MiB, which reads them once. A share of the first is that of the operations in products (weights, scores,
mixing: two a multiplication), a share of the second that of the bytes that must be read for each token at the least:
all weights once a block, the keys and values so far of every sequence. Both count what the computation needs, not what
it happens to do. Medians over rounds. Exits with 1 when the cache gains less than 10 times.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.child import machine
from stage1_vae.latents import LatentSpec, Support
from stage2_prior.priors.transformer import SAMPLE_ROWS, Transformer
from stage2_prior.sampling import PLAIN

BATCHES = (1, 64, 512)
TARGET = 10.0
PEAK_SIZE, PEAK_BYTES = 2048, 2**28
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Round:
    """One draw beside the machine's peaks: images and operations a second, bytes a second, and shares of the peaks."""

    images: float
    flops: float
    bandwidth: float
    peak_flops: float
    peak_bandwidth: float


@torch.inference_mode()
def without_cache(prior: Transformer, num: int) -> None:
    """Draw `num` latents with a whole pass over the tokens so far for each new one."""
    places = prior.tokens.layout.num_tokens
    for labels in torch.full((num,), prior.num_classes).split(SAMPLE_ROWS):
        h = prior.prefix(labels)[:, None]  # [n, t + 1, W] inputs so far
        for t in range(places):
            token = prior.tokens.draw(prior.net(h)[:, -1], None, t, PLAIN)
            h = torch.cat([h, prior.tokens.embed(token[:, None], slice(t, t + 1))], dim=1)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def demands(prior: Transformer, batch: int) -> tuple[float, float]:
    """Operations in products, and bytes that must be read, for `batch` latents."""
    places, width, depth = prior.tokens.layout.num_tokens, prior.prefix.embedding_dim, len(prior.net.blocks)
    matrices = [p for p in [*prior.net.blocks.parameters(), *prior.tokens.heads.parameters()] if p.ndim > 1]
    looked_at = places * (places + 1) / 2 * depth * width * 2  # numbers of keys and values, a latent
    operations = batch * (2 * places * sum(p.numel() for p in matrices) + 2 * looked_at)
    blocks = math.ceil(batch / SAMPLE_ROWS)
    read = blocks * places * sum(p.nbytes for p in matrices) + batch * looked_at * matrices[0].element_size()
    return operations, read


def measured(prior: Transformer, batch: int, a: torch.Tensor, line: torch.Tensor) -> Round:
    operations, read = demands(prior, batch)
    peak_flops = 2 * PEAK_SIZE**3 / seconds(partial(torch.mm, a, a))
    peak_bandwidth = line.nbytes / seconds(line.sum)
    taken = seconds(partial(prior.sample, batch))
    return Round(batch / taken, operations / taken, read / taken, peak_flops, peak_bandwidth)


def shares(prior: Transformer, dtype: torch.dtype, repeats: int) -> list[str]:
    """Lines of what decoding reaches of the machine at each batch, and of what the machine has."""
    a = torch.randn(PEAK_SIZE, PEAK_SIZE).to(dtype)
    line = torch.randn(PEAK_BYTES // 4)  # a sum in float32 is bound by reading; one in bfloat16 need not be
    lines = ["| batch | images a second | GFLOP/s | of peak | GB/s | of peak |", "|---:|---:|---:|---:|---:|---:|"]
    rounds: list[Round] = []
    for batch in BATCHES:
        measured(prior, batch, a, line)  # allocates
        these = [measured(prior, batch, a, line) for _ in range(repeats)]
        rounds += these
        flops = statistics.median(at.flops / at.peak_flops for at in these)
        read = statistics.median(at.bandwidth / at.peak_bandwidth for at in these)
        lines.append(
            f"| {batch} | {statistics.median(at.images for at in these):.1f} | "
            f"{statistics.median(at.flops for at in these) / 1e9:.2f} | {flops:.1%} | "
            f"{statistics.median(at.bandwidth for at in these) / 1e9:.2f} | {read:.1%} |"
        )
    peak_flops, peak_bandwidth = (at.peak_flops for at in rounds), (at.peak_bandwidth for at in rounds)
    peaks = (
        f"Peaks: {statistics.median(peak_flops) / 1e9:.0f} GFLOP/s in products of {dtype}, "
        f"{statistics.median(peak_bandwidth) / 1e9:.1f} GB/s read."
    )
    return [*lines, "", peaks]


def gain(prior: Transformer, images: int, repeats: int) -> tuple[float, str]:
    """How many times faster the cache is, and that in words."""
    cached, whole = [], []
    for _ in range(repeats):
        cached.append(seconds(partial(prior.sample, images)))
        whole.append(seconds(partial(without_cache, prior, images)))
    ratio = statistics.median(b / a for a, b in zip(cached, whole, strict=True))
    with_cache, without = (
        f"{statistics.median(taken):.2f} s ({images / statistics.median(taken):.0f} a second)"
        for taken in (cached, whole)
    )
    verdict = "reached" if ratio >= TARGET else "MISSED"
    return ratio, (
        f"{images:,} images take {with_cache} with the cache and {without} without: {ratio:.1f} times, median of "
        f"{repeats} rounds; target {TARGET:g}: {verdict}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"images": 1000, "side": 7, "codes": 256, "width": 128, "depth": 4, "heads": 4, "repeats": 3}
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and cache")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    given = parser.parse_args()
    changed = [f"--{name} {value}" for name, value in vars(given).items() if value != parser.get_default(name)]
    changed = [words for words in changed if not words.startswith("--out ")]
    spec = LatentSpec((given.side**2,), Support.CODES, ((given.side, given.side),), (given.codes,))
    torch.manual_seed(0)
    prior = Transformer(spec, width=given.width, depth=given.depth, num_heads=given.heads).eval()
    prior.to(DTYPES[given.dtype]).sample(2)
    lines = shares(prior, DTYPES[given.dtype], given.repeats)
    ratio, words = gain(prior, given.images, given.repeats)
    section = "\n".join(
        [
            "## Decoding from the cache\n",
            f"A transformer of width {given.width}, depth {given.depth}, {given.heads} heads, {given.dtype}; "
            f"{given.side**2} codes of {given.codes}. Shares of what the machine reaches beside each draw: in products "
            f"of two {PEAK_SIZE} x {PEAK_SIZE} matrices, and in reading {PEAK_BYTES >> 20} MiB once. Operations are "
            "those of weights, scores and mixing; bytes are what must be read at the least: all weights a token, and "
            f"the keys and values so far. Medians of {given.repeats} rounds.\n",
            f"    python -m benchmarks.codes.decoding {' '.join(changed)}".rstrip() + "\n",
            *lines,
            "",
            words,
            "",
            f"- {torch.get_num_threads()} threads; {machine()} at the end.",
        ]
    )
    print(section)
    if given.out:
        given.out.write_text(section + "\n", encoding="utf-8")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
