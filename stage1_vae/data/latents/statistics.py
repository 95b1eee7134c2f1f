"""The file of statistics that a latent cache keeps beside its shards: compared, never applied.

It is `latents_stats.pt`, with `mean` and `std` [1, C, 1, 1], from which its own readers standardise
(https://github.com/hustvl/LightningDiT, `datasets/img_latent_dataset.py`).
"""

from pathlib import Path

import numpy as np
import torch

from stage1_vae.data.images import DataError
from stage1_vae.files.archives import check_unpacked, open_archive

MAX_BYTES = 2**20
CLOSE = 0.1
"""Statistics are of a sample of the latents: means that differ by less than a tenth of a deviation agree."""


def compare_statistics(folder: Path, mean: np.ndarray, std: np.ndarray, guesses: list[str]) -> None:
    """Say whether the statistics in `folder`, if there are any, are those of the latents.

    Args:
        folder: where the shards are.
        mean, std: float64 [C, h, w] of all latents.
        guesses: to which it is added.

    Raises:
        DataError: the file holds anything but these two tensors.
    """
    files = sorted(folder.glob("*stat*.pt"))
    for path in files[:1]:
        said_mean, said_std = _read(path)
        own_mean = mean.reshape(len(mean), -1).mean(1)  # [C]
        own_var = (std**2 + mean**2).reshape(len(mean), -1).mean(1) - own_mean**2
        if said_mean.shape != own_mean.shape:
            raise DataError(
                f"{path} holds {len(said_mean)} channels and the latents have {len(own_mean)}: set data.axes, or move "
                "it away"
            )
        scale = np.sqrt(np.maximum(own_var, 1e-30))
        if (np.abs(said_mean - own_mean) < CLOSE * scale).all() and (np.abs(said_std / scale - 1) < CLOSE).all():
            guesses.append(f"{path.name} agrees with the latents, which are taken as they are")
        else:
            worst = int(np.argmax(np.abs(said_mean - own_mean) / scale + np.abs(said_std / scale - 1)))
            guesses.append(
                f"{path.name} says mean {said_mean[worst]:.3g} and deviation {said_std[worst]:.3g} of channel {worst}, "
                f"and the latents have {own_mean[worst]:.3g} and {scale[worst]:.3g}: are they scaled already? They are "
                "taken as they are"
            )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """mean and std, [C] each."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        with path.open("rb") as file:
            with open_archive(file) as archive:
                for member in archive.infolist():
                    check_unpacked(member.filename, member.file_size, member.compress_size)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        mean, std = (content[name].double().reshape(-1).numpy() for name in ("mean", "std"))
        if mean.shape != std.shape or not np.isfinite([mean, std]).all():
            raise ValueError("mean and std are not finite, or not alike")
    except Exception as error:  # torch's reader raises many kinds on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} holds no mean and std that can be read ({reason}): move it away, or save it again"
        ) from error
    return mean, std
