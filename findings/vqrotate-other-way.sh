#!/usr/bin/env bash
# vqrotate 0.3.0: the gradient of the rotation trick is turned the wrong way round.
#
# The trick writes the quantised vector q as a fixed rotation and scaling of the encoder's output e, q = s R e; the
# gradient that reaches e is then s R^T g, and keeps its angle: what points along q arrives pointing along e.
# attach_rotator and RotationQuantization give s R g. Length and forward value are right, so the loss runs and the
# sizes of gradients look right; only directions are off, by twice the rotation, the more the worse the codebook fits.
# Autograd through s R e is the reference here.
#
# Why it matters: an encoder is pulled away from where its decoder wants it while the codebook is poor, early in
# training; the trick is said to help and seems to hurt. vector-quantize-pytorch 1.32.0, whose quantisers have the
# trick themselves (rotation_trick=True), turns the gradient rightly.
#
# Seen (mean over 1,000 pairs in 8 dimensions, e and q apart by 60 degrees):
#   autograd: length 1.00 of the reference, cosine with it 1.00, change of the angle's cosine 0.00
#   vector-quantize-pytorch: the same
#   vqrotate: length 1.00 of the reference, cosine with it 0.62, change of the angle's cosine 0.52
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
"${PYTHON:-python3}" -m venv venv
install() { venv/bin/python -m pip install -qq --disable-pip-version-check "$@" || exit 2; }
install 'torch==2.13.0' 'numpy==2.4.6' 'vector-quantize-pytorch==1.32.0'
install --no-deps 'vqrotate==0.3.0'
venv/bin/python - <<'END'
import math
import sys
from importlib.metadata import version

import torch
from torch.nn.functional import cosine_similarity, normalize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to
from vqrotate import RotationQuantization

print("vqrotate", version("vqrotate"), "torch", torch.__version__)
torch.manual_seed(0)
e = torch.randn(1000, 8, dtype=torch.float64)
across = torch.randn_like(e)
across = normalize(across - (across * normalize(e)).sum(1, keepdim=True) * normalize(e))
q = 2 * (math.cos(math.pi / 3) * normalize(e) + math.sin(math.pi / 3) * across)
g = torch.randn_like(e)
e.requires_grad_()


def by_autograd(e, q):
    """s R e with R and s held fixed, by its two reflections."""
    a, b = normalize(e).detach(), normalize(q)
    w = normalize(a + b)
    turned = e - 2 * w * (w * e).sum(1, keepdim=True) + 2 * b * (a * e).sum(1, keepdim=True)
    return turned * (q.norm(dim=1, keepdim=True) / e.norm(dim=1, keepdim=True)).detach()


def by_vqrotate(e, q):
    return RotationQuantization.apply(e, q, "rotation", False, 1e-8)


reference = torch.autograd.grad(by_autograd(e, q), e, g)[0]
methods = {"autograd": by_autograd, "vector-quantize-pytorch": rotate_to, "vqrotate": by_vqrotate}
changed = 0
for name, quantise in methods.items():
    output = quantise(e, q)
    gradient = torch.autograd.grad(output, e, g)[0]
    kept = (cosine_similarity(gradient, e) - cosine_similarity(g, q)).abs().mean()
    length = (gradient.norm(dim=1) / reference.norm(dim=1)).mean()
    cosine = cosine_similarity(gradient, reference).mean()
    exact = bool(torch.allclose(output, q))
    print(f"  {name}: forward is q {exact}, length {length:.2f} of the reference, cosine with it {cosine:.2f} (expected"
          f" 1.00), change of the angle's cosine {kept:.2f} (expected 0.00)")
    changed |= not exact or abs(length - 1) > 1e-6 or (cosine > 0.999) != (name != "vqrotate")
sys.exit(int(changed))
END
