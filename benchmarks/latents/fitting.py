"""Priors fitted to latents larger than memory: peak anonymous memory, seconds, and nats above the truth.

    python -m benchmarks.latents.fitting [--num 5000000] [--folder DIR] [--fits em,autoregressive] [--components 20]

Writes posteriors whose aggregate is a known mixture of 20 Gaussians in 64 dimensions (2.6 GB of parameters for five
million), block by block as `encode` does, fits priors to them, each in a process of its own, and removes them again.

- anonymous: the largest RssAnon of the process, sampled every 10 ms: what must be there, and what this is about.
- peak: VmHWM, the largest resident set; it counts the pages of the memory-mapped files too, which the kernel keeps
  while nobody else wants the memory and drops when somebody does.
- gap: mean -log p(z) on 20,000 fresh draws of the aggregate, above that of the density that made them.

Fits: em (mini-batch EM), exact (EM over all rows each iteration, read from the disk), gaussian, autoregressive
(--steps of 512 latents). Exits with 1 when a fit takes 1 GiB of anonymous memory or more.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DIMS, CLUSTERS, BLOCK = 64, 20, 2**16
HELD_OUT, SEED_HELD_OUT = 20_000, 10**6
LIMIT_MIB = 1024
HEAD = f"{'':16}{'anonymous':>11}{'peak':>10}{'seconds':>9}{'passes':>8}{'held-out nats':>15}{'gap':>9}"


class Truth:
    """q(z|x) = N(m, diag(s_k^2)), m ~ N(c_k, L_k L_k^T), k ~ w: q(z) = sum_k w_k N(c_k, L_k L_k^T + diag(s_k^2))."""

    def __init__(self) -> None:
        import numpy as np

        rng = np.random.default_rng(0)
        self.weights = rng.dirichlet(np.full(CLUSTERS, 5.0))
        self.centres = 0.6 * rng.normal(size=(CLUSTERS, DIMS))
        self.factors = 0.08 * rng.normal(size=(CLUSTERS, DIMS, DIMS))
        self.widths = np.exp(rng.normal(-1.0, 0.4, (CLUSTERS, DIMS)))

    def block(self, num: int, seed: int) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
        """Means and log standard deviations [num, DIMS] of posteriors, and their clusters [num], sorted as data often
        are."""
        import numpy as np

        rng = np.random.default_rng((1, seed))
        cluster = rng.choice(CLUSTERS, size=num, p=self.weights)
        loc = np.empty((num, DIMS), np.float32)
        for k in range(CLUSTERS):
            rows = cluster == k
            noise = rng.standard_normal((int(rows.sum()), DIMS))
            loc[rows] = self.centres[k] + noise @ self.factors[k].T
        return loc, np.float32(np.log(self.widths[cluster])), cluster

    def nll_nats(self, z: "np.ndarray") -> float:
        """Mean of the exact -log q(z), by torch's own distributions."""
        import torch
        from torch.distributions import MultivariateNormal

        covariance = torch.from_numpy(self.factors) @ torch.from_numpy(self.factors).mT
        covariance = covariance + torch.diag_embed(torch.from_numpy(self.widths).square())
        each = MultivariateNormal(torch.from_numpy(self.centres), covariance).log_prob(torch.from_numpy(z)[:, None])
        return -torch.logsumexp(each + torch.from_numpy(self.weights).log(), dim=1).mean().item()


def write(folder: Path, num: int) -> None:
    """Training and validation posteriors, in blocks."""
    import torch

    from stage1_vae.latents import LatentSpec
    from stage1_vae.latents.files import LatentWriter

    truth, spec = Truth(), LatentSpec((DIMS,), num_classes=CLUSTERS)
    for split, size, seed in (("train", num, 0), ("val", min(num, HELD_OUT), 10**5)):
        (folder / split).mkdir()
        with LatentWriter.create(folder / split, spec, "diagonal_normal", size, labelled=True) as writer:
            for start in range(0, size, BLOCK):
                loc, log_std, cluster = truth.block(min(BLOCK, size - start), seed + start // BLOCK)
                writer.write(start, {"loc": loc, "log_std": log_std}, torch.from_numpy(cluster))
            writer.finish({"of": "a known mixture"})


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Largest RssAnon of this process inside the block and VmHWM at its end, MiB."""
    peak: dict[str, float] = {"anonymous": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            peak["anonymous"] = max(peak["anonymous"], status("RssAnon"))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        peak["resident"] = status("VmHWM")


def status(name: str) -> float:
    """MiB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def fit(kind: str, folder: Path, components: int, steps: int) -> dict[str, Any]:
    """One fit, measured; runs in a process of its own."""
    with watched() as peak:
        import numpy as np
        import torch
        import yaml

        from expost.config.schema import Trainer
        from expost.training.trainer import lightning_fit
        from stage1_vae.latents import LatentDataset
        from stage2_prior.fitting import FitRun
        from stage2_prior.prior import Prior
        from stage2_prior.priors.autoregressive import Autoregressive
        from stage2_prior.priors.gaussian import Gaussian
        from stage2_prior.priors.mixture import Mixture
        from stage2_prior.priors.standard_normal import StandardNormal
        from stage2_prior.wrappers.standardize import Standardized

        train, val = (LatentDataset.load(folder / split) for split in ("train", "val"))
        spec = train.spec
        torch.manual_seed(0)
        prior: Prior = {
            "em": lambda: Mixture(spec, components, batch_size=2**14),
            "exact": lambda: Mixture(spec, components, batch_size="all"),
            "gaussian": lambda: Gaussian(spec),
            "autoregressive": lambda: Standardized(Autoregressive(spec)),
            "floor": lambda: StandardNormal(spec),
        }[kind]()
        defaults = yaml.safe_load((ROOT / "conf/trainer/default.yaml").read_text(encoding="utf-8"))
        lent = lightning_fit(
            Trainer(**(defaults | {"accelerator": "cpu"})), [], overrides={"limit_train_batches": steps}
        )
        settings = {"max_epochs": 1} if kind == "autoregressive" else {}
        started = time.perf_counter()

        def log(figures: Any, step: int) -> None:
            print(f"{kind} {step} {time.perf_counter() - started:.0f} s {dict(figures)}", file=sys.stderr, flush=True)

        report = prior.fit(train, val, FitRun(torch.device("cpu"), 0, log, lent, settings))
        loc, log_std, _ = Truth().block(HELD_OUT, SEED_HELD_OUT)
        z = loc + np.exp(log_std) * np.random.default_rng(1).standard_normal(loc.shape)
        with torch.no_grad():
            scores = [prior.log_prob(some.float()).double() for some in torch.from_numpy(z).split(2048)]
        nll = -torch.cat(scores).mean().item()
    return {**peak, "seconds": report.seconds, "passes": len(report.curve), "nll": nll, "truth": Truth().nll_nats(z)}


def measured(kind: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`fit` in a new process.

    Raises:
        SystemExit: it failed.
    """
    words = ["--only", kind, "--folder", str(folder)]
    words += ["--components", str(options.components), "--steps", str(options.steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.latents.fitting", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        encoding="utf-8",
    )
    if done.returncode:
        raise SystemExit(f"the fit {kind} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, help="where the latents are written for a while")
    parser.add_argument("--fits", default="em,autoregressive")
    parser.add_argument("--components", type=int, default=CLUSTERS)
    parser.add_argument("--steps", type=int, default=400, help="of the autoregressive fit")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(fit(options.only, options.folder, options.components, options.steps)))
        return 0
    with tempfile.TemporaryDirectory(prefix="expost-latents-", dir=options.folder) as place:
        folder = Path(place)
        started = time.perf_counter()
        write(folder, options.num)
        size = options.num * DIMS * 8 / 1e9
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options.num:,} posteriors of {DIMS} dimensions,"
        )
        print(f"{size:.2f} GB of parameters, written in {time.perf_counter() - started:.0f} s")
        print(HEAD, flush=True)
        largest = 0.0
        for kind in ("floor", *options.fits.split(",")):
            row = measured(kind, folder, options)
            memory = f"{row['anonymous']:7.0f} MiB{row['resident']:6.0f} MiB"
            print(
                f"{kind:16}{memory}{row['seconds']:9.0f}{row['passes']:8d}{row['nll']:15.3f}"
                f"{row['nll'] - row['truth']:9.3f}",
                flush=True,
            )
            largest = max(largest, row["anonymous"])
        print(f"truth: {row['truth']:.3f} nats; largest anonymous memory {largest:.0f} MiB, limit {LIMIT_MIB} MiB")
    return 0 if largest < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
