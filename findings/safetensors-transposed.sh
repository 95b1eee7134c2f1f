#!/usr/bin/env bash
# safetensors 0.8.0: save_file of safetensors.numpy writes the memory of an array and the shape of its view.
#
# A transposed array, one in Fortran order and one of every second column are saved without a word and come back with
# the right shape and type and other numbers. Version 0.7.0 wrote all three rightly.
#
# Why it matters: channels are moved by transposing, so images or latents saved channels first are shuffled, and shapes,
# ranges and histograms look right. numpy.ascontiguousarray before saving avoids it.
#
# Seen:
#   0.7.0: transposed [[0, 3], [1, 4], [2, 5]], fortran [[0, 1, 2], [3, 4, 5]], columns [[0, 2], [3, 5]]
#   0.8.0: transposed [[0, 1], [2, 3], [4, 5]], fortran [[0, 3, 1], [4, 2, 5]], columns [[0, 1], [2, 3]]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'numpy==2.4.6' 'safetensors==0.8.0'
cat >check.py <<'END'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

given = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {"transposed": given.T, "fortran": np.asfortranarray(given), "columns": given[:, ::2]}
save_file(views, "views.safetensors")
found = load_file("views.safetensors")
print("numpy", np.__version__, "safetensors", safetensors.__version__)
for name, view in views.items():
    print(f"  {name}: expected {view.tolist()}, seen {found[name].tolist()}")
shapes = all(found[name].shape == view.shape for name, view in views.items())
right = [np.array_equal(found[name], view) for name, view in views.items()]
expected = {"0.7.0": [True] * 3, "0.8.0": [False] * 3}[safetensors.__version__]
sys.exit(0 if shapes and right == expected else 1)
END
venv/bin/python check.py
install 'safetensors==0.7.0'
venv/bin/python check.py
