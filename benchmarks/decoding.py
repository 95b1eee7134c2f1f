"""Drawing codes from the transformer: with its cache, without it, and how much of the machine that uses. One table.

    python benchmarks/decoding.py [--images 1000] [--side 7] [--codes 256] [--width 128] [--depth 4] [--repeats 3]

Without the cache the same network takes all tokens so far through every layer for each new one: what sampling costs
when nothing is kept. Both draw the same number of images in the same blocks, one after the other in each round; medians
are printed. The peaks are measured in the same run: products of two matrices of 2048 x 2048, and the sum of 256 MiB of
float32. The share of the first is that of the products alone (weights, scores, mixing); the share of the second that of
what must be read for each token at the least: all weights once a block, and the keys and values so far. Exits with 1
when the cache gains less than 10 times.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from stage1_vae.latents import LatentSpec, Support
from stage2_prior.priors.transformer import SAMPLE_ROWS, Transformer
from stage2_prior.sampling import PLAIN

BATCHES = (1, 64, 512)
TARGET = 10.0
PEAK_SIZE, PEAK_NUMBERS = 2048, 2**26


@torch.no_grad()
def without_cache(prior: Transformer, num: int) -> None:
    """Draw `num` latents with a whole pass over the tokens so far for each new one."""
    places = prior.tokens.layout.num_tokens
    for labels in torch.full((num,), prior.num_classes).split(SAMPLE_ROWS):
        h = prior.prefix(labels)[:, None]  # [n, t + 1, W] inputs so far
        for t in range(places):
            token = prior.tokens.draw(prior.net(h)[:, -1], None, t, PLAIN)
            h = torch.cat([h, prior.tokens.embed(token[:, None], slice(t, t + 1))], dim=1)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peaks(repeats: int) -> tuple[float, float]:
    """Floating-point operations a second in matrix products, and bytes read a second."""
    a, b, line = torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_NUMBERS)
    torch.mm(a, b)
    return 2 * PEAK_SIZE**3 / seconds(lambda: torch.mm(a, b), repeats), line.nbytes / seconds(line.sum, repeats)


def demands(prior: Transformer, batch: int) -> tuple[float, float]:
    """Operations in products, and bytes that must be read, for one batch of latents."""
    places, width, depth = prior.tokens.layout.num_tokens, prior.prefix.embedding_dim, len(prior.net.blocks)
    matrices = [p for p in [*prior.net.blocks.parameters(), *prior.tokens.heads.parameters()] if p.ndim > 1]
    looked_at = places * (places + 1) / 2 * depth * width * 2  # numbers of keys and values, a latent
    operations = batch * (2 * places * sum(p.numel() for p in matrices) + 2 * looked_at)
    return operations, places * sum(p.nbytes for p in matrices) + 4 * batch * looked_at


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in {
        "images": 1000,
        "side": 7,
        "codes": 256,
        "width": 128,
        "depth": 4,
        "heads": 4,
        "repeats": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    spec = LatentSpec((given.side**2,), Support.CODES, ((given.side, given.side),), (given.codes,))
    torch.manual_seed(0)
    prior = Transformer(spec, width=given.width, depth=given.depth, num_heads=given.heads).eval()
    prior.sample(2)
    flops, bandwidth = peaks(given.repeats)
    print(
        f"{given.width} x {given.depth}, {given.side**2} codes of {given.codes}, {torch.get_num_threads()} threads; ",
        end="",
    )
    print(f"peaks: {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s")
    print(f"{'batch':>7}{'images/s':>12}{'of product peak':>18}{'of bandwidth':>15}")
    for batch in BATCHES:
        taken = seconds(lambda batch=batch: prior.sample(batch), given.repeats)  # type: ignore[misc]
        operations, read = demands(prior, batch)
        print(f"{batch:7d}{batch / taken:12.1f}{operations / taken / flops:18.1%}{read / taken / bandwidth:15.1%}")
    cached, whole = [], []
    for _ in range(given.repeats):
        cached.append(seconds(lambda: prior.sample(given.images), 1))
        whole.append(seconds(lambda: without_cache(prior, given.images), 1))
    kept, not_kept = statistics.median(cached), statistics.median(whole)
    print(f"\n{given.images} images: {kept:.2f} s with the cache ({given.images / kept:.0f} images/s), ", end="")
    print(f"{not_kept:.2f} s without ({given.images / not_kept:.0f} images/s): {not_kept / kept:.1f} times")
    return 0 if not_kept / kept >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
