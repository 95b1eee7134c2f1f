"""The one encoding loop of the repository: images in, parameters of q(z|x) out."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from stage1_vae.latents import PARAMETERS, LatentDataset
from stage1_vae.vae import VAE

ENCODE_VERSION = 1
"""Part of the key of what `encode` makes; raised whenever its results change."""


@torch.no_grad()
def encode(vae: VAE, batches: Iterable[tuple[Tensor, Tensor | None]], provenance: Mapping[str, str]) -> LatentDataset:
    """q(z|x_i) of every image of `batches`, in its order.

    Args:
        vae: on the device to compute on; switched to evaluation mode.
        batches: pairs of x [B, C, H, W] and labels [B] or None, in a fixed order.
        provenance: kept with the latents.
    """
    vae.eval()
    device = next((value.device for value in (*vae.parameters(), *vae.buffers())), None)  # none: nothing to move to
    family = vae.bottleneck.family
    columns: dict[str, list[np.ndarray]] = {name: [] for name in PARAMETERS[family]}
    labels: list[np.ndarray] = []
    for x, y in batches:
        posterior = vae.encode(x if device is None else x.to(device)).posterior
        for name, column in columns.items():
            column.append(getattr(posterior, name).float().cpu().numpy())
        if y is not None:
            labels.append(y.cpu().numpy())
    return LatentDataset(
        spec=vae.spec,
        family=family,
        params={name: np.concatenate(column) for name, column in columns.items()},
        labels=np.concatenate(labels) if labels else None,
        provenance=provenance,
    )
