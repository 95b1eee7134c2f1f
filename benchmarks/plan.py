"""Whether `stage=plan` tells the truth: its plan for a folder of images beside a real run with the same settings.

    python benchmarks/plan.py --data DIR [OVERRIDE ...]

Plans, then runs each stage in a process of its own. Disk is what the store holds, memory the peak of the process,
time what the stage says of itself. Exits with 1 where disk or memory is off by more than 25 %, or time by more than
1.5 times.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from child import Measured, machine, pipeline

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
    said = pipeline("stage=plan", f"plan.out={out}", f"paths.root={root / 'planned'}", *words)
    print(said.output)
    return json.loads(out.read_text())


def stage_seconds(run: Measured, folder: str) -> float:
    found = re.search(rf"^{folder} +done in ([0-9.]+) s", run.output, re.MULTILINE)
    if found is None:
        raise SystemExit(f"no {folder} was made:\n{run.output}")
    return float(found.group(1))


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def rows_of(plan: dict[str, Any], words: list[str], root: Path) -> list[tuple[str, str, float, float]]:
    """Stage, quantity, planned, real."""
    rows = []
    for stage, folders in STAGES.items():
        run = pipeline(f"stage={stage}", "upstream=require", f"paths.root={root}", *words)
        for folder in folders:
            told = plan["stages"][NAMES.get(folder, folder)]
            rows.append((folder, "disk, MiB", told["disk_bytes"] / MIB, disk_bytes(root / "store" / folder) / MIB))
            rows.append((folder, "seconds", told["seconds"], stage_seconds(run, folder)))
        memory = max(plan["stages"][NAMES.get(folder, folder)]["memory_bytes"] for folder in folders)
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
        plan = planned(words, Path(folder))
        print(f"between: {machine()}")
        rows = rows_of(plan, words, Path(folder))
    print(f"after: {machine()}")
    print(f"{'':12}{'':14}{'planned':>12}{'real':>12}{'ratio':>9}")
    missed = 0
    for stage, what, expected, real in rows:
        ratio = expected / real
        holds = 1 / TOLERANCES[what] <= ratio <= TOLERANCES[what]
        missed += not holds
        print(f"{stage:12}{what:14}{expected:12.2f}{real:12.2f}{ratio:9.2f}  {'' if holds else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
