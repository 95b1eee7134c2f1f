"""IWAE and annealed importance sampling against the known log p(x) of probabilistic PCA. Prints one table.

    python -m benchmarks.judge.oracle [--seeds 20] [KEY=VALUE ...]

Each seed draws a model, its images and all noise anew, as `experiment=oracle data.seed=S seed=S` does, and starts from
the same wrong posterior. A mean over seeds above log p(x) by more than two of its standard errors would show that an
estimator is no lower bound. Exits with 1 when a target is missed.
"""

import argparse
import math
import statistics
import sys
import time

import torch
from hydra import compose, initialize_config_dir

from benchmarks.child import machine
from expost.cli import CONF
from expost.config.build import build
from expost.config.schema import validate
from expost.oracle import estimate
from expost.parts.assembly import PREPROCESSING, without

IWAE_NATS, AIS_NATS, ELBO_LOW_NATS = 0.05, 0.1, 1.0


def errors_of(seed: int, overrides: list[str]) -> dict[str, float]:
    """Mean errors over the images of one seed, in nats."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate(compose("config", [*overrides, "experiment=oracle", f"seed={seed}", f"data.seed={seed}"]))
    source = build("data", without(config.data, PREPROCESSING))
    data = source.load()
    torch.manual_seed(seed)
    judged = estimate(source.density(), data.test.batch(torch.arange(config.oracle.num_images)), config.oracle)
    estimates = {"ELBO": judged.elbo, "IWAE": judged.iwae, "AIS": judged.ais}
    return {name: (estimate - judged.truth).mean().item() for name, estimate in estimates.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("overrides", nargs="*", help="of the configuration, such as oracle.num_images=50")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: a standard error needs two")
    print(f"{machine()}, {options.seeds} seeds; errors are estimate - log p(x), mean over images, in nats")
    print(f"{'seed':>6}{'ELBO':>10}{'IWAE':>10}{'AIS':>10}{'seconds':>10}")
    runs = []
    for seed in range(options.seeds):
        started = time.perf_counter()
        runs.append(errors_of(seed, options.overrides))
        figures = "".join(f"{runs[-1][name]:+10.4f}" for name in ("ELBO", "IWAE", "AIS"))
        print(f"{seed:6d}{figures}{time.perf_counter() - started:10.1f}", flush=True)
    checks = [("ELBO is low by at least", min(-run["ELBO"] for run in runs), ELBO_LOW_NATS, True)]
    for name, target in (("IWAE", IWAE_NATS), ("AIS", AIS_NATS)):
        errors = [run[name] for run in runs]
        mean, spread = statistics.mean(errors), statistics.stdev(errors) / math.sqrt(len(errors))
        print(f"{name}: mean error {mean:+.5f}, standard error {spread:.5f}, {mean / spread:+.1f} standard errors")
        checks.append((f"{name}, largest error of a seed", max(map(abs, errors)), target, False))
        checks.append((f"{name}, mean error above by at most 2 std. errors", mean, 2 * spread, False))
    passed = [value >= target if at_least else value <= target for _, value, target, at_least in checks]
    for (name, value, target, _), is_met in zip(checks, passed, strict=True):
        print(f"{name:50}{value:+10.4f}{target:10.4f}  {'reached' if is_met else 'MISSED'}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
