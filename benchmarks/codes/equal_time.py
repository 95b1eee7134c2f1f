"""The transformer against the gated PixelCNN at equal training time, on the same codes of MNIST. Prints one table.

    python -m benchmarks.codes.equal_time --data DIR [--seconds 180] [--root runs/bench/codes] [--out FILE.md]

The codes are those of codes/table.py (VQ, 7x7 of 256, seed 0), made where `--root` lacks them. Both priors are as their
configuration has them but for the batch (64) and dropout (none: nothing is seen twice often enough). Each is fitted in
a process of its own, on one thread, both at the same time, so that a busy machine is unfair to neither. A short probe,
also at the same time, says how many steps fit into the given seconds; the learning rate reaches zero with the last.
Exits with 1 when the transformer's held-out nats are not the lower ones.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.child import machine
from benchmarks.pythae.codes import prepare
from expost.cli import CONF
from expost.config.build import build
from expost.config.schema import Trainer
from expost.training.trainer import lightning_fit
from stage1_vae.latents import LatentDataset, LatentSpec, Support
from stage2_prior.fitting import FitReport, FitRun
from stage2_prior.held_out import mean_nll_nats
from stage2_prior.prior import Prior

SIDE, NUM_CODES = 7, 256
SPEC = LatentSpec((SIDE**2,), Support.CODES, ((SIDE, SIDE),), (NUM_CODES,))
PRIORS = {"transformer": {"dropout": 0.0}, "pixelcnn": {}}
BATCH_SIZE, STEPS, HELD_OUT = 64, 16, 256
"""Steps between two looks at the held-out figure, which are over so many images."""
PROBE_LOOKS = 3


def fitted(name: str, codes: dict[str, LatentDataset], num_looks: int) -> tuple[Prior, FitReport, list[float]]:
    """The prior NAME after STEPS * num_looks steps, and when each look was taken, in seconds."""
    node = yaml.safe_load((CONF / "prior" / f"{name}.yaml").read_text(encoding="utf-8"))
    settings, _ = node.pop("fit"), node.pop("wrap", None)
    prior: Prior = build("prior", node | PRIORS[name], spec=SPEC)
    trainer = Trainer(
        **yaml.safe_load((CONF / "trainer" / "default.yaml").read_text(encoding="utf-8")) | {"accelerator": "cpu"}
    )
    looks: list[float] = []
    run = FitRun(
        device=prior.anchor.device,
        seed=0,
        log=lambda figures, epoch: looks.append(time.perf_counter()),
        lightning_fit=lightning_fit(trainer, loggers=(), overrides={"limit_train_batches": STEPS}),
        settings=settings
        | {"batch_size": BATCH_SIZE, "max_epochs": num_looks, "max_steps": None, "val_draws": HELD_OUT},
    )
    return prior, prior.fit(codes["train"], codes["val"], run), looks


def work(name: str, seconds: float) -> None:
    """One side, in the folder of its codes: waits for a word before the probe and before the fit."""
    loaded = {split: np.load(f"{split}.npy", allow_pickle=False) for split in ("train", "val", "test")}
    loaded["val"] = loaded["val"][:HELD_OUT]
    loaded["few"] = loaded["train"][: 2 * STEPS * BATCH_SIZE]
    codes = {split: LatentDataset(SPEC, "codes", {"codes": at.reshape(len(at), -1)}) for split, at in loaded.items()}
    waits({})
    *_, (*_, before, last) = fitted(name, codes | {"train": codes["few"]}, PROBE_LOOKS)
    num_looks = max(1, round(seconds / (last - before)))
    waits({"looks": num_looks})
    prior, fit, _ = fitted(name, codes, num_looks)
    parameters = sum(parameter.numel() for parameter in prior.parameters())
    facts = {"seconds": fit.seconds, "steps": STEPS * len(fit.curve), "parameters": parameters}
    print(json.dumps({"nats": mean_nll_nats(prior, codes["test"]), **facts}), flush=True)


def waits(facts: dict[str, int]) -> None:
    print(json.dumps(facts), flush=True)
    sys.stdin.readline()


def together(seconds: float, folder: Path) -> dict[str, dict[str, Any]]:
    """What each prior reached, fitted side by side."""
    same = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
    same["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "benchmarks.codes.equal_time", "--seconds", str(seconds), "--work"]
    sides = {
        name: subprocess.Popen(
            [*command, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=same,
            encoding="utf-8",
        )
        for name in PRIORS
    }
    said: dict[str, dict[str, Any]] = {}
    for _ in ("loaded", "probed"):
        for name, side in sides.items():  # both are ready before either is told to go on
            said[name] = heard(name, side)
        for side in sides.values():
            assert side.stdin is not None
            side.stdin.write("go\n")
            side.stdin.flush()
    return {name: heard(name, side) for name, side in sides.items()}


def heard(name: str, side: subprocess.Popen[str]) -> dict[str, Any]:
    line = side.stdout.readline() if side.stdout else ""
    if not line:
        raise SystemExit(f"the fit of {name} failed; what it said is above")
    return json.loads(line)


def section(reached: dict[str, dict[str, Any]], where: str) -> str:
    """The part of docs/RESULTS.md."""
    rows = [
        f"| {name} | {at['nats']:.2f} | {at['seconds']:.0f} | {at['steps']:,} | {at['parameters']:,} |"
        for name, at in reached.items()
    ]
    return "\n".join(
        [
            "## Transformer and PixelCNN at equal training time\n",
            f"MNIST, {SIDE}x{SIDE} codes of {NUM_CODES} (the VQ of the table above, seed 0); held-out nats an image "
            "over 10,000 test images. Both fits ran at the same time, on one thread each.\n",
            "    python -m benchmarks.codes.equal_time --data DIR\n",
            "| prior | -log P(codes), nats | fit, seconds | steps of 64 | parameters |\n|---|---:|---:|---:|---:|",
            *rows,
            f"\n- Uniform codes: {SIDE**2 * math.log(NUM_CODES):.2f} nats. {where}.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of MNIST's IDX files")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--root", type=Path, default=Path("runs/bench/codes"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="a file for the section of docs/RESULTS.md")
    parser.add_argument("--work", choices=PRIORS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.seconds)
        return 0
    if options.data is None:
        parser.error("give --data DIR")
    with tempfile.TemporaryDirectory(prefix="expost-equal-") as folder:
        prepare(SIDE, options.data, options.root, Path(folder))
        reached = together(options.seconds, Path(folder))
    words = section(reached, machine())
    print(words)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(words + "\n", encoding="utf-8")
    return 0 if reached["transformer"]["nats"] < reached["pixelcnn"]["nats"] else 1


if __name__ == "__main__":
    sys.exit(main())
