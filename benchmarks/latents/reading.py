"""Latents that somebody else has encoded, larger than memory: read, checked, split and copied into a store.

    python -m benchmarks.latents.reading [--num 5000000] [--folder DIR] [--kinds npy,safetensors] [--shards 50]

Writes posteriors of 64 dimensions, `loc` and `log_std` in float32 with labels (2.6 GB for five million), as shards, and
in a new process for each kind of file does what `data=latents` and its stage `latents` do: `Latents.load` and
`LatentDataset.save` of all three splits. Everything is removed again.

- anonymous: the largest RssAnon of the process, sampled every 10 ms: what must be there.
- peak: VmHWM; it counts pages of mapped files, which the kernel drops when somebody else wants the memory.
- load, save: seconds; MB of parameters a second.

Exits with 1 when a kind takes 1 GiB of anonymous memory or more.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.latents.fitting import DIMS, LIMIT_MIB, watched

CLASSES = 20
HEAD = f"{'':14}{'anonymous':>11}{'peak':>10}{'load':>9}{'save':>9}{'load MB/s':>11}"


def write(folder: Path, kind: str, num: int, shards: int) -> None:
    """Shards of posteriors, so many rows at a time that memory stays small."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    bounds = np.linspace(0, num, shards + 1).astype(int)
    for shard, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        size = stop - start
        loc = rng.standard_normal((size, DIMS), np.float32)
        arrays = {"loc": loc, "log_std": 0.1 * loc[:, ::-1] - 1, "label": np.arange(start, stop) % CLASSES}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        if kind == "npy":
            for name, array in arrays.items():
                np.save(folder / f"{name}_{shard:05d}.npy", array)
        elif kind == "npz":
            np.savez(folder / f"latents_{shard:05d}.npz", **arrays)  # type: ignore[arg-type]
        else:
            save_file(arrays, folder / f"latents_{shard:05d}.safetensors")


def measure(folder: Path, out: Path) -> dict[str, Any]:
    """Load and save, measured; runs in a process of its own."""
    with watched() as peak:
        from stage1_vae.data.latents.source import Latents

        started = time.perf_counter()
        data = Latents(str(folder)).load()
        loaded = time.perf_counter()
        for split, latents in data.splits.items():
            (out / split).mkdir(parents=True)
            latents.save(out / split)
        saved = time.perf_counter()
    rows = sum(len(latents) for latents in data.splits.values())
    return {**peak, "load": loaded - started, "save": saved - loaded, "rows": rows}


def measured(folder: Path, out: Path) -> dict[str, Any]:
    """`measure` in a new process.

    Raises:
        SystemExit: it failed.
    """
    words = [sys.executable, "-m", "benchmarks.latents.reading", "--only", str(folder), "--folder", str(out)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"reading {folder} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are written for a while")
    parser.add_argument("--kinds", default="npy,npz,safetensors")
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.folder)))
        return 0
    size = options.num * DIMS * 8 / 1e6
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options.num:,} posteriors of {DIMS} dimensions,")
    print(f"{size / 1e3:.2f} GB of parameters in {options.shards} shards")
    print(HEAD, flush=True)
    largest = 0.0
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory(prefix="expost-latents-", dir=options.folder) as place:
            folder = Path(place) / "files"
            folder.mkdir()
            write(folder, kind, options.num, options.shards)
            row = measured(folder, Path(place) / "store")
        if row["rows"] != options.num:
            raise SystemExit(f"{row['rows']:,} of {options.num:,} rows were read")
        memory = f"{row['anonymous']:7.0f} MiB{row['resident']:6.0f} MiB"
        print(f"{kind:14}{memory}{row['load']:7.1f} s{row['save']:7.1f} s{size / row['load']:11.0f}", flush=True)
        largest = max(largest, row["anonymous"])
    print(f"largest anonymous memory {largest:.0f} MiB, limit {LIMIT_MIB} MiB")
    return 0 if largest < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
