"""Trains the AutoencoderKL of `benchmarks.outside.autoencoder_kl` with diffusers and torch alone.

    python -m benchmarks.outside.autoencoder_kl_training --data DIR --folder FOLDER [--steps 600]

Squared error a pixel, summed, and a small weight on the KL divergence, as latent diffusion does (Rombach et al. 2022,
appendix G), whose rule gives the scale too: 1 over the standard deviation of the latents of one batch. No GAN and no
perceptual loss: reconstructions are soft.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from stage1_vae.data.image_folder import ImageFolder
from stage1_vae.data.images import ImageSet

BATCH, RATE, CLIP, KL_WEIGHT = 64, 1e-3, 5.0, 1e-3
CHANNELS = (16, 32, 64)


def untrained() -> AutoencoderKL:
    """3x32x32 -> 4x8x8."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        norm_num_groups=8,
        layers_per_block=1,
        latent_channels=4,
        sample_size=32,
        mid_block_add_attention=False,
    )


def batch(images: ImageSet, generator: torch.Generator) -> torch.Tensor:
    """[BATCH, 3, 32, 32] in [-1, 1], half of them mirrored."""
    rows = torch.randperm(len(images), generator=generator)[:BATCH]
    x = images.batch(rows) / 127.5 - 1
    flip = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


def train(net: AutoencoderKL, images: ImageSet, steps: int) -> float:
    """Seconds that it took."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.0)
    warmup = min(100, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / (warmup + 1), 0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    started = time.perf_counter()
    net.train().to(memory_format=torch.channels_last)
    for step in range(steps):
        x = batch(images, generator).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = net.encode(x).latent_dist
            back = net.decode(posterior.sample(generator)).sample
        squared = (back.float() - x).square().sum((1, 2, 3)).mean()
        kl = posterior.kl().float().mean()
        optimizer.zero_grad()
        (squared + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP * x[0].numel() ** 0.5)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            figures = f"squared error a value {squared.item() / x[0].numel():.4f}, KL {kl.item():.1f} nats"
            print(f"{step:6} {time.perf_counter() - started:8.0f} s  {figures}", flush=True)
    return time.perf_counter() - started


@torch.no_grad()
def scaling_factor(net: AutoencoderKL, images: ImageSet) -> float:
    """1 over the standard deviation of latents drawn for some training images, over all their numbers."""
    generator = torch.Generator().manual_seed(1)
    latents = [net.encode(batch(images, generator)).latent_dist.sample(generator) for _ in range(16)]
    return 1 / torch.cat(latents).std().item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a folder of images")
    parser.add_argument("--folder", type=Path, required=True, help="where the model is saved")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    images = ImageFolder(root=str(options.data), size=32, mode="rgb").load().train
    net = untrained()
    seconds = train(net, images, options.steps)
    net.eval().to(memory_format=torch.contiguous_format)
    net.register_to_config(scaling_factor=scaling_factor(net, images))
    net.save_pretrained(options.folder)
    print(f"{seconds:.0f} s, scaling_factor {net.config.scaling_factor:.4f}: {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
