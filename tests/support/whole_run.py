"""Whole runs on real images, and what their reports hold, for tests."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import SMALL, Result, run_here

ROWS = ("standard_normal", "mixture", "aggregate_draws", "reconstructions", "train_against_test")
BOUNDS = ("distortion_nats", "rate_nats", "elbo_nats", "iwae_nats", "bits_per_dim", "latent_nll_nats")
DISTANCES = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "num_samples")
FIT = ("fit_seconds", "num_parameters")
LATENTS = ("marginal_kl_nats", "two_sample_accuracy", "latent_mmd")
ALL = (
    *BOUNDS,
    *DISTANCES,
    *LATENTS,
    "ais_nats",
    "approximation_gap_nats",
    "amortisation_gap_nats",
    "cluster_accuracy",
    "cluster_purity",
    "cluster_nmi",
    "memorisation",
    "gap_closed",
    "samples_per_second",
    *FIT,
    "class_accuracy",
)
FEATURES: list[Path] = []
"""The store's folder of feature nets that the first run on the plain digits filled: they cost most of a small run."""


def run(folder: Path, *words: str) -> Result:
    """A small run that must succeed without a word on stderr."""
    result = run_lent(folder, *SMALL, *words)
    assert (result.code, result.err) == (0, ""), result
    return result


def run_lent(folder: Path, *words: str) -> Result:
    """`run_here` where the feature net of the plain digits is there, if any run before it in this process made one."""
    place = folder / "runs/store/features"
    if FEATURES and not place.exists():
        shutil.copytree(FEATURES[0], place)
    result = run_here(folder, *words)
    if not FEATURES and "features" in result.stages("done in") and not any(word.startswith("data") for word in words):
        FEATURES.append(place)
    return result


def finite(row: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        assert isinstance(row[name], int | float) and math.isfinite(row[name]), (name, row)


def null(row: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        assert row[name] is None, (name, row)
