#!/usr/bin/env bash
# scipy 1.17.1: scipy.linalg.sqrtm of a plain number, or of an array without axes, is its exponential.
#
# sqrtm(4.0) is [[54.6]], which is e to the power of 4; sqrtm([[4.0]]) is [[2.0]]. Nothing is raised, and logm,
# fractional_matrix_power and signm refuse the same number.
#
# Why it matters: numpy.cov of a single feature has no axes, so the Frechet distance of one-dimensional features or
# latents, written with the usual product of covariances under sqrtm, is wrong without a word: of a column of variance 1
# to itself it should be 0 and is 2 - 2e.
#
# Seen:
#   sqrtm(4.0) 54.598, sqrtm(array(4.0)) 54.598, sqrtm([[4.0]]) 2.0
#   Frechet distance of a column of variance 1 to itself: -3.4366
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'numpy==2.4.6' 'scipy==1.17.1'
venv/bin/python - <<'END'
import math
import sys

import numpy as np
import scipy
from scipy.linalg import fractional_matrix_power, logm, signm, sqrtm

print("numpy", np.__version__, "scipy", scipy.__version__)
number, bare, matrix = (float(sqrtm(value).squeeze()) for value in (4.0, np.array(4.0), np.array([[4.0]])))
print(f"  sqrtm(4.0), sqrtm(array(4.0)), sqrtm([[4.0]]): expected 2, 2, 2, seen {number}, {bare}, {matrix}")
column = np.array([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(3 / 4)  # of variance 1
variance = np.cov(column)
distance = float((variance + variance - 2 * sqrtm(variance * variance)).squeeze())
print(f"  Frechet distance of a column to itself: expected 0, seen {distance}")
refused = 0
for other in (logm, signm, lambda value: fractional_matrix_power(value, 0.5)):
    try:
        other(4.0)
    except ValueError:
        refused += 1
print(f"  logm, signm and fractional_matrix_power: {refused} of 3 refuse a number")
seen = np.array([number, bare, matrix, distance])
expected = np.array([math.exp(4), math.exp(4), 2, 2 - 2 * math.e])
sys.exit(0 if np.allclose(seen, expected) and refused == 3 else 1)
END
