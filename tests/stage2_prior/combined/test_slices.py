"""Fits that stand still leave the processors to the one that runs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEAMS = """
import os, sys, time
import torch
from without_lightning import RUN
from stage2_prior.combined.slices import SlicedFit

def threads():
    return len(os.listdir("/proc/self/task"))

def fit(lent):
    for epoch in range(3):
        numbers.exp()  # by a team
        most.append(threads())
        lent.log({}, epoch)

def alone():
    for _ in range(100):  # ended threads take a moment to be gone
        if threads() == at_first + 2:
            break
        time.sleep(0.1)
    return threads() - at_first

at_first, most = threads(), []
numbers = torch.zeros(2**22).exp()
fits = [SlicedFit(fit, RUN) for _ in range(2)]
for each in fits:
    each.advance(0.0)
print(alone(), max(most) - at_first - (torch.get_num_threads() - 1))
for each in fits:
    each.drop()
"""


def test_a_fit_that_stands_still_keeps_no_team_of_openmp() -> None:
    """Two fits have a thread each, and one that runs has its team; the thread that waits for it has none."""
    done = subprocess.run(
        [sys.executable, "-c", TEAMS],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout.split()) == (0, ["2", "2"]), done.stderr
