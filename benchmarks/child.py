"""Runs a command as a user would and measures the whole of it: wall seconds and peak memory.

Only the standard library: Linux counts the memory of the process that starts a command into the command's own peak, so
a benchmark that uses this must not import torch.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""Those of `stage1_vae.machine`, which imports torch."""


@dataclass(frozen=True)
class Measured:
    """One finished command.

    Attributes:
        seconds: wall time, start of the interpreter included.
        peak_gib: largest resident memory of the command or of any process that it waited for.
        output: what it printed.
        cpu_seconds: that all of its processes computed, in user and system mode: what a busy machine leaves alone.
    """

    seconds: float
    peak_gib: float
    output: str
    cpu_seconds: float

    def artifact(self, stage: str) -> Path:
        """The folder of what a pipeline's `stage` has made, or found in the store."""
        *_, path = re.findall(rf"^{stage} .*: (.+)$", self.output, re.MULTILINE)
        return Path(path)


def pipeline(*words: str, checkout: Path = HERE) -> Measured:
    """`python pipeline.py WORDS` of `checkout`, with W&B offline.

    Raises:
        SystemExit: the command failed; with what it said.
    """
    command = [sys.executable, str(checkout / "pipeline.py"), *words]
    return measured(command, os.environ | {"WANDB_MODE": "offline", "PYTHONPATH": str(checkout)})


def measured(command: list[str], environment: Mapping[str, str]) -> Measured:
    """Any command.

    Raises:
        SystemExit: the command failed; with what it said.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return Measured(seconds, usage.ru_maxrss / 2**20, said, usage.ru_utime + usage.ru_stime)


def machine() -> str:
    """Where this was measured, whether its processor has instructions for bfloat16, and how busy it was."""
    flags = CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
    half = "with" if any(flag in flags for flag in BF16_FLAGS) else "without"
    return f"{os.cpu_count()} cores {half} instructions for bfloat16, load {os.getloadavg()[0]:.1f}"
