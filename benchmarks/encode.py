"""Seconds to encode 60,000 images of MNIST's shape with the reference net into a LatentDataset on disk.

    python -m benchmarks.encode [--repeats 5]

The pipeline's own path: `encode` streams batches of 1,000 into the files of a new folder. The weights are
fresh and the images random, which costs the same as trained ones. Median. Exits with 1 when the target is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}  # as expost/base/runtime.py; read by torch

import torch

from stage1_vae.bottlenecks.gaussian import Gaussian
from stage1_vae.data.images import Domain, InMemory
from stage1_vae.data.loader import Batches
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.latents import LatentDataset
from stage1_vae.latents.files import LatentWriter
from stage1_vae.likelihoods import BernoulliLikelihood
from stage1_vae.nets.mlp import MLP
from stage1_vae.vae import VAE, encode

NUM, BATCH_SIZE, TARGET_SECONDS = 60_000, 1000, 1.0


def encode_to_disk(vae: VAE, images: InMemory) -> float:
    """Wall seconds, checked by opening what was written."""
    batches = Batches(images, Preprocess(256, Domain.UNIT, "none", False), BATCH_SIZE, shuffle=False, seed=0)
    with tempfile.TemporaryDirectory(prefix="expost-encode-") as folder:
        started = time.perf_counter()
        with LatentWriter.create(Path(folder), vae.spec, vae.bottleneck.family, NUM, labelled=True) as writer:
            encode(vae, batches, writer)
            writer.finish({})
        seconds = time.perf_counter() - started
        if len(LatentDataset.load(Path(folder))) != NUM:
            raise SystemExit("not all images were encoded")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    vae = VAE((1, 28, 28), MLP((512,)), partial(Gaussian, latent_dim=16), BernoulliLikelihood())
    images = InMemory(torch.randint(0, 256, (NUM, 1, 28, 28), dtype=torch.uint8), torch.zeros(NUM, dtype=torch.int64))
    seconds = [encode_to_disk(vae, images) for _ in range(options.repeats)]
    median = statistics.median(seconds)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {NUM:,} images")
    print(f"{'':10}{'median':>10}{'(min - max)':>18}{'target':>10}")
    spread = f"({min(seconds):.2f} - {max(seconds):.2f})"
    verdict = "reached" if median < TARGET_SECONDS else "MISSED"
    print(f"{'seconds':10}{median:10.2f}{spread:>18}{TARGET_SECONDS:10.1f}  {verdict}")
    return 0 if median < TARGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
