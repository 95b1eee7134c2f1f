#!/usr/bin/env bash
# prdc 0.2: a set of images held against itself scores 0 in precision, recall, density and coverage where they repeat.
#
# The radius of an image is the distance to its nearest_k-th neighbour in its own set, and a point counts inside only
# where it is nearer than that. An image that occurs more than nearest_k times has radius 0, and not even its copy is
# nearer than 0. 300 different rows against themselves score 1 in all four; 30 rows, ten times each, score 0; 150
# different rows and one that occurs 150 times score one half.
#
# Why it matters: blank frames, sprites, padded spectrograms and vectors of a codebook repeat. A perfect copy is scored
# as a failure, and a share of repeated images puts an unseen ceiling on every figure.
#
# Seen (16 features, nearest_k=5; precision, recall, density, coverage):
#   300 different rows           1.0 1.0 1.0 1.0
#   30 rows, ten times each      0.0 0.0 0.0 0.0
#   150 different, one 150 times 0.5 0.5 0.5 0.5
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'prdc==0.2' 'numpy==2.4.6' 'scikit-learn==1.9.1'
venv/bin/python - <<'END'
import contextlib
import io
import sys
from importlib.metadata import version

import numpy as np
from prdc import compute_prdc

print("prdc", version("prdc"), "scikit-learn", version("scikit-learn"), "numpy", np.__version__)
draws = np.random.default_rng(0).normal(size=(300, 16))
repeated = np.concatenate([draws[:150], np.repeat(draws[150:151], 150, axis=0)])
sets = {"different": draws, "ten times each": np.repeat(draws[:30], 10, axis=0), "half repeated": repeated}
found = {}
for name, rows in sets.items():
    with contextlib.redirect_stdout(io.StringIO()):
        figures = compute_prdc(rows, rows.copy(), nearest_k=5)
    found[name] = [round(float(figures[key]), 2) for key in ("precision", "recall", "density", "coverage")]
    print(f"  {name}: expected [1.0, 1.0, 1.0, 1.0], seen {found[name]}")
expected = {"different": 1.0, "ten times each": 0.0, "half repeated": 0.5}
sys.exit(0 if all(np.allclose(found[name], value, atol=0.03) for name, value in expected.items()) else 1)
END
