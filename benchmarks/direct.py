"""What `from expost import fit_prior; fit_prior(...)` costs beyond the fit that it does.

    python -m benchmarks.direct [--repeats 5] [--components 100]

A mixture of full components on 60,000 x 16 latents with standard deviations, and 10,000 held out. Two programs take
turns, each time in a new process that has imported NumPy and torch and read the arrays before the clock starts:

- direct: `from expost import LatentDataset, fit_prior`; `LatentDataset.of` for both sets; `fit_prior(..., val=...)`.
- alone: `Mixture` and what its `fit` is given, imported from where they lie; the same data sets; `Mixture.fit`.

Seconds on the clock and of the processors, which a busy machine leaves alone: of the whole, of all behind the imports,
and of what is imported. Whether both find the same prior to the bit. Exits with 1 when the whole takes the processors
more than 1.1 times as long, or when the priors differ.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import HERE, machine

NUM, HELD_OUT, DIMS = 60_000, 10_000, 16
TARGET = 1.1


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "loc.npy"), np.load(folder / "log_std.npy")


def now() -> np.ndarray:
    """Seconds on the clock, and of the processors."""
    return np.array([time.perf_counter(), time.process_time()])


def digest(prior: Any) -> str:
    """SHA-256 of all tensors of a prior."""
    content = hashlib.sha256()
    for name, value in sorted(prior.state_dict().items()):
        content.update(name.encode() + value.numpy().tobytes())
    return content.hexdigest()


def direct(loc: np.ndarray, log_std: np.ndarray, num_components: int) -> dict[str, Any]:
    started = now()
    from expost import LatentDataset, fit_prior

    imported = now()
    latents, val = LatentDataset.of(loc[:NUM], log_std[:NUM]), LatentDataset.of(loc[NUM:], log_std[NUM:])
    prior, report = fit_prior(latents, "mixture", val=val, device="cpu", num_components=num_components)
    return outcome(started, imported, prior.prior, report)


def alone(loc: np.ndarray, log_std: np.ndarray, num_components: int) -> dict[str, Any]:
    started = now()
    import torch

    from stage1_vae.latents import LatentDataset
    from stage1_vae.machine import flushed_denormals
    from stage2_prior.fitting import FitRun
    from stage2_prior.priors.mixture import Mixture

    imported = now()
    latents, val = LatentDataset.of(loc[:NUM], log_std[:NUM]), LatentDataset.of(loc[NUM:], log_std[NUM:])
    run = FitRun(torch.device("cpu"), 0, lambda figures, step: None, lightning_fit=lambda: None)
    prior = Mixture(latents.spec, num_components=num_components)
    with flushed_denormals():  # as `fit_prior` does
        report = prior.fit(latents, val, run)
    return outcome(started, imported, prior, report)


def outcome(started: np.ndarray, imported: np.ndarray, prior: Any, report: Any) -> dict[str, Any]:
    ended = now()
    spans = {"all of it": ended - started, "behind imports": ended - imported, "imports": imported - started}
    seconds = {what: span.tolist() for what, span in spans.items()}
    return {"seconds": seconds, "iterations": len(report.curve) - 1, "digest": digest(prior)}


SIDES = {"direct": direct, "alone": alone}


def measured(side: str, folder: Path, num_components: int) -> dict[str, Any]:
    """One side in a new process.

    Raises:
        SystemExit: it failed.
    """
    words = [sys.executable, "-m", "benchmarks.direct", "--side", side, "--components", str(num_components)]
    done = subprocess.run(
        [*words, "--folder", str(folder)], cwd=HERE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def write(folder: Path) -> None:
    """Posteriors around the points of `benchmarks.vs_sklearn_mixture`."""
    from benchmarks.vs_sklearn_mixture import synthetic

    loc = synthetic(NUM + HELD_OUT, DIMS, seed=1)
    np.save(folder / "loc.npy", loc)
    np.save(folder / "log_std.npy", np.float32(-2 + 0.2 * np.random.default_rng(2).standard_normal(loc.shape)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--components", type=int, default=100)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        import torch  # noqa: F401 - that of neither side

        print(json.dumps(SIDES[options.side](*arrays(options.folder), options.components)))
        return 0
    rows: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="expost-direct-") as place:
        write(Path(place))
        for _ in range(options.repeats):
            for side in SIDES:
                rows[side].append(measured(side, Path(place), options.components))
    print(f"{machine()}; load {load:.1f} before; medians of {options.repeats}")
    first = rows["alone"][0]
    print(f"{options.components} full components, {NUM:,} x {DIMS}, {first['iterations']} iterations\n")
    print(f"{'':36}" + "".join(f"{side:>9}{'(min - max)':>16}" for side in SIDES) + f"{'ratio':>8}")
    ratios = {}
    for what in first["seconds"]:
        for i, unit in enumerate(("seconds", "processor seconds")):
            values = {side: [row["seconds"][what][i] for row in rows[side]] for side in SIDES}
            medians = [statistics.median(values[side]) for side in SIDES]
            ratio = ratios[what, unit] = medians[0] / medians[1]
            ranges = [f"({min(values[side]):.2f} - {max(values[side]):.2f})" for side in SIDES]
            cells = "".join(f"{median:9.2f}{spread:>16}" for median, spread in zip(medians, ranges, strict=True))
            print(f"{f'{what}, {unit}':36}{cells}{ratio:8.3f}")
    is_same = len({row["digest"] for side in SIDES for row in rows[side]}) == 1
    is_fast = ratios["all of it", "processor seconds"] <= TARGET
    print(f"\nthe priors are {'the same to the bit' if is_same else 'NOT THE SAME'}")
    print(f"at most {TARGET} times the processor seconds of all of it: {'reached' if is_fast else 'MISSED'}")
    return int(not (is_same and is_fast))


if __name__ == "__main__":
    sys.exit(main())
