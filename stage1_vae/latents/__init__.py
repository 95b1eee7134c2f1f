"""The door between the stages: what stage 2 may know of stage 1, and nothing else."""

from stage1_vae.latents.dataset import (
    IN_MEMORY_BYTES,
    DiagonalNormal,
    LatentDataset,
    LatentDensity,
    Posterior,
    Rows,
)
from stage1_vae.latents.shuffle import BUFFER_BYTES
from stage1_vae.latents.spec import LatentSpec, Support

__all__ = [
    "BUFFER_BYTES",
    "IN_MEMORY_BYTES",
    "DiagonalNormal",
    "LatentDataset",
    "LatentDensity",
    "LatentSpec",
    "Posterior",
    "Rows",
    "Support",
]
