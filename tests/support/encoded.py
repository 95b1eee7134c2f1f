"""Images through the one encoding loop and back from the disk."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from stage1_vae.autoencoder import Autoencoder
from stage1_vae.latents import LatentDataset
from stage1_vae.latents.files import LatentWriter
from stage1_vae.vae import encode


def encoded(
    vae: Autoencoder,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    folder: Path,
    provenance: Mapping[str, str] | None = None,
) -> LatentDataset:
    """What `vae` makes of `batches`, written into the existing `folder`."""
    pairs = list(batches)
    num, labelled = sum(len(x) for x, _ in pairs), pairs[0][1] is not None
    with LatentWriter.create(folder, vae.spec, vae.family, num, labelled) as writer:
        encode(vae, pairs, writer)
        writer.finish(provenance or {})
    return LatentDataset.load(folder)
