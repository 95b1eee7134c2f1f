"""Mixture of Gaussians: our EM against scikit-learn's, side by side. Prints one table.

    python -m benchmarks.vs_sklearn_mixture [--latents FILE.npz] [--repeats 3] [--components 100]

Both fit the same 60,000 x 16 points (one draw a posterior, so point masses for us) and are scored on the same
held-out points. The runs are interleaved, A B A B ..., so that a busy machine is unfair to neither; medians are
printed. Both use their defaults (tolerance 1e-3 nats), and scikit-learn gets 200 iterations at most, as we have.
Without --latents the points come from a fixed synthetic mixture of 300 bent clusters.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from stage1_vae.latents import LatentDataset, LatentSpec
from stage2_prior.fitting import FitRun
from stage2_prior.priors.mixture import Mixture

ITERATIONS = 200


@dataclass(frozen=True)
class Outcome:
    """One fit: wall seconds of the fit, EM iterations, mean held-out log-likelihood in nats."""

    seconds: float
    iterations: int
    held_out_nats: float


def synthetic(num: int, dims: int, seed: int) -> np.ndarray:
    """Draws of 300 clusters whose noise is pushed through a fixed bend, [num, dims] float32."""
    shape = np.random.default_rng(0)
    centres, mixing = 1.2 * shape.normal(size=(300, dims)), shape.normal(size=(300, dims, dims)) / dims**0.5
    rng = np.random.default_rng(seed)
    which = rng.integers(300, size=num)
    bent = np.einsum("nde,ne->nd", mixing[which], rng.normal(size=(num, dims)))
    return np.float32(centres[which] + 0.4 * bent + 0.15 * np.roll(bent, 1, axis=1) ** 2)


def ours(train: np.ndarray, held_out: np.ndarray, num_components: int, seed: int) -> Outcome:
    latents = LatentDataset(LatentSpec(train.shape[1:]), "delta", {"loc": train})
    mixture = Mixture(latents.spec, num_components=num_components, max_iter=ITERATIONS)
    run = FitRun(torch.device("cpu"), seed, lambda figures, step: None, lightning_fit=None)
    report = mixture.fit(latents, latents, run)
    score = mixture.log_prob(torch.from_numpy(held_out)).mean().item()
    return Outcome(report.seconds, len(report.curve) - 1, score)


def theirs(train: np.ndarray, held_out: np.ndarray, num_components: int, seed: int) -> Outcome:
    mixture = GaussianMixture(num_components, max_iter=ITERATIONS, random_state=seed)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(train)
    seconds = time.perf_counter() - started
    return Outcome(seconds, mixture.n_iter_, float(mixture.score(held_out)))


def median(outcomes: list[Outcome]) -> Outcome:
    def of(name: str) -> float:
        return statistics.median(getattr(outcome, name) for outcome in outcomes)

    return Outcome(of("seconds"), int(of("iterations")), of("held_out_nats"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, help=".npz with arrays train [N, D] and held_out [M, D]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--components", type=int, default=100)
    options = parser.parse_args()
    if options.latents:
        stored = np.load(options.latents, allow_pickle=False)
        train, held_out = np.float32(stored["train"]), np.float32(stored["held_out"])
    else:
        train, held_out = synthetic(60_000, 16, 1), synthetic(10_000, 16, 2)
    contestants: dict[str, Callable[[np.ndarray, np.ndarray, int, int], Outcome]] = {
        "expost": ours,
        "scikit-learn": theirs,
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in contestants}
    for seed in range(options.repeats):
        for name, fit in contestants.items():
            outcomes[name].append(fit(train, held_out, options.components, seed))
    medians = {name: median(of) for name, of in outcomes.items()}
    size = f"{train.shape[0]} x {train.shape[1]} points"
    print(f"{options.components} full components, {size}, medians of {options.repeats}")
    print(f"{'':14}{'seconds':>10}{'iterations':>12}{'held-out nats':>15}{'speed ratio':>13}")
    for name, row in medians.items():
        ratio = medians["scikit-learn"].seconds / row.seconds
        print(f"{name:14}{row.seconds:10.2f}{row.iterations:12d}{row.held_out_nats:15.3f}{ratio:13.2f}")
    gap = medians["expost"].held_out_nats - medians["scikit-learn"].held_out_nats
    print(
        f"held-out difference: {gap:+.3f} nats in our favour" if gap >= 0 else f"held-out difference: {gap:+.3f} nats"
    )


if __name__ == "__main__":
    main()
