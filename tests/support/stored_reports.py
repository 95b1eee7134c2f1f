"""Stored reports as a comparison finds them, without training anything: for the tests of what is made of them."""

from typing import Any

from expost.evaluation.comparison.compare import Comparison
from expost.evaluation.comparison.lines import Line
from expost.evaluation.comparison.sources import Source
from expost.evaluation.report import Report

SPREAD = {"frechet_distance": 0.1, "rate_nats": 0.02, "coverage": 0.01, "iwae_nats": 0.2}


def row(frechet: float, rate: float | None = None, iwae: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "frechet_distance": frechet,
        "rate_nats": rate,
        "iwae_nats": iwae,
        "coverage": 0.5,
        "num_samples": 1000,
        "spread": SPREAD,
        "notes": [],
        **more,
    }


def run(name: str, prior: str, learned: dict[str, Any], seed: int = 0, vae: str = "v", **more: Any) -> Source:
    """One run: a learned prior beside the rows of its VAE, whose figures move with the seed."""
    rows = {
        "standard_normal": row(10.0 + seed, 24.0 + seed, 100.0 + seed),
        prior: {**learned, "fit_seconds": 1.5, "num_parameters": 120},
        "reconstructions": row(1.0 + seed),
        "train_against_test": row(0.1),
    }
    provenance = {
        "vae": f"{vae}{seed}",
        "data": "f00d",
        "evaluation": name,
        "prior": f"key of {name}",
        "vae_recipe": vae,
        "prior_recipe": f"{vae} {prior}",
        "stage1": f"net {vae}",
        "stage2": prior,
        "likelihood": "Bernoulli on binary pixels",
    }
    provenance.update(more.pop("provenance", {}))
    top = {"data": "mnist", "features": "64 features", "reference": "test", "num_samples": 1000, **more}
    stored = {"baseline": "standard_normal", "rows": rows, "provenance": provenance, **top}
    return Source(name, Report.from_json(stored))


def lines(comparison: Comparison) -> dict[str, Line]:
    return {line.label: line for line in comparison.lines}


def leads(comparison: Comparison, key: str) -> list[str]:
    return [line.label for line in comparison.lines if key in line.values and line.values[key].leads]
