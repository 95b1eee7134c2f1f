"""Fits that stand still leave the processors to the one that runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
TEAMS = """
import os, sys, time
import torch
from without_lightning import RUN
from stage2_prior.combined.slices import SlicedFit

def threads():
    return len(os.listdir("/proc/self/task"))

def gone_but(num):
    for _ in range(100):  # ended threads take a moment to be gone
        if threads() - at_first == num:
            break
        time.sleep(0.1)
    return threads() - at_first

def fit(lent):
    for epoch in range(3):
        numbers.exp()  # by a team
        running.append(gone_but(3))
        lent.log({}, epoch)

at_first, running = threads(), []
numbers = torch.zeros(2**22).exp()
fits = [SlicedFit(fit, RUN) for _ in range(2)]
for each in fits:
    each.advance(0.0)
print(*running, gone_but(2))
for each in fits:
    each.drop()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads of a process are counted in /proc")
@pytest.mark.skipif("GCC" not in torch.__config__.show(), reason="another OpenMP may only let threads sleep")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor has no team")
def test_a_fit_that_stands_still_keeps_no_team_of_openmp() -> None:
    """Two fits have a thread each, and one that runs has its team; the thread that waits for it has none."""
    done = subprocess.run(
        [sys.executable, "-c", TEAMS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout.split()) == (0, ["3", "3", "2"]), done.stderr
