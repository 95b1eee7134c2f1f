"""The door between the stages: what stage 2 may know of stage 1, and nothing else."""

from stage1_vae.latents.aggregate import log_mean_normal
from stage1_vae.latents.columns import (
    FLOAT32_ROUNDING,
    MOST_COLUMNS,
    AffineMap,
    affine_map,
    constants,
    dependent_columns,
)
from stage1_vae.latents.dataset import BUFFER_BYTES, IN_MEMORY_BYTES, DiagonalNormal, Draws, LatentDataset, Posterior
from stage1_vae.latents.spec import Column, DerivedColumn, LatentDensity, LatentSpec, Support
from stage1_vae.spaces.box import TruncatedNormal
from stage1_vae.spaces.sphere import LARGEST_CONCENTRATION, PowerSpherical, log_area, log_normaliser

__all__ = [
    "BUFFER_BYTES",
    "FLOAT32_ROUNDING",
    "IN_MEMORY_BYTES",
    "LARGEST_CONCENTRATION",
    "MOST_COLUMNS",
    "AffineMap",
    "Column",
    "DerivedColumn",
    "DiagonalNormal",
    "Draws",
    "LatentDataset",
    "LatentDensity",
    "LatentSpec",
    "Posterior",
    "PowerSpherical",
    "Support",
    "TruncatedNormal",
    "affine_map",
    "constants",
    "dependent_columns",
    "log_area",
    "log_mean_normal",
    "log_normaliser",
]
