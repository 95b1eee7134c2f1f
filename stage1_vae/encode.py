"""The one encoding loop of the repository: images in, parameters of q(z|x) out, a batch at a time to the disk."""

from collections.abc import Iterable

import torch
from torch import Tensor

from stage1_vae.latents.files import LatentWriter
from stage1_vae.vae import VAE

ENCODE_VERSION = 1
"""Part of the key of what `encode` makes; raised whenever its results change."""


@torch.no_grad()
def encode(
    vae: VAE, batches: Iterable[tuple[Tensor, Tensor | None]], writer: LatentWriter, rows: range | None = None
) -> None:
    """q(z|x_i) of every image of `batches`, in its order, into `rows` of `writer`.

    Args:
        vae: on the device to compute on; switched to evaluation mode.
        batches: pairs of x [B, C, H, W] and labels [B] or None, in a fixed order.
        writer: where they go; its header is left to the caller.
        rows: a stretch of the data set, for a process that encodes a part of it; None: all.

    Raises:
        ValueError: the batches hold more or fewer images than there are rows.
    """
    vae.eval()
    device = next((value.device for value in (*vae.parameters(), *vae.buffers())), None)  # none: nothing to move to
    rows = range(writer.num) if rows is None else rows
    done = rows.start
    for x, labels in batches:
        if done + len(x) > rows.stop:
            raise ValueError(f"more than {len(rows)} images for the rows {rows.start} to {rows.stop}")
        posterior = vae.encode(x if device is None else x.to(device)).posterior
        writer.write(done, {name: as_stored(getattr(posterior, name)) for name in writer.params}, labels)
        done += len(x)
    if done != rows.stop:
        raise ValueError(f"{done - rows.start} images for {len(rows)} rows")


def as_stored(values: Tensor) -> Tensor:
    """Real numbers in float32, whatever the net computed in; codes as they are."""
    return values.float() if values.is_floating_point() else values
