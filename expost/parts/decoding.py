"""Latents into images in blocks: bounded memory for any number of images of any size."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stage1_vae.autoencoder import Autoencoder
from stage1_vae.data.images import Domain, ImageData
from stage1_vae.machine import seed_generators

MAX_BLOCK = 500
BLOCK_PIXELS = 2**22


@torch.no_grad()
def image_blocks(
    vae: Autoencoder, draw: Callable[[int], Tensor], num: int, noise: bool, seed: int, data: ImageData
) -> Iterator[Tensor]:
    """uint8 images [<=block, C, H, W], `num` in all: means of p(x|z), or draws from it with `noise`.

    Args:
        vae: on the device to compute on.
        draw: z, [n, *latent].
        num: how many images.
        noise: draw from p(x|z) instead of taking its mean.
        seed: the same one gives the same images.
        data: says where a pixel lives; real ones are scaled from the range of the training images.
    """
    low, high = pixel_range(data)
    for x in decoded_blocks(vae, draw, num, noise, seed, data):
        yield ((x - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


@torch.no_grad()
def vector_blocks(
    vae: Autoencoder, draw: Callable[[int], Tensor], num: int, noise: bool, seed: int, data: ImageData
) -> Iterator[Tensor]:
    """The same of vectors: float32 [<=block, D], in the units of the file."""
    for x in decoded_blocks(vae, draw, num, noise, seed, data):
        rows = x.flatten(1).cpu()
        yield rows if data.units is None else data.units.restore(rows)


@torch.no_grad()
def decoded_blocks(
    vae: Autoencoder, draw: Callable[[int], Tensor], num: int, noise: bool, seed: int, data: ImageData
) -> Iterator[Tensor]:
    """x [<=block, C, H, W] on the device, `num` in all."""
    size, device = block_size(data.shape), vae.device
    for block, start in enumerate(range(0, num, size)):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed_generators(seed * 1_000_003 + block, device)
            image = vae.decode(draw(size))
            x = image.sample() if noise else image.mean  # [size, C, H, W]
        yield x[: num - start]


def block_size(shape: tuple[int, ...]) -> int:
    """Images that are decoded at once: bounded memory for large ones, and the same for every `num`."""
    return max(1, min(MAX_BLOCK, BLOCK_PIXELS // math.prod(shape)))


def pixel_range(data: ImageData) -> tuple[float, float]:
    """What becomes black and what becomes white."""
    if data.domain is Domain.UNIT:
        return 0.0, 1.0
    some = data.train.batch(torch.arange(min(1000, len(data.train))))
    low, high = some.min().item(), some.max().item()
    if not data.are_pictures:  # to be measured and not to be shown: nothing is cut that may occur
        low, high = low - (high - low), high + (high - low)
    return low, high if high > low else low + 1.0
