#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0: codes of two residual quantisers are decoded to other vectors than they stand for.
#
# ResidualFSQ with orthogonal_rotation=True and ResidualLFQ with spherical=True hand both options on to their levels,
# which turn or normalise what they return; get_output_from_indices reads the levels' plain codebooks, neither turned
# nor normalised. Its output has the right shape and type and is further from the quantised vectors than their mean is.
# Without the options, and for a single FSQ or LFQ with them, codes and vectors agree to the bit.
#
# Why it matters: codes are what a prior over a VQ-VAE is fitted to and what is kept on disk. Reconstructions, which
# never pass through codes, look right, and every generated image is wrong. Comparing get_output_from_indices with the
# first output of the same forward call finds it.
#
# Seen (squared error of the vectors decoded from codes, as a share of the variance of the quantised vectors):
#   FSQ, orthogonal_rotation           0.00
#   LFQ, spherical                     0.00
#   ResidualFSQ                        0.00
#   ResidualFSQ, orthogonal_rotation   4.64
#   ResidualLFQ                        0.00
#   ResidualLFQ, spherical             3.35
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6' 'vector-quantize-pytorch==1.32.0'
venv/bin/python - <<'END'
import sys
from importlib.metadata import version

import torch
from vector_quantize_pytorch import FSQ, LFQ, ResidualFSQ, ResidualLFQ

print("vector-quantize-pytorch", version("vector-quantize-pytorch"), "torch", torch.__version__)
torch.manual_seed(0)
x = torch.randn(64, 16, 8)
finite, free = {"dim": 8, "levels": [5, 5, 5]}, {"dim": 8, "codebook_size": 256}
cases = {
    "FSQ, orthogonal_rotation": (FSQ(**finite, orthogonal_rotation=True), True),
    "LFQ, spherical": (LFQ(**free, spherical=True), True),
    "ResidualFSQ": (ResidualFSQ(**finite, num_quantizers=3), True),
    "ResidualFSQ, orthogonal_rotation": (
        ResidualFSQ(**finite, num_quantizers=3, orthogonal_rotation=True),
        False,
    ),
    "ResidualLFQ": (ResidualLFQ(**free, num_quantizers=3), True),
    "ResidualLFQ, spherical": (ResidualLFQ(**free, num_quantizers=3, spherical=True), False),
}
changed = 0
for name, (quantizer, agrees) in cases.items():
    with torch.no_grad():
        vectors, codes, *_ = quantizer.eval()(x)
        decode = getattr(quantizer, "get_output_from_indices", None) or quantizer.indices_to_codes
        error = (decode(codes) - vectors).square().sum()
    share = float(error / (vectors - vectors.mean((0, 1))).square().sum())
    print(f"  {name}: expected 0.00, seen {share:.2f}")
    changed |= (share < 1e-9) != agrees
sys.exit(changed)
END
