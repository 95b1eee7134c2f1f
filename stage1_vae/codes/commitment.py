"""What an encoder pays for staying near its codes: a weight times the squared distance to the code vectors (van den
Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning", 2017, eq. 3, third term)."""

from torch import Tensor


def checked_weight(commitment: float) -> float:
    """The weight, unless it is below zero.

    Raises:
        ValueError: it is.
    """
    if commitment < 0:
        raise ValueError(f"vae.bottleneck.commitment must not be negative, got {commitment}")
    return commitment


def squared_distance(h: Tensor, chosen: Tensor, num_images: int) -> Tensor:
    """Of vectors [B h w, D] from their code vectors, summed over places, [B]; with a gradient to `h` alone."""
    return (h - chosen.detach()).square().sum(1).view(num_images, -1).sum(1)
