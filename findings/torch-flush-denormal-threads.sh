#!/usr/bin/env bash
# torch 2.13.0 (CPU): set_flush_denormal(True) holds for the thread that calls it. The OpenMP threads that torch computes
# with keep what they began with, so of one operation a part of the numbers is flushed and the rest is not.
#
# The call returns True. Threads of a team inherit the mode of the thread that starts them: set before anything has
# computed in parallel, it holds everywhere; set later, which is any place behind the first larger operation, it holds
# for 1/n of each operation on n threads. Computing on one thread, or starting the team anew (omp_pause_resource_all),
# shows the difference.
#
# Why it matters: training makes denormal numbers. Adam's running mean of a weight whose gradient is exactly zero from
# some step on (dead units, pixels that are always black) falls by a tenth a step, is denormal after some 800 steps and
# then does not reach zero: 0.9 times four times the least number there is rounds to the same again. Every later step computes
# with it, and a product with such a matrix is a hundred times slower.
#
# Seen, two threads (share of 1,000,000 numbers of 1e-39 whose half is not zero; and of Adam's mean):
#   before the call                 1.00
#   after it                        0.50
#   after it, one thread            0.00
#   Adam, gradient 1 once, then 0 for 3,000 steps: running mean 5.6e-45, four times the least number
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH OMP_NUM_THREADS
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6'
venv/bin/python - <<'END'
import sys

import torch

print("torch", torch.__version__)
torch.set_num_threads(2)
numbers = torch.full((1_000_000,), 1e-39)


def left() -> float:
    return float(((numbers * 0.5) != 0).float().mean())


weight = torch.nn.Parameter(torch.zeros(1))
adam = torch.optim.Adam([weight], fused=True)
for step in range(3_000):
    weight.grad = torch.full((1,), float(step == 0))
    adam.step()
mean = float(adam.state[weight]["exp_avg"])

before = left()
can = torch.set_flush_denormal(True)
after = left()
torch.set_num_threads(1)
alone = left()
print(f"  the call: {can}; left before {before:.2f}, after {after:.2f}, on one thread {alone:.2f}; Adam's mean {mean:g}")
sys.exit(not (can and before == 1 and 0.4 < after < 0.6 and alone == 0 and 0 < mean < 1e-44))
END
