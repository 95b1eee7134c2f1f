"""Whether `stage=plan` tells the truth: its plan for a folder of images beside a real run with the same settings.

    python -m benchmarks.plan --data DIR [OVERRIDE ...]

Plans, runs each stage in a process of its own, and plans again: times are compared with the mean of both plans, for a
machine is not as busy throughout. Disk is what the store holds, memory the peak of the process, time what the stage
says of itself. Exits with 1 where disk or memory is off by more than 25 %, or time by more than 1.5 times.
"""

import argparse
import json
import math
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import Measured, machine, pipeline

SETTINGS = [
    "data=image_folder",
    "net=conv",
    "net.channels=[16,32,64]",
    "vae.bottleneck.latent_dim=64",
    "trainer.max_steps=null",
    "trainer.max_epochs=2",
    "trainer.val_every=1",
    "prior=mixture",
    "prior.num_components=20",
    "prior.max_iter=30",
    "prior.tol=0",
    "evaluation.num_bound_images=1000",
    "evaluation.importance_samples=16",
    "logger=csv",
]
STAGES = {"vae": ["vae"], "encode": ["latents"], "prior": ["prior"], "evaluate": ["features", "evaluation"]}
"""Stage -> what it puts into the store."""
NAMES = {"latents": "encode", "evaluation": "evaluate"}
TOLERANCES = {"disk, MiB": 1.25, "memory, MiB": 1.25, "seconds": 1.5}
MIB = 2**20


def planned(words: list[str], root: Path) -> dict[str, Any]:
    out = root / "plan.json"
    run = pipeline("stage=plan", f"plan.out={out}", f"paths.root={root / 'planned'}", *words)
    print(run.output)
    return json.loads(out.read_text(encoding="utf-8"))


def stage_seconds(run: Measured, folder: str) -> float:
    found = re.search(rf"^{folder} +done in ([0-9.]+) s", run.output, re.MULTILINE)
    if found is None:
        raise SystemExit(f"no {folder} was made:\n{run.output}")
    return float(found.group(1))


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parts_of(cost: dict[str, Any], folder: Path) -> dict[str, tuple[float, float]]:
    """Part of a stage -> seconds planned and real, where it writes them down and they matter."""
    if not cost["parts"]:
        return {}
    real = json.loads(next(folder.glob("*/figures.json")).read_text(encoding="utf-8"))["seconds"]
    return {part: (seconds, real[part]) for part, seconds in cost["parts"].items() if max(seconds, real[part]) > 1}


def mean_of(one: Any, other: Any) -> Any:
    """Two plans as one: numbers in the middle."""
    if isinstance(one, dict):
        return {key: mean_of(value, other[key]) for key, value in one.items()}
    return (one + other) / 2 if isinstance(one, int | float) and not isinstance(one, bool) else one


def measured(words: list[str], root: Path) -> dict[str, Measured]:
    return {stage: pipeline(f"stage={stage}", "upstream=require", f"paths.root={root}", *words) for stage in STAGES}


def rows_of(plan: dict[str, Any], real: dict[str, Measured], root: Path) -> list[tuple[str, str, float, float]]:
    """Stage, quantity, planned, real."""
    rows: list[tuple[str, str, float, float]] = []
    for stage, folders in STAGES.items():
        run = real[stage]
        for folder in folders:
            cost = plan[NAMES.get(folder, folder)]
            rows.append((folder, "disk, MiB", cost["disk_bytes"] / MIB, disk_bytes(root / "store" / folder) / MIB))
            rows.append((folder, "seconds", cost["seconds"], stage_seconds(run, folder)))
            rows += [(folder, f"  {part}, s", *pair) for part, pair in parts_of(cost, root / "store" / folder).items()]
        memory = max(plan[NAMES.get(folder, folder)]["memory_bytes"] for folder in folders)
        rows.append((stage, "memory, MiB", memory / MIB, run.peak_gib * 1024))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("overrides", nargs="*", help="more words for pipeline.py")
    options = parser.parse_args()
    words = [*SETTINGS, f"data.root={Path(options.data).absolute()}", *options.overrides]
    print(f"before: {machine()}")
    with tempfile.TemporaryDirectory(prefix="plan-of-expost-") as folder:
        plans = [planned(words, Path(folder))["stages"]]
        print(f"between: {machine()}")
        real = measured(words, Path(folder))
        print(f"between: {machine()}")
        plans.append(planned(words, Path(folder))["stages"])
        rows = rows_of(mean_of(*plans), real, Path(folder))
    print(f"after: {machine()}")
    print(f"{'':12}{'':28}{'planned':>12}{'real':>12}{'ratio':>9}")
    missed = 0
    for stage, what, expected, found in rows:
        ratio = expected / found
        tolerance = TOLERANCES.get(what, math.inf)  # parts of a stage are only shown
        holds = 1 / tolerance <= ratio <= tolerance
        missed += not holds
        print(f"{stage:12}{what:28}{expected:12.2f}{found:12.2f}{ratio:9.2f}  {'' if holds else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
